"""Evaluates a trained run: eval.json, pictures, report.html.

The only module of the evaluation, with the comparison, that writes files.
"""

import contextlib
import json
import logging
import os
import pathlib
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import ml_collections
from tqdm import tqdm

from ebmjax import config as configs
from ebmjax import plan, processes, rundir, runs
from ebmjax.config import Config
from ebmjax.data import Splits
from ebmjax.eval import other_classifiers
from ebmjax.eval.other_classifiers import Logits
from ebmjax.eval.report import charts, run_report
from ebmjax.eval.report.run_report import table
from ebmjax.eval.result import (
    FILE,
    FOLDER,
    REPORT,
    Progress,
    Result,
    failures,
    merge,
    read,
    to_json,
)
from ebmjax.eval.task import ADDED, Task
from ebmjax.eval.tasks import TASKS

__all__ = ["TASKS", "draw", "evaluate", "failures", "read", "table"]

LOCK = ".eval.lock"


def evaluate(
    run: runs.Run | str | os.PathLike | Logits | Callable,
    *,
    tasks: Iterable[str] | Mapping[str, Task] | None = None,
    progress: bool = False,
    data: Splits | None = None,
    workdir: str | os.PathLike | None = None,
    config: Config | None = None,
) -> dict[str, Any]:
    """Computes `tasks` of a run (or of a run directory), writes eval.json, the
    pictures in eval/, and report.html.

    Any other classifier is evaluated into a `workdir`, by its saved `Logits`, where
    tasks that need the model are skipped, or by a pure function of JAX from examples
    [B, ...] to logits [B, K] with its `data`: images go to it in [-1, 1], vectors
    standardised if `data` has a scaling. `config` has its settings, ``config.eval``.

    `tasks` are names of `TASKS`, or {name: Task} with tasks from anywhere:
    `TASKS | {"mine": Task(fn)}`. None is the run's `config.eval.tasks` and the tasks of
    its recipe. `progress` shows a bar of the tasks on stderr.

    Returns the whole of eval.json: {"run": ..., task: numbers}. Tasks that are not
    asked for stay as they were, even if another program writes them meanwhile. A task
    that fails is {"error": why}, or keeps the numbers of an earlier evaluation with
    {"last_error": {"error": why}}; `failures` lists such tasks. Where nothing can be
    written the numbers are returned all the same, with the reason in "run" as
    "not_saved".

    Every process of a multi-host job calls this, the first one writes; what fails in
    one of them alone is raised there. Raises ValueError for an unknown task and for
    logits that are none, FileNotFoundError where there is no run.
    """
    run = _as_run(run, data, workdir, config)
    known = TASKS | dict(run.tasks or {})
    if tasks is None:
        tasks = (*run.config.eval.tasks, *(run.tasks or ()))
    selected = _select(tasks, known)
    if processes.several():
        _check_alike(run)
    results = read(run.workdir) | {"run": json.loads(to_json(describe(run)))}
    writes = jax.process_index() == 0
    store = _Store(run, known | selected) if writes else None
    with tqdm(
        total=len(selected), unit="task", disable=not (progress and writes)
    ) as bar:
        for name, task in selected.items():
            entry, files = _compute(run, name, task, Progress(bar, name))
            processes.all_agree(True)  # that the task is done
            results[name] = merge(results.get(name, {}), entry)
            if store:
                results = store.save(results, name, entry, files)
            bar.update()
    if store:
        store.draw()
    saved = processes.all_agree(store is None or store.error is None)
    if not saved:
        reason = store.error if store else "process 0 could not write them"
        results["run"] = results["run"] | {"not_saved": reason}
    return results


def _as_run(run, splits, workdir, c):
    """The run, or the stand-in for one of another classifier."""
    if not isinstance(run, Logits) and not callable(run):
        if (splits, workdir, c) != (None, None, None):
            raise ValueError(
                "data=, workdir= and config= are for classifiers of other programs; a"
                " run has its own, see ebmjax.load"
            )
        return run if isinstance(run, runs.Run) else runs.load(os.fspath(run))
    if workdir is None:
        raise ValueError("workdir= is missing: a folder for the results")
    if isinstance(run, Logits):
        return other_classifiers.of_logits(run, workdir, c)
    if splits is None:
        raise ValueError("data= is missing: the Splits to evaluate the function on")
    return other_classifiers.of_function(run, splits, workdir, c)


def _select(tasks, known):
    if not isinstance(tasks, Mapping):
        tasks = (tasks,) if isinstance(tasks, str) else tuple(tasks)
        for name in tasks:
            if name not in known:
                raise ValueError(
                    f"unknown evaluation task {name!r}; expected {', '.join(known)}"
                )
        return {name: known[name] for name in tasks}
    for name, task in tasks.items():
        if not isinstance(task, Task) or not isinstance(name, str) or name == "run":
            raise ValueError(
                f"tasks[{name!r}] is {task!r}; expected a name other than 'run' and an"
                " ebmjax.eval.task.Task"
            )
    return dict(tasks)


