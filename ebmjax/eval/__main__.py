r"""Evaluates a run, or any classifier by its logits, or compares evaluated runs.

python -m ebmjax.eval --workdir=runs/jem_digits
python -m ebmjax.eval --workdir=runs/jem_digits --tasks=calibration,ood \
    --eval.ood.sets=svhn_cropped,interpolation,./photos
python -m ebmjax.eval --compare runs/classifier runs/jem --workdir=runs/compared
python -m ebmjax.eval --logits=logits.npz --workdir=runs/other

The last file holds logits [N, K] and labels [N] of test examples and, if wanted,
valid_logits and valid_labels for the temperature and ood_NAME [M, K], from any program.
"""

import re
import sys

from absl import app, flags

from ebmjax import cli, config

_WORKDIR = flags.DEFINE_string("workdir", None, "the run directory")
_TASKS = flags.DEFINE_list("tasks", None, "evaluation tasks; all if not given")
_COMPARE = flags.DEFINE_bool(
    "compare", False, "compare the evaluated runs that follow; --workdir is new"
)
_LOGITS = flags.DEFINE_string(
    "logits", None, "an .npz file of a classifier's logits; --workdir is new"
)
_DATA_DIR = flags.DEFINE_string(
    "data_dir", None, "where the data are, if not where they were at training"
)
_CONFIG = flags.DEFINE_string(
    "config", None, "the config file of a run that was trained with its get_recipe(c)"
)
cli.launch_flags()


def parse(argv: list[str]) -> list[str]:
    """As `cli.parse`, where --eval.key=value overrides config.eval.key of the run."""
    return cli.parse([re.sub(r"^--?(no)?eval\.", r"--\1config.eval.", x) for x in argv])


def main(argv):
    overrides = dict(_override(x) for x in argv[1:] if x.startswith("--config."))
    arguments = [x for x in argv[1:] if not x.startswith("--config.")]
    if _WORKDIR.value is None:
        raise ValueError("--workdir is missing: a run directory")
    if _COMPARE.value:
        from ebmjax.eval.report import comparison

        cli.echo(comparison.write(arguments, _WORKDIR.value))
        cli.echo(f"results written to {_WORKDIR.value}")
    elif arguments:
        raise ValueError(cli.unexpected(arguments[0], "eval"))
    else:
        _evaluate(overrides)


def _override(argument):
    """--config.KEY=VALUE, which was --eval... -> key and value."""
    key, text = argument.removeprefix("--config.").split("=", 1)
    if not key.startswith("eval."):
        raise ValueError(cli.unexpected(argument, "eval"))
    return key, config.parse(key, text)


def _evaluate(overrides):
    from ebmjax import hub, rundir

    location = None if _LOGITS.value else hub.locate(_WORKDIR.value)
    c = rundir.read_config(location.folder) if location else config.default()
    if _DATA_DIR.value:
        c.data.data_dir = str(rundir.expand(_DATA_DIR.value))
    for key, value in overrides.items():
        config.assign(c, key, value)
    config.check(c)
    cli.start(c.parallel)

    from ebmjax import processes
    from ebmjax.eval import evaluate as evaluation

    processes.restore_sigterm()
    run, progress = _run(location, c), sys.stderr.isatty()
    every = (*evaluation.TASKS, *(run.tasks or ()))
    tasks = _TASKS.value or overrides.get("eval.tasks") or every
    results = evaluation.evaluate(run, tasks=tasks, progress=progress)
    if processes.index() == 0:
        cli.echo(evaluation.table(results))
        if "not_saved" not in results["run"]:
            cli.echo(f"results written to {run.workdir}")
    sys.exit(1 if evaluation.failures(results, tasks) else 0)


def _run(location, c):
    """The run, with the code that its config file gives again, or what stands in for
    the one of the logits."""
    from ebmjax import runs
    from ebmjax.eval import other_classifiers

    if _LOGITS.value:
        saved = other_classifiers.read(_LOGITS.value)
        return other_classifiers.of_logits(saved, _WORKDIR.value, c)
    recipe = cli.recipe_of(_CONFIG.value, c) if _CONFIG.value else None
    return runs.load_with_config(location, c, recipe=recipe)


if __name__ == "__main__":
    app.run(cli.report_errors(main), flags_parser=parse)
