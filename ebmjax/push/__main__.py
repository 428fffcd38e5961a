"""Uploads a trained run to the Hugging Face Hub, as a folder of `ebmjax.export`.

python -m ebmjax.push --workdir=RUN --to=USER/NAME

Anyone loads it by ebmjax.load("hf://USER/NAME"). Log in first: hf auth login. A folder
that `ebmjax.export` wrote is uploaded as it is, with your changes of its model card.
"""

from absl import app, flags

from ebmjax import cli
from ebmjax.push import portable_folder

_WORKDIR = flags.DEFINE_string("workdir", None, "a run directory or exported folder")
_TO = flags.DEFINE_string("to", None, "the repository, USER/NAME")
_PRIVATE = flags.DEFINE_bool("private", False, "if the repository has to be created")
_NOTE = flags.DEFINE_string("note", "", "of a run: a remark for the model card")
_DATA_DIR = flags.DEFINE_string("data_dir", None, "of a run: where the data lie now")
_CONFIG = flags.DEFINE_string(
    "config", None, "the config file of a run that was trained with its get_recipe(c)"
)


def main(argv):
    if argv[1:]:
        raise ValueError(cli.unexpected(argv[1]))
    if not _WORKDIR.value or not _TO.value:
        raise ValueError("usage: python -m ebmjax.push --workdir=RUN --to=USER/NAME")
    from ebmjax import hub

    workdir, repository = _WORKDIR.value, _TO.value
    hub.check_repository(repository)
    hub.client()  # what is missing is said before anything is done
    cli.set_up_jax()
    options = dict(note=_NOTE.value, data_dir=_DATA_DIR.value, config=_CONFIG.value)
    with portable_folder(workdir, repository, **options) as folder:
        address = hub.push(folder, repository, private=_PRIVATE.value)
    cli.echo(f'pushed; load it by ebmjax.load("{address}")')


if __name__ == "__main__":
    app.run(cli.report_errors(main), flags_parser=cli.parse)
