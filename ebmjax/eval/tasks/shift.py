"""Accuracy and calibration under common corruptions, by severity."""

import functools
import logging
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np
from etils import epath

from ebmjax import keys, processes, runs
from ebmjax.eval import calibration, corruptions
from ebmjax.eval.corruptions import CORRUPTIONS, Corruption
from ebmjax.eval.report import charts, glossary, page
from ebmjax.eval.result import (
    Progress,
    Result,
    finite_logits,
    has_images,
    picture,
    skipped,
)
from ebmjax.eval.task import Column, Measure, Task, Verdict, format_number

FILE = "corruptions.png"
METRICS = ("accuracy", "confidence", "ece", "nll")
SHOWN = ("accuracy", "ece")


def task(corruptions: Mapping[str, Corruption]) -> Task:
    """The task with these corruptions beside those that the config names.

    Raises ValueError for a name that a corruption of the package has.
    """
    if taken := set(keys.CORRUPTIONS + keys.PUBLISHED_CORRUPTIONS) & set(corruptions):
        raise ValueError(f"{taken.pop()!r} cannot be the name of an own corruption")
    return TASK._replace(compute=functools.partial(compute, more=corruptions))


def compute(
    run: runs.Run,
    progress: Progress,
    more: Mapping[str, Corruption] = MappingProxyType({}),
) -> Result:
    """The first `num_images` test images under each corruption and severity; those of
    `eval.shift.folder`, if it is set, as they are there, and `more` that are made."""
    if not has_images(run):
        return skipped("corruptions are defined for images only")
    c, test = run.config.eval.shift, run.splits().test
    image, label = (x[: c.num_images] for x in test)
    num_bins = run.config.eval.num_bins
    progress("test images")
    clean = shift_metrics(finite_logits(run, image), label, num_bins)
    by_name, examples = {}, []
    for name in (*c.corruptions, *more):
        progress(name)
        try:
            make = functools.partial(_corrupted, run, name, image, label, more)
            corrupted = processes.on_every_process(make)
            by_name[name] = {
                str(severity): shift_metrics(finite_logits(run, x), label, num_bins)
                for severity, x in zip(corruptions.SEVERITIES, corrupted, strict=True)
            }
        except Exception as error:  # damaged files and own functions raise many types
            logging.warning("corruption %s: %s", name, error)
            logging.debug("traceback of corruption %s", name, exc_info=True)
            by_name[name] = {"error": _reason(error)}
            continue
        examples += [image[0], *(x[0] for x in corrupted)]
    numbers = {
        "num_images": len(label),
        "num_bins": num_bins,
        "source": c.folder or "made here",
        "clean": clean,
        "corruptions": by_name,
        "mean": _mean(by_name),
    }
    files = {}
    if examples:
        files[FILE] = picture(np.stack(examples), 6)
    return Result(numbers, files)


def _reason(error):
    if isinstance(error, OSError | ValueError):
        return str(error)
    return f"{type(error).__name__}: {error}"


def _corrupted(run, name, image, label, more):
    """A list of five arrays like `image`."""
    c = run.config.eval.shift
    if c.folder and name not in more:
        return corruptions.published(c.folder, name, image, label)
    return [
        corruptions.corrupt(
            name,
            severity,
            image,
            seed=run.config.seed,
            corruptions={**CORRUPTIONS, **more},
        )
        for severity in corruptions.SEVERITIES
    ]


def shift_metrics(
    logits: np.ndarray, labels: np.ndarray, num_bins: int
) -> dict[str, float]:
    """[N, K], [N] -> accuracy, mean confidence, ECE and NLL (nats)."""
    probs = calibration.softmax(logits)
    return {
        "accuracy": calibration.accuracy(logits, labels),
        "confidence": float(probs.max(axis=-1).mean()),
        "ece": calibration.ece(probs, labels, num_bins),
        "nll": calibration.nll_from_logits(logits, labels),
    }


