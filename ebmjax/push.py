"""Uploads a trained run to the Hugging Face Hub, as a folder of `ebmjax.export`.

python -m ebmjax.push --workdir=RUN --to=USER/NAME

Anyone loads it by ebmjax.load("hf://USER/NAME"). Log in first: hf auth login. A folder
that `ebmjax.export` wrote is uploaded as it is, with your changes of its model card.
"""

import contextlib
import tempfile

from absl import app, flags

from ebmjax import cli

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

    hub.check_repository(_TO.value)
    hub.client()  # what is missing is said before anything is done
    with _folder() as folder:
        address = hub.push(folder, _TO.value, private=_PRIVATE.value)
    cli.echo(f'pushed; load it by ebmjax.load("{address}")')


@contextlib.contextmanager
def _folder():
    """The portable folder to upload: --workdir itself, or a temporary one."""
    from ebmjax import export, portable, rundir, runs

    if portable.is_portable(_WORKDIR.value):
        yield _WORKDIR.value
        return
    cli.set_up_jax()
    c = rundir.read_config(_WORKDIR.value)
    if _DATA_DIR.value:
        c.data.data_dir = str(rundir.expand(_DATA_DIR.value))
    recipe = cli.recipe_of(_CONFIG.value, c) if _CONFIG.value else None
    run = runs.load_with_config(_WORKDIR.value, c, recipe=recipe)
    with tempfile.TemporaryDirectory() as folder:
        export.to_folder(run, folder, address=f"hf://{_TO.value}", note=_NOTE.value)
        yield folder


if __name__ == "__main__":
    app.run(cli.report_errors(main), flags_parser=cli.parse)
