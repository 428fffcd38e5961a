"""The report of a run: report.html with all pictures in it, and a table for a terminal.

Everything is made from eval.json and the files beside it; each task says how its own
part is shown. The page needs no network, follows the reader's light or dark setting,
and fits a phone.
"""

import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from etils import epath
from matplotlib.figure import Figure

from ebmjax.eval.report import page
from ebmjax.eval.result import failures, numbers_of
from ebmjax.eval.task import Measure, Task, plain_measures, title_of
from ebmjax.eval.tasks import TASKS

# A task that eval.json has and the program does not know is shown as plain numbers.
UNKNOWN = Task(compute=lambda run, progress: {})


class Summary(NamedTuple):
    """A row at the top of the report."""

    title: str
    answer: str
    detail: str
    failed: bool = False


def in_order(results: dict, tasks: Mapping[str, Task]) -> Iterator[tuple[str, Task]]:
    """The tasks that `results` has: those of `tasks` in their order, then others."""
    names = [name for name in tasks if name in results]
    names += [name for name in results if name != "run" and name not in tasks]
    return ((name, tasks.get(name, UNKNOWN)) for name in names)


def measures(results: dict, tasks: Mapping[str, Task] = TASKS) -> list[Measure]:
    """The headline numbers of all tasks. Of two with one name the later one counts:
    calibration repeats an error that classification has."""
    rows = {}
    for name, task in in_order(results, tasks):
        numbers = numbers_of(results, name)
        found = _shown(name, "measures", task.measures, numbers) if numbers else ()
        for row in found or ():
            if task.measures is plain_measures:
                row = row._replace(name=f"{title_of(name, task)}: {row.name}")
            rows[row.name] = row
    return list(rows.values())


def _shown(name, what, fn, numbers):
    """`fn(numbers)`; None if it fails, as of another version: the others are shown."""
    try:
        return fn(numbers)
    except Exception:
        logging.exception("the %s of task %s failed", what, name)
        return None


def summaries(results: dict, tasks: Mapping[str, Task] = TASKS) -> list[Summary]:
    """One row for each task of `results`, failed and skipped ones included."""
    rows = []
    for name, task in in_order(results, tasks):
        title, numbers = title_of(name, task), numbers_of(results, name)
        if numbers:
            verdict = _shown(name, "verdict", task.verdict, numbers)
            verdict = verdict or ("–", "the verdict failed: see the log")
            rows.append(Summary(title, *verdict))
        elif reason := results[name].get("skipped"):
            rows.append(Summary(title, "skipped", reason))
        else:
            rows.append(Summary(title, "failed", results[name]["error"], failed=True))
    return rows


def definitions(
    names: Iterable[str], tasks: Mapping[str, Task] = TASKS
) -> list[page.Definition]:
    """The glossaries of the tasks that have numbers, each term once."""
    by_term = {}
    for name in names:
        for definition in tasks.get(name, UNKNOWN).glossary:
            by_term.setdefault(definition.term, definition)
    return list(by_term.values())


def table(results: dict, tasks: Mapping[str, Task] = TASKS) -> str:
    """All measures and failures, for a terminal."""
    rows = [(row.name, row.text()) for row in measures(results, tasks)]
    for name, _ in in_order(results, tasks):
        if reason := results[name].get("skipped"):
            rows.append((name, f"skipped: {reason}"))
    for name, reason in failures(results).items():
        rows.append((name, f"failed: {reason}{_kept(results.get(name, {}))}"))
    width = max((len(name) for name, _ in rows), default=0)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def _kept(numbers):
    """Of a task that failed: where its numbers are from, if it has any."""
    if "last_error" not in numbers:
        return ""
    return f" (the numbers are from an earlier evaluation, of step {numbers['step']:,})"


def _sections(
    results: dict[str, Any], folder: epath.Path, tasks: Mapping[str, Task] = TASKS
) -> tuple[list[page.Section], list[str]]:
    """The sections of the tasks, and a note for each that cannot be drawn."""
    drawn, notes = [], []
    for name, task in in_order(results, tasks):
        if not (numbers := numbers_of(results, name)):
            continue
        try:
            section = task.section(numbers, folder)
        except FileNotFoundError as error:
            where = error.filename or error
            notes.append(f"{name}: {where} is missing: evaluate it again.")
        except Exception as error:  # the other sections are shown
            logging.exception("the section of task %s cannot be drawn", name)
            notes.append(f"The section of {name} failed: {error!r}.")
        else:
            if section is not None:
                settings = json.dumps(numbers["settings"], indent=1)
                title = section.title or title_of(name, task)
                drawn.append(section._replace(title=title, settings=settings))
    return drawn, notes


def render(
    results: dict[str, Any], folder: epath.Path, tasks: Mapping[str, Task] = TASKS
) -> tuple[str, dict[str, Figure]]:
    """The page, and its main charts {name: figure} for other documents.

    `folder` holds the files of the tasks.
    """
    drawn, notes = _sections(results, folder, tasks)
    text = page.render(
        "report.html",
        title=results["run"]["name"],
        subtitle=about(results["run"]),
        summaries=summaries(results, tasks),
        notes=_notes(results) + notes,
        sections=drawn,
        glossary=definitions(
            (x for x, _ in in_order(results, tasks) if numbers_of(results, x)), tasks
        ),
    )
    panels = (panel for section in drawn for panel in section.panels)
    return text, {panel.name: panel.chart for panel in panels if panel.chart}


def about(run: dict[str, Any]) -> str:
    """Network, data, objective and checkpoint of a run in one line."""
    if not run["model"]:  # of another program
        return f"{' and '.join(run['own'])} on {run['data']}"
    written = {"p_x": "p(x)", "p_x_y": "p(x | y)"}
    terms = " + ".join(
        f"{'' if weight == 1 else f'{weight:g} '}"
        + written.get(term, term.replace("_", " "))
        for term, weight in run["objective"].items()
    )
    model = run["model"]
    name = model["name"].replace("_", " ")
    if model["name"] == "wide_resnet":
        name = f"WRN-{model['depth']}-{model['width']}"
    if "network" in run.get("own", ()):
        name = "a network of the recipe"
    which = "averaged parameters of the " if run["ema"] else ""
    return (
        f"{name} on {run['data']}, {terms}; {which}{run['checkpoint']} checkpoint,"
        f" step {run['step']:,}, seed {run['seed']}"
        + (f", {run['recoveries']} recoveries" if run["recoveries"] else "")
        + (f", {run['skipped']} skipped steps" if run.get("skipped") else "")
    )


def _notes(results):
    """What a reader must know: failures, and numbers of other parameters."""
    run, notes = results["run"], []
    this = about(run)
    for name in (name for name in results if name != "run"):
        numbers = numbers_of(results, name)
        if not numbers:
            continue
        if numbers["step"] != run["step"]:
            notes.append(
                f"{name} is of step {numbers['step']:,}, another checkpoint: evaluate"
                " it again."
            )
        elif numbers["settings"].get("ema", run["ema"]) != run["ema"]:
            which = "averaged" if numbers["settings"]["ema"] else "last"
            notes.append(f"{name} is of the {which} parameters: evaluate it again.")
        elif (other := numbers["settings"].get("classifier", this)) != this:
            notes.append(f"{name} is of {other}: evaluate it again.")
    for name, reason in failures(results).items():
        if name not in results or "last_error" in results[name]:
            notes.append(f"{name} failed: {reason}{_kept(results.get(name, {}))}")
    return notes
