"""Calibration errors on the test set, and what temperature scaling leaves of them."""

from collections.abc import Sequence

import numpy as np
from etils import epath

from ebmjax import runs
from ebmjax.eval import calibration
from ebmjax.eval.report import charts, glossary, page
from ebmjax.eval.result import Progress, Result, finite_logits
from ebmjax.eval.task import Column, Measure, Task, Verdict, format_number


def compute(run: runs.Run, progress: Progress) -> Result:
    """Errors as trained and, where there are validation data, after temperature
    scaling fitted on them."""
    num_bins, splits = run.config.eval.num_bins, run.splits()
    progress("test examples")
    logits, labels = finite_logits(run, splits.test.image), splits.test.label
    numbers = {"num_images": len(labels), "num_bins": num_bins}
    numbers["as_trained"] = calibration_metrics(logits, labels, num_bins)
    progress("validation examples, for the temperature")
    try:
        if not len(splits.valid.label):
            source = "config.data.num_valid" if run.has_model else "valid_logits"
            raise ValueError(f"there are no validation examples ({source})")
        temperature = calibration.fit_temperature(
            run.logits(splits.valid.image), splits.valid.label
        )
    except ValueError as error:
        numbers["temperature"] = {"skipped": str(error)}
    else:
        numbers["temperature"] = {
            "value": temperature,
            "num_valid": len(splits.valid.label),
        } | calibration_metrics(logits / temperature, labels, num_bins)
    return Result(numbers)


def calibration_metrics(logits: np.ndarray, labels: np.ndarray, num_bins: int) -> dict:
    """[N, K], [N] -> calibration errors, proper scores, the reliability diagram."""
    probs = calibration.softmax(logits)
    diagram = calibration.reliability_diagram(probs, labels, num_bins)
    return {
        "ece": calibration.ece(probs, labels, num_bins),
        "ece_equal_mass": calibration.ece(probs, labels, num_bins, "equal_mass"),
        "mce": calibration.mce(probs, labels, num_bins),
        "rms_ce": calibration.rms_ce(probs, labels, num_bins),
        "classwise_ece": calibration.classwise_ece(probs, labels, num_bins),
        "ece_20_bins": calibration.ece(probs, labels, 20),  # the papers' figures
        "ng_ebm_midpoint_ece": calibration.midpoint_ece(probs, labels),
        "nll": calibration.nll_from_logits(logits, labels),
        "brier": calibration.brier(probs, labels),
        "reliability": diagram._asdict(),
    }


def calibration_verdict(numbers: dict) -> Verdict:
    before, after = numbers["as_trained"], numbers["temperature"]
    bins = before["reliability"]
    rows = zip(bins["counts"], bins["confidence"], bins["accuracy"], strict=True)
    rows = np.array([row for row in rows if row[0]])
    _, confidence, accuracy = np.average(rows, axis=0, weights=rows[:, 0])
    direction = _direction(confidence, accuracy, rows[:, 0].sum())
    detail = f"{direction}: {confidence:.1%} mean confidence, {accuracy:.1%} accuracy"
    if "value" in after:
        ece = format_number(after["ece"], ".1%")
        detail += f"; a temperature of {after['value']:.2f} leaves {ece}"
    answer = f"ECE {format_number(before['ece'], '.1%')}"
    return Verdict(answer, f"{detail}; {numbers['num_bins']} bins")


def _direction(confidence, accuracy, num):
    """In words, if the two differ by more than two standard errors of an accuracy."""
    if abs(confidence - accuracy) <= 2 * np.sqrt(confidence * (1 - confidence) / num):
        return "neither over- nor under-confident beyond chance"
    return "over-confident" if confidence > accuracy else "under-confident"


def measures(numbers: dict) -> list[Measure]:
    before, after = numbers["as_trained"], numbers["temperature"]
    rows = [
        Measure(f"ECE, {numbers['num_bins']} bins", before["ece"], "%", "lower"),
        Measure("class-wise ECE", before["classwise_ece"], "%", "lower"),
    ]
    if "ece" in after:
        rows.append(Measure("ECE after temperature", after["ece"], "%", "lower"))
    return rows


def section(numbers: dict, folder: epath.Path) -> page.Section:
    before, after = numbers["as_trained"], numbers["temperature"]
    bins = numbers["num_bins"]
    panels = [
        page.figure_panel(
            charts.reliability(before["reliability"]),
            "reliability",
            "As trained.",
            f"ECE {format_number(before['ece'], '.2%')}: the mean length of the orange"
            f" lines, from a bin's accuracy to its confidence. {bins} bins.",
        )
    ]
    columns, head = [before], [f"{numbers['num_images']:,} test examples", "as trained"]
    text = "A calibrated classifier is right as often as its confidence says."
    if "value" in after:
        columns.append(after)
        head.append(f"T = {after['value']:.3f}")
        panels.append(
            page.figure_panel(
                charts.reliability(after["reliability"]),
                "reliability_temperature",
                "After temperature scaling.",
                f"T = {after['value']:.3f}, fitted on {after['num_valid']:,} validation"
                f" examples. ECE {format_number(after['ece'], '.2%')}.",
            )
        )
    else:
        text += f" No temperature was fitted: {after['skipped']}."
    rows = [
        page.Row([name, *(format_number(column[metric], spec) for column in columns)])
        for metric, (name, spec) in {
            "ece": (f"ECE, {bins} bins of equal width", ".2%"),
            "ece_equal_mass": (f"ECE, {bins} bins of equal mass", ".2%"),
            "ece_20_bins": ("ECE, 20 bins of equal width", ".2%"),
            "mce": ("maximum calibration error (MCE)", ".2%"),
            "rms_ce": ("root mean square calibration error", ".2%"),
            "classwise_ece": ("class-wise ECE", ".2%"),
            "ng_ebm_midpoint_ece": ("as NG-EBM's code: 20 bins, midpoints", ".2%"),
            "nll": ("NLL, nats", ".4f"),
            "brier": ("Brier score", ".4f"),
        }.items()
    ]
    return page.Section(text, panels, [page.Table("Calibration errors", head, rows)])


def compare(columns: Sequence[Column]) -> list[page.Panel]:
    """The reliability of the first run of each column."""
    diagrams = {c.label: c.numbers[0]["as_trained"]["reliability"] for c in columns}
    caption = "Bins with 1 % of the examples or more; over-confident below the line."
    figure = charts.reliability_curves(diagrams)
    return [page.figure_panel(figure, "reliability", "Reliability.", caption)]


TASK = Task(
    compute,
    title="Calibration",
    verdict=calibration_verdict,
    measures=measures,
    section=section,
    compare=compare,
    glossary=glossary.CALIBRATION,
)
