r"""Trains and evaluates a run for each combination of values, then compares them.

python -m ebmjax.sweep --config=jem_digits --grid "objective.p_x=0.1,1 seed=0,1,2"
python -m ebmjax.sweep --config=jem_digits:small --grid "sgld.num_steps=10,20" \
    --workdir=runs/steps --jobs=2 --config.parallel.cpu_devices=1

Each run is `python -m ebmjax.main` in a directory of its own below --workdir; what it
prints is in NAME.log beside that. Re-running the command resumes unfinished runs and
skips finished ones. Ctrl-C stops the runs, which save first.
"""

import pathlib
import sys

from absl import app, flags

from ebmjax import cli
from ebmjax.sweep import is_finished, plan, train

_CONFIG = flags.DEFINE_string("config", None, "as for ebmjax.main")
_GRID = flags.DEFINE_string(
    "grid", None, "KEY=VALUE,VALUE ... separated by spaces; a tuple is written (1,2)"
)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "of the sweep; runs/<config name>-sweep if not given"
)
_JOBS = flags.DEFINE_integer("jobs", 1, "runs at once", lower_bound=1)


def main(argv):
    if not _CONFIG.value or not _GRID.value:
        raise ValueError(
            'usage: python -m ebmjax.sweep --config=CONFIG --grid "KEY=VALUE,VALUE ..."'
        )
    workdir = _WORKDIR.value or f"{cli.default_workdir(_CONFIG.value)}-sweep"
    runs = plan(_CONFIG.value, _local(workdir), _GRID.value, argv[1:])

    from ebmjax.eval.report import comparison
    from ebmjax.eval.result import FILE

    left = [run for run in runs if not is_finished(run, _CONFIG.value)]
    cli.echo(f"{len(runs)} runs, {len(runs) - len(left)} of them finished")
    failed = train(left, _JOBS.value)
    done = [x.workdir for x in runs if pathlib.Path(x.workdir, FILE).exists()]
    if len(done) > 1:
        cli.echo(comparison.write(done, workdir))
        cli.echo(f"results written to {workdir}")
    if failed:
        cli.echo(f"failed: {'; '.join(failed)}")
    sys.exit(1 if failed else 0)


def _local(workdir):
    from ebmjax import rundir

    if rundir.in_bucket(workdir):
        raise ValueError(f"--workdir={workdir} is in a bucket; a sweep needs a folder")
    return str(rundir.folder(workdir))


if __name__ == "__main__":
    app.run(cli.report_errors(main), flags_parser=cli.parse)
