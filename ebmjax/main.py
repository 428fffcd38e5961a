"""Trains a run, or resumes one, and evaluates it.

python -m ebmjax.main --config=configs/jem_digits.py
python -m ebmjax.main --config=jem_cifar10:small --config.seed=1
python -m ebmjax.main --config=jem_cifar10 --distributed  # on every host
"""

import sys

from absl import app, flags

from ebmjax import cli

_CONFIG = flags.DEFINE_string(
    "config",
    None,
    "a config file, one of ebmjax (jem_digits, official/jem_cifar10), with :VARIANT if"
    " it has variants, or the config.json of a run; --config.KEY=VALUE changes a key",
)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "the run directory; runs/<config name> if not given"
)

cli.launch_flags()
flags.adopt_module_key_flags(cli)


def main(argv):
    if not _CONFIG.value:
        raise ValueError("--config is missing; for instance --config=jem_digits")
    c = cli.load_config(_CONFIG.value, argv[1:])

    from ebmjax import config, rundir

    config.check(c)
    # What is wrong with the directory is said before anything is done.
    workdir = str(rundir.folder(_WORKDIR.value or cli.default_workdir(_CONFIG.value)))
    cli.start(c.parallel, sizes=(c.batch_size, c.sgld.buffer_size))

    from ebmjax import processes, signals, train
    from ebmjax.eval import evaluate as evaluation

    try:
        run = train.fit(c, workdir, recipe=cli.recipe_of(_CONFIG.value, c))
    except train.Interrupted as interrupted:
        if processes.index() == 0:
            print(interrupted, file=sys.stderr)
        sys.exit(signals.exit_code(interrupted.number))
    tasks = (*c.eval.tasks, *(run.tasks or ()))
    if not tasks:
        return
    processes.restore_sigterm()
    progress = sys.stderr.isatty()
    results = evaluation.evaluate(run, tasks=tasks, progress=progress)
    if processes.index() == 0:
        cli.echo(evaluation.table(results))
        cli.echo(f"results written to {workdir}")
    sys.exit(1 if evaluation.failures(results, tasks) else 0)


if __name__ == "__main__":
    app.run(cli.report_errors(main), flags_parser=cli.parse)
