"""Writes a trained run as files for others.

python -m ebmjax.export --workdir=RUN --to=FOLDER/            for ebmjax.load
python -m ebmjax.export --workdir=RUN --to=FILE.jaxexport     for jax alone
python -m ebmjax.export --workdir=RUN --to=FILE.safetensors   the weights alone

RUN is a run directory, a folder that was written so, ebmjax://NAME or hf://USER/NAME.
"""

from absl import app, flags

from ebmjax import cli

_WORKDIR = flags.DEFINE_string("workdir", None, "the run")
_TO = flags.DEFINE_string("to", None, "FOLDER/, FILE.jaxexport or FILE.safetensors")
_CHECKPOINT = flags.DEFINE_string(
    "checkpoint", None, "last, best or a step; config.eval.checkpoint if not given"
)
_EMA = flags.DEFINE_bool(
    "ema", None, "the averaged parameters; config.eval.ema if not given"
)
_CHAINS = flags.DEFINE_integer(
    "chains", 400, "FOLDER/: samples of the replay buffer, at most", lower_bound=0
)
_NOTE = flags.DEFINE_string("note", "", "FOLDER/: a remark for the model card")
_ADDRESS = flags.DEFINE_string(
    "address", None, "FOLDER/: what the model card tells to load; FOLDER if not given"
)
_DATA_DIR = flags.DEFINE_string("data_dir", None, "where the data lie now")
_CONFIG = flags.DEFINE_string(
    "config", None, "the config file of a run that was trained with its get_recipe(c)"
)


def main(argv):
    if argv[1:]:
        raise ValueError(cli.unexpected(argv[1]))
    if not _WORKDIR.value or not _TO.value:
        raise ValueError("usage: python -m ebmjax.export --workdir=RUN --to=FOLDER/")
    from ebmjax import export

    options = {
        "num_chains": _CHAINS.value,
        "note": _NOTE.value,
        "address": _ADDRESS.value,
    }
    export.save(load(), _TO.value, **options)
    cli.echo(f"{_WORKDIR.value} written to {_TO.value}")


def load():
    """The run that the flags name."""
    cli.set_up_jax()
    which = _CHECKPOINT.value
    return cli.load_run(
        _WORKDIR.value,
        data_dir=_DATA_DIR.value,
        config=_CONFIG.value,
        checkpoint=int(which) if which and which.isdigit() else which,
        ema=_EMA.value,
    )


if __name__ == "__main__":
    app.run(cli.report_errors(main), flags_parser=cli.parse)
