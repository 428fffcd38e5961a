"""Trains a run, or goes on with one, and evaluates it.

python -m ebmjax.main --config=configs/jem_digits.py
python -m ebmjax.main --config=configs/jem_cifar10.py:small --config.seed=1
python -m ebmjax.main --config=configs/jem_cifar10.py --distributed  # on every host
"""

import re
import sys

from absl import app, flags
from ml_collections import config_flags

from ebmjax import cli

_CONFIG = config_flags.DEFINE_config_file(
    "config", help_string="a file of configs/, with :variant if it has variants"
)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "the run directory; runs/<config name> if not given"
)

cli.launch_flags()


def main(argv):
    if len(argv) > 1:
        raise ValueError(f"what is {argv[1]!r}? Flags look like --config.key=value")
    c = _CONFIG.value
    if c is None:
        raise ValueError("--config is missing: for instance configs/jem_digits.py")
    workdir = _WORKDIR.value or default_workdir(flags.FLAGS["config"].config_filename)

    from ebmjax import config, rundir

    config.check(c)
    rundir.folder(workdir)  # what is wrong with it is told before anything is done
    cli.start(c.parallel, sizes=(c.batch_size, c.sgld.buffer_size))

    from ebmjax import processes, runs, train
    from ebmjax.eval import evaluate as evaluation

    try:
        train.fit(c, workdir)
    except train.Interrupted as interrupted:
        if processes.index() == 0:
            print(interrupted, file=sys.stderr)
        sys.exit(cli.exit_code(interrupted.number))
    if not c.eval.tasks:
        return
    processes.restore_sigterm()
    run = runs.at(workdir, c)
    progress = sys.stderr.isatty()
    results = evaluation.evaluate(run, tasks=c.eval.tasks, progress=progress)
    if processes.index() == 0:
        print(evaluation.table(results))
        print(f"all of it is in {workdir}")
    sys.exit(1 if evaluation.failures(results) else 0)


def default_workdir(config: str) -> str:
    """configs/jem_cifar10.py:small -> runs/jem_cifar10-small."""
    name, variant = re.fullmatch(r"(?:.*/)?(.*?)(?:\.py)?(?::(.*))?", config).groups()
    return f"runs/{name}-{variant}" if variant else f"runs/{name}"


if __name__ == "__main__":
    app.run(cli.one_sentence(main), flags_parser=cli.parse)
