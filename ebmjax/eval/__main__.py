r"""Evaluates a run that is there, or compares several.

python -m ebmjax.eval --workdir=runs/jem_digits
python -m ebmjax.eval --workdir=runs/jem_digits --parts=calibration,ood \
    --eval.ood.sets="('svhn_cropped', 'interpolation')"
python -m ebmjax.eval --compare runs/classifier runs/jem --workdir=runs/compared
"""

import sys

from absl import app, flags
from ml_collections import config_flags

from ebmjax import cli, config

_WORKDIR = flags.DEFINE_string("workdir", None, "the run directory")
_PARTS = flags.DEFINE_list("parts", None, "which parts; all if not given")
_EVAL = config_flags.DEFINE_config_dict("eval", config.default().eval)
_COMPARE = flags.DEFINE_bool(
    "compare", False, "compare the evaluated runs that follow; --workdir is new"
)


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

    from ebmjax import parallel, runs

    c = runs.read_config(_WORKDIR.value)
    for key, value in config_flags.get_override_values(flags.FLAGS["eval"]).items():
        config.assign(c, f"eval.{key}", value)
    config.check(c)
    parallel.start(cpu_devices=c.parallel.cpu_devices)
    cli.set_up_jax()

    from ebmjax.eval import run as evaluation

    results = evaluation.evaluate(
        runs.at(_WORKDIR.value, c),
        parts=_PARTS.value or tuple(evaluation.PARTS),
        progress=sys.stderr.isatty(),
    )
    print(evaluation.table(results))
    print(f"all of it is in {_WORKDIR.value}")
    sys.exit(1 if evaluation.failed(results) else 0)


if __name__ == "__main__":
    app.run(cli.one_sentence(main), flags_parser=cli.parse)