def _mean(by_name):
    """{severity: metrics} over the corruptions, and "all" over the severities too.

    1 - accuracy of "all" is the mean corruption error, unnormalised, as it is usual
    for CIFAR-10-C.
    """
    rows = [row for row in by_name.values() if "error" not in row]
    if not rows:
        return {}
    mean = {
        severity: {
            m: float(np.mean([row[severity][m] for row in rows])) for m in METRICS
        }
        for severity in map(str, corruptions.SEVERITIES)
    }
    over_all = {m: float(np.mean([row[m] for row in mean.values()])) for m in METRICS}
    return mean | {"all": over_all}


# --- how it is shown -----------------------------------------------------------


def shift_verdict(numbers: dict) -> Verdict:
    if not numbers["mean"]:
        return Verdict("–", "no corruption could be evaluated")
    mean, clean = numbers["mean"]["all"], numbers["clean"]
    accuracy, ece = ([format_number(x[m], ".1%") for x in (mean, clean)] for m in SHOWN)
    return Verdict(
        accuracy[0],
        f"mean accuracy under corruption (clean {accuracy[1]}), ECE {ece[0]} (clean"
        f" {ece[1]}), {numbers['num_images']:,} images",
    )


def measures(numbers: dict) -> list[Measure]:
    if not numbers["mean"]:
        return []
    mean = numbers["mean"]["all"]
    return [
        Measure("mean corruption error", 1 - mean["accuracy"], "%", "lower"),
        Measure("ECE under corruption", mean["ece"], "%", "lower"),
        Measure("NLL under corruption", mean["nll"], "nats", "lower"),
    ]


def _curve(numbers, metric):
    """Severities 0 (clean) to 5, and the mean of a metric at each."""
    mean = [numbers["mean"][str(s)][metric] for s in corruptions.SEVERITIES]
    return [0, *corruptions.SEVERITIES], [numbers["clean"][metric], *mean]


def section(numbers: dict, folder: epath.Path) -> page.Section:
    text = (
        "A calibrated classifier loses confidence as it loses accuracy. Corruptions are"
        f" those of Hendrycks and Dietterich (2019), {numbers['source']}, on"
        f" {numbers['num_images']:,} test images; severity 0 is clean."
    )
    if not numbers["mean"]:
        return page.Section(text)
    names = {"accuracy": "accuracy", "confidence": "mean confidence", "ece": "ECE"}
    curves = {name: _curve(numbers, metric) for metric, name in names.items()}
    figure = charts.curves(curves, "severity", "mean over corruptions")
    panels = [page.figure_panel(figure, "shift", "Under corruption.")]
    if FILE in numbers["files"]:
        order = ", ".join(n.replace("_", " ") for n in _completed(numbers))
        panels.append(
            page.picture_panel(
                folder / FILE,
                "The corruptions.",
                f"Rows: {order}; columns: clean, then severities 1 to 5.",
            )
        )
    return page.Section(text, panels, [_table(numbers, m) for m in SHOWN])


def _completed(numbers):
    return {k: v for k, v in numbers["corruptions"].items() if "error" not in v}


def _table(numbers, metric):
    severities = [str(s) for s in corruptions.SEVERITIES]
    rows = {name.replace("_", " "): row for name, row in _completed(numbers).items()}
    rows["mean"] = numbers["mean"]
    cells = [
        page.Row([name, *(format_number(row[s][metric], ".1%") for s in severities)])
        for name, row in rows.items()
    ]
    title = {"accuracy": "Accuracy by severity", "ece": "ECE by severity"}[metric]
    return page.Table(title, ["", *severities], cells)


def compare(columns: Sequence[Column]) -> list[page.Panel]:
    """Mean accuracy and ECE over severity of the first run of each column."""
    columns = [c for c in columns if c.numbers[0]["mean"]]
    panels = []
    for metric, title in {"accuracy": "Accuracy", "ece": "ECE"}.items():
        curves = {c.label: _curve(c.numbers[0], metric) for c in columns}
        if curves:
            figure = charts.curves(
                curves, "severity", f"{title}, mean over corruptions"
            )
            name = f"shift_{metric}"
            panels.append(page.figure_panel(figure, name, f"{title} under corruption."))
    return panels


TASK = Task(
    compute,
    title="Distribution shift",
    verdict=shift_verdict,
    measures=measures,
    section=section,
    compare=compare,
    glossary=glossary.SHIFT,
)