def _check_alike(run):
    """Raises ValueError unless all processes have this run, and its data."""
    processes.check_same("the config", configs.to_json(run.config).encode())
    processes.check_same("the checkpoint", str(run.step).encode())
    plan.read_on_every_process(run.splits)


def _compute(run, name, task, progress):
    """The task's entry of eval.json, as read back from JSON, and its files."""
    started = time.monotonic()
    try:
        result = task.compute(run, progress)
        result = result if isinstance(result, Result) else Result(result)
        numbers = json.loads(to_json(result.numbers))
        if clash := set(numbers) & set(ADDED):
            raise ValueError(f"the numbers of a task cannot be called {clash}")
        if wrong := [x for x in result.files if x != pathlib.PurePath(x).name]:
            raise ValueError(f"{wrong[0]!r} is not the name of a file")
    except Exception as error:  # the other tasks are computed all the same
        logging.warning("evaluation task %s failed: %s", name, error)
        logging.debug("traceback of evaluation task %s", name, exc_info=True)
        if not processes.barrier():
            raise  # this process failed alone, and the others wait for it
        numbers, result = {"error": f"{type(error).__name__}: {error}"}, Result({})
    entry = numbers | {
        "step": run.step,
        "settings": settings(run, name),
        "seconds": round(time.monotonic() - started, 1),
        "files": sorted(result.files),
    }
    return json.loads(to_json(entry)), result.files


class _Store:
    """The files of an evaluation, shared with other programs that evaluate the run."""

    def __init__(self, run, tasks):
        self._workdir, self._tasks = run.workdir, tasks
        self._folder = rundir.folder(run.workdir)
        self.error = None
        with self._catch():
            rundir.check_writable(run.workdir)
            (self._folder / FOLDER).mkdir(exist_ok=True)
            known = (self._folder / rundir.CONFIG).exists() or not run.has_model
            if not known:  # a model by address
                text = configs.to_json(run.config)
                rundir.write(self._folder / rundir.CONFIG, text)

    def save(self, results, name, entry, files):
        """Adds a task to what eval.json holds now. -> eval.json, or `results` with the
        task where nothing can be written."""
        if self.error is None:
            with self._catch(ValueError), _lock(self._folder):
                stored = read(self._workdir) | {"run": results["run"]}
                stored[name] = merge(stored.get(name, {}), entry)
                for file, content in files.items():
                    rundir.write(self._folder / FOLDER / file, content)
                rundir.write(self._folder / FILE, to_json(stored))
                return stored
        return results

    def draw(self):
        if self.error is None:
            with self._catch():
                draw(self._workdir, tasks=self._tasks)

    @contextlib.contextmanager
    def _catch(self, *damaged):
        """Records an error of writing, after which nothing more is written."""
        try:
            yield
        except (OSError, *damaged) as error:
            self.error = f"{self._workdir} cannot be written: {error}"
            logging.error("%s; the numbers are not saved", self.error)


def _lock(folder):
    """Held while eval.json is changed, or the report is drawn from it."""
    return rundir.lock(folder / LOCK, timeout=600)


def draw(workdir: str, *, tasks: Mapping[str, Task] = TASKS) -> None:
    """Writes report.html, and its main charts as PNG, from what is in eval.json."""
    root = rundir.folder(workdir)
    folder = root / FOLDER
    with _lock(root):
        results = read(workdir)
        page, figures = run_report.render(results, folder, tasks)
        of_tasks = {x for entry in results.values() for x in entry.get("files", ())}
        for name, figure in figures.items():
            if f"{name}.png" not in of_tasks:  # whose pictures the page needs again
                rundir.write(folder / f"{name}.png", charts.png(figure))
        rundir.write(root / REPORT, page)


def describe(run: runs.Run) -> dict:
    """What stands above every report of a run."""
    c = run.config
    if isinstance(run, other_classifiers.Other):
        return other_classifiers.describe(run)
    own_data = run.facts.data_checksum if run.facts else None
    return {
        "name": rundir.folder(run.workdir).name,
        "step": run.step,
        "recoveries": run.recoveries,
        "skipped": run.skipped,
        "checkpoint": c.eval.checkpoint,
        "ema": c.eval.ema,
        "data": c.data.name if own_data is None else "own arrays",
        "seed": c.seed,
        "objective": {k: v for k, v in c.objective.items() if v},
        "model": c.model.to_dict(),
        "own": list(run.facts.own) if run.facts else [],
    }


def settings(run: runs.Run, task: str) -> dict:
    """What the numbers of a task depend on: its own keys of config.eval, and those of
    the run that all tasks read."""
    c = run.config
    own = c.eval.get(task)
    own = own.to_dict() if isinstance(own, ml_collections.ConfigDict) else {}
    if isinstance(run, other_classifiers.Other):
        own["classifier"] = run.about
    return own | {
        "checkpoint": c.eval.checkpoint,
        "ema": c.eval.ema,
        "seed": c.seed,
        "sgld": _sampler_numbers(run),
    }


def _sampler_numbers(run):
    if run.facts and "sampler" in run.facts.own:
        return "a sampler of the recipe"
    names = ("step_size", "noise_std", "clip_grad", "clip_x")
    return {name: run.config.sgld[name] for name in names}
