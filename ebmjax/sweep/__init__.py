"""Runs for each combination of values, planned and trained in processes.

The program is `python -m ebmjax.sweep`.
"""

import itertools
import pathlib
import re
import subprocess
import sys
import time
from typing import Any, NamedTuple

from ebmjax import cli, config


class Planned(NamedTuple):
    """A run of a sweep."""

    name: str  # "objective.p_x=0.1,seed=0"
    workdir: str
    config: Any  # ConfigDict
    arguments: list[str]  # of ebmjax.main


def grid(text: str) -> list[dict[str, Any]]:
    """ "a=1,2 b=3" -> [{"a": 1, "b": 3}, {"a": 2, "b": 3}], the seed last.

    Raises ValueError for what is no KEY=VALUES and for a key that is given twice.
    """
    values = {}
    for part in text.split():
        key, equals, choices = part.partition("=")
        if not equals or not choices:
            raise ValueError(f"--grid has {part!r}; expected KEY=VALUE,VALUE")
        if key in values:
            raise ValueError(f"--grid has the key {key!r} twice; list its values: 1,2")
        texts = re.findall(r"\([^)]*\)|[^,()]+", choices)
        values[key] = list(dict.fromkeys(config.parse(key, text) for text in texts))
    keys = sorted(values, key=lambda key: key == "seed")  # stable: others as given
    combinations = itertools.product(*(values[key] for key in keys))
    return [dict(zip(keys, x, strict=True)) for x in combinations]


def plan(source: str, workdir: str, text: str, arguments: list[str]) -> list[Planned]:
    """The runs of a sweep, each config checked.

    `arguments` are overrides --config.key=value of all runs. Raises ValueError for a
    config that cannot work, and for combinations that would share a directory.
    """
    runs = []
    for changes in grid(text):
        own = [f"--config.{key}={_text(x)}" for key, x in changes.items()]
        c = cli.load_config(source, arguments)
        cli.override(c, own)
        config.check(c)
        name = ",".join(f"{key}={_text(x)}" for key, x in changes.items())
        name = re.sub(r"[^\w.,=+()-]", "_", name)  # a path among the values
        folder = f"{workdir}/{name}"
        every = [f"--config={source}", f"--workdir={folder}", *arguments, *own]
        runs.append(Planned(name, folder, c, every))
    names = [run.name for run in runs]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"--grid has two runs for the directory {twice.pop()!r}")
    if len(runs) < 2:
        raise ValueError(f"--grid={text!r} is {len(runs)} run; list values: KEY=1,2")
    return runs


def _text(value):
    """As the command line reads it back."""
    if isinstance(value, tuple):
        return f"({','.join(map(_text, value))})"
    return repr(value).removesuffix(".0") if isinstance(value, float) else str(value)


def is_finished(run: Planned, source: str) -> bool:
    """Whether the run has been trained and evaluated with this config."""
    from ebmjax import rundir
    from ebmjax.eval import result

    folder = rundir.folder(run.workdir)
    if not (folder / rundir.CHECKPOINTS / str(run.config.num_steps)).exists():
        return False
    if config.to_json(rundir.read_config(run.workdir)) != config.to_json(run.config):
        return False
    recipe = cli.recipe_of(source, run.config)
    tasks = (*run.config.eval.tasks, *((recipe and recipe.tasks) or ()))
    results = result.read(run.workdir)
    return set(tasks) <= set(results) and not result.failures(results, tasks)


def train(runs: list[Planned], jobs: int = 1) -> list[str]:
    """Runs them, `jobs` at once.  -> the names of those that failed.

    A signal to stop is passed on to them once; when they have saved, the program ends
    with the exit code of the signal.
    """
    from ebmjax import signals

    waiting, running, failed, passed_on = list(runs), [], [], False
    with signals.stop_requests() as stop:
        try:
            while running or (waiting and not stop):
                while waiting and len(running) < jobs and not stop:
                    running.append((waiting[0], _start(waiting.pop(0))))
                if stop and not passed_on:
                    passed_on = True
                    for _, process in running:
                        process.send_signal(stop.number)
                ended = [pair for pair in running if pair[1].poll() is not None]
                running = [pair for pair in running if pair not in ended]
                for run, process in ended:
                    if not stop and not _succeeded(run, process.returncode):
                        failed.append(run.name)
                time.sleep(0.1)
        finally:
            for _, process in running:
                process.kill()
    if stop:
        print("stopped; the same command resumes the sweep", file=sys.stderr)
        sys.exit(signals.exit_code(stop.number))
    return failed


def _start(run):
    pathlib.Path(run.workdir).parent.mkdir(parents=True, exist_ok=True)
    cli.echo(f"{run.name}: started")
    with open(f"{run.workdir}.log", "a") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "ebmjax.main", *run.arguments],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C reaches it through `train`, and once
        )


def _succeeded(run, code):
    """Reports how the run has ended."""
    if code == 0:
        cli.echo(f"{run.name}: finished")
        return True
    log = pathlib.Path(f"{run.workdir}.log")
    last = (log.read_text(errors="replace").strip().splitlines() or [""])[-1]
    cli.echo(f"{run.name}: failed with exit code {code}: {last} ({log})")
    return False
