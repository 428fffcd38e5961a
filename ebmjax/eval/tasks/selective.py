"""Selective classification: how the risk falls if the model may abstain."""

from collections.abc import Sequence

import numpy as np
from etils import epath

from ebmjax import runs
from ebmjax.eval import ood, selective
from ebmjax.eval.report import charts, glossary, page
from ebmjax.eval.result import Progress, Result, finite_logits
from ebmjax.eval.task import Column, Measure, Task, Verdict, format_number

OF_LOGITS = ("max_log_prob", "log_density")  # scores that need no more
COVERAGES = (0.8, 0.9, 0.95)
POINTS = 200  # of a curve in eval.json, at most


def compute(run: runs.Run, progress: Progress) -> Result:
    """Risk and coverage on the test set by max p(y | x), log p(x) and, unless there are
    only logits, approximate mass."""
    test = run.splits().test
    progress("test examples")
    logits = finite_logits(run, test.image)
    correct = logits.argmax(axis=-1) == test.label
    confidence, missing = {k: _of_logits(k, logits) for k in OF_LOGITS}, {}
    if run.has_model:
        confidence["approximate_mass"] = run.map(
            _approximate_mass, test.image, progress=progress("approximate mass")
        )
    else:
        missing["approximate_mass"] = "it needs the model: there are only logits"
    for name in [k for k, x in confidence.items() if not np.isfinite(x).all()]:
        missing[name] = "it is not finite on all test examples"
        del confidence[name]
    scores = {name: selective_metrics(x, correct) for name, x in confidence.items()}
    return Result(
        {
            "num_images": len(correct),
            "accuracy": float(np.mean(correct)),
            "labels": {name: ood.SCORES[name].label for name in scores},
            "scores": scores,
            "missing": missing,
        }
    )


def _of_logits(score, logits):
    return np.asarray(ood.SCORES[score](lambda x: x, logits))


def _approximate_mass(model, key, image):
    return ood.approximate_mass(model.logits, model.to_float(image))


def selective_metrics(confidence: np.ndarray, correct: np.ndarray) -> dict:
    """[N], [N] -> AURC, its excess, accuracy at `COVERAGES`, and the curve."""
    curve = selective.risk_coverage(confidence, correct)
    at = np.linspace(0, len(correct) - 1, POINTS).round().astype(int)
    return {
        "aurc": selective.aurc(confidence, correct),
        "excess_aurc": selective.excess_aurc(confidence, correct),
        "accuracy_at_coverage": {
            f"{coverage:g}": selective.accuracy_at_coverage(
                confidence, correct, coverage
            )
            for coverage in COVERAGES
        },
        "curve": {name: x[np.unique(at)] for name, x in curve._asdict().items()},
    }


# --- how it is shown -----------------------------------------------------------


def verdict(numbers: dict) -> Verdict:
    name = min(numbers["scores"], key=lambda name: numbers["scores"][name]["aurc"])
    best, label = numbers["scores"][name], numbers["labels"][name]
    answered = f"{best['accuracy_at_coverage']['0.9']:.1%}"
    return Verdict(
        f"{answered} at 90 % coverage",
        f"by {label}, of all test examples {numbers['accuracy']:.1%}; AURC"
        f" {format_number(best['aurc'], '.4f')}, of which"
        f" {format_number(best['excess_aurc'], '.4f')} in excess of the best order",
    )


def measures(numbers: dict) -> list[Measure]:
    rows = []
    for name, of_score in numbers["scores"].items():
        label, at = numbers["labels"][name], of_score["accuracy_at_coverage"]["0.9"]
        rows += [
            Measure(f"AURC, {label}", of_score["aurc"], "%", "lower"),
            Measure(f"excess AURC, {label}", of_score["excess_aurc"], "%", "lower"),
            Measure(f"accuracy at 90 % coverage, {label}", at, "%", "higher"),
        ]
    return rows


def section(numbers: dict, folder: epath.Path) -> page.Section:
    text = (
        f"The classifier answers only the examples of which it is most confident, of"
        f" {numbers['num_images']:,} test examples. Its risk is the share of mistakes"
        " among its answers; AURC is the mean risk over all coverages, and the excess"
        " is what a perfect order of the same answers would save."
    )
    for name, reason in numbers["missing"].items():
        text += f" Without {ood.SCORES[name].label}: {reason}."
    curves = {numbers["labels"][k]: x["curve"] for k, x in numbers["scores"].items()}
    panel = page.figure_panel(
        charts.risk_coverage(curves), "risk_coverage", "Risk against coverage."
    )
    return page.Section(text, [panel], [_table(numbers)])


def _table(numbers):
    """One row a score; the best of each column is marked."""
    columns = {
        "AURC": lambda x: x["aurc"],
        "excess AURC": lambda x: x["excess_aurc"],
    } | {f"accuracy at {coverage:.0%}": _at(f"{coverage:g}") for coverage in COVERAGES}
    scores, rows = numbers["scores"], []
    cells = {name: [get(x) for get in columns.values()] for name, x in scores.items()}
    best = [min, min, *[max for _ in COVERAGES]]
    tops = [f(x) for f, x in zip(best, zip(*cells.values(), strict=True), strict=True)]
    for name, values in cells.items():
        marked = [i + 1 for i, value in enumerate(values) if value == tops[i]]
        texts = [f"{x:.4f}" for x in values[:2]] + [f"{x:.2%}" for x in values[2:]]
        rows.append(page.Row([numbers["labels"][name], *texts], tuple(marked)))
    return page.Table("Selective classification", ["", *columns], rows)


def _at(coverage):
    return lambda x: x["accuracy_at_coverage"][coverage]


def compare(columns: Sequence[Column]) -> list[page.Panel]:
    """The curve of the first run of each column, by max p(y | x)."""
    curves = {
        column.label: column.numbers[0]["scores"]["max_log_prob"]["curve"]
        for column in columns
        if "max_log_prob" in column.numbers[0]["scores"]
    }
    if not curves:
        return []
    figure, caption = charts.risk_coverage(curves), "Confidence is max p(y | x)."
    title = "Risk against coverage."
    return [page.figure_panel(figure, "risk_coverage", title, caption)]


TASK = Task(
    compute,
    title="Selective classification",
    verdict=verdict,
    measures=measures,
    section=section,
    compare=compare,
    glossary=glossary.SELECTIVE,
)
