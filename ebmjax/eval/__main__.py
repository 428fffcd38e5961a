r"""Evaluates a run that is there, or compares several.

python -m ebmjax.eval --workdir=runs/jem_digits
python -m ebmjax.eval --workdir=runs/jem_digits --parts=calibration,ood \
    --eval.ood.sets=svhn_cropped,interpolation
python -m ebmjax.eval --compare runs/classifier runs/jem --workdir=runs/compared
"""

import sys

from absl import app, flags
from ml_collections import config_flags

from ebmjax import cli, config

_WORKDIR = flags.DEFINE_string("workdir", None, "the run directory")
_PARTS = flags.DEFINE_list("parts", None, "which parts; all if not given")
_COMPARE = flags.DEFINE_bool(
    "compare", False, "compare the evaluated runs that follow; --workdir is new"
)
cli.launch_flags()


def parse(argv):
    """absl's parser. A config's flags are read where they are defined, so that is
    done here, where an error still becomes one sentence."""
    try:
        config_flags.DEFINE_config_dict("eval", config.default().eval)
    except (AttributeError, TypeError, KeyError, *cli.USER_ERRORS) as error:
        inner = error.args[0]  # a KeyError, for a key that does not exist
        told = inner.args[0] if isinstance(inner, KeyError) else inner
        sys.exit(f"error: --eval: {' '.join(str(told).split())}")
    return cli.parse(argv)


def _split(part):
    return tuple(part.split(",")) if isinstance(part, str) else (part,)


def main(argv):
    if _WORKDIR.value is None:
        raise ValueError("--workdir is missing: a run directory")
    if _COMPARE.value:
        from ebmjax.eval import compare

        print(compare.write(argv[1:], _WORKDIR.value))
        print(f"all of it is in {_WORKDIR.value}")
        return
    if len(argv) > 1:
        raise ValueError(f"what is {argv[1]!r}? Flags look like --eval.key=value")

    from ebmjax import rundir, runs

    c = rundir.read_config(_WORKDIR.value)
    for key, value in config_flags.get_override_values(flags.FLAGS["eval"]).items():
        if isinstance(value, tuple):  # a,b,c comes as one string
            value = sum((_split(part) for part in value), ())
        config.assign(c, f"eval.{key}", value)
    config.check(c)
    cli.start(c.parallel)

    from ebmjax import processes
    from ebmjax.eval import run as evaluation

    processes.restore_sigterm()

    results = evaluation.evaluate(
        runs.load_with_config(_WORKDIR.value, c),
        parts=_PARTS.value or tuple(evaluation.PARTS),
        progress=sys.stderr.isatty(),
    )
    if processes.index() == 0:
        print(evaluation.table(results))
        print(f"all of it is in {_WORKDIR.value}")
    sys.exit(1 if evaluation.failed(results) else 0)


if __name__ == "__main__":
    app.run(cli.report_errors(main), flags_parser=parse)
