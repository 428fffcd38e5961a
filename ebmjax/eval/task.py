"""The type of an evaluation task, and how a task that says no more is shown."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from etils import epath

from ebmjax import runs
from ebmjax.eval.report import page
from ebmjax.eval.result import Progress, Result

NORMS = {"linf": "L∞", "l2": "L2"}
# What the driver adds to the numbers of every task.
ADDED = ("step", "settings", "seconds", "files", "last_error")


class Measure(NamedTuple):
    """One number by which runs can be compared."""

    name: str
    value: float | None  # None is not finite
    unit: str = ""  # "%" (stored as a fraction), "nats" or ""
    better: str = ""  # "higher", "lower", or "" if it is not to be ranked

    def text(self, value: float | None = None) -> str:
        value = self.value if value is None else value
        if value is None:
            return "not finite"
        if self.unit == "%":
            return f"{value:.2%}"
        return f"{value:.4g} nats" if self.unit else f"{value:.3f}"


class Verdict(NamedTuple):
    """A task in a few words, for the top of the report."""

    answer: str
    detail: str


class Column(NamedTuple):
    """A task in the comparison: the runs of one config, which differ in their seed."""

    label: str
    numbers: list[dict]  # of each run
    folder: epath.Path  # with the files of the first


def format_number(value: float | None, spec: str) -> str:
    """`value` by the format `spec`, or a dash if it is not finite."""
    return "–" if value is None else format(value, spec)


def flat(numbers: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Numbers and texts by their dotted names, without lists and what `ADDED` names."""
    rows = {}
    for name, value in numbers.items():
        if isinstance(value, Mapping) and name not in ADDED:
            rows |= flat(value, f"{prefix}{name}.")
        elif name not in ADDED and not isinstance(value, list | Mapping):
            rows[prefix + name] = value
    return rows


def plain_measures(numbers: dict) -> list[Measure]:
    """Every number of a task, unranked."""
    return [
        Measure(name, value)
        for name, value in flat(numbers).items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    ]


def plain_section(numbers: dict, folder: epath.Path) -> page.Section:
    """A table of every number and text of a task."""
    rows = [
        page.Row([name, f"{value:.6g}" if isinstance(value, float) else str(value)])
        for name, value in flat(numbers).items()
    ]
    return page.Section("", tables=[page.Table("", ["", "value"], rows)])


def plain_verdict(numbers: dict) -> Verdict:
    """The first number, if there is one."""
    for measure in plain_measures(numbers):
        if measure.value is not None and math.isfinite(measure.value):
            return Verdict(f"{measure.value:.4g}", measure.name)
    return Verdict("done", "")


class Task(NamedTuple):
    """One task of the evaluation: what it computes, and how that is shown.

    Only `compute` is needed; the numbers are then shown as a plain table. All other
    functions take the task's entry of eval.json, that is `numbers` with None for
    what was not finite, and with "step", "settings", "seconds" and "files" added.
    `folder` holds the files that the task wrote.

        def count_pixels(run, progress):
            return Result({"num_pixels": int(np.prod(run.image_shape))})

        ebmjax.evaluate(run, tasks={"pixels": Task(count_pixels)})
    """

    compute: Callable[[runs.Run, Progress], Result | dict]
    title: str = ""  # the heading; the task's name if empty
    verdict: Callable[[dict], Verdict] = plain_verdict
    measures: Callable[[dict], list[Measure]] = plain_measures
    section: Callable[[dict, epath.Path], page.Section | None] = plain_section
    compare: Callable[[Sequence[Column]], list[page.Panel]] = lambda columns: []
    glossary: Sequence[page.Definition] = ()  # of its numbers, at the report's end


def title_of(name: str, task: Task) -> str:
    return task.title or name.replace("_", " ")
