"""How the numbers of the OOD task are shown."""

import pathlib
from collections import Counter
from collections.abc import Sequence

import numpy as np
from etils import epath

from ebmjax.eval import ood
from ebmjax.eval.report import charts, page
from ebmjax.eval.task import Measure, Verdict

NUM_HISTOGRAMS = 3  # that are not folded away: the scores of the JEM paper
TABLES = {
    "auroc": ("AUROC", max),
    "fpr95_in": ("Share of OOD accepted with 95 % of test examples", min),
    "fpr95_out": ("Share of test examples rejected with 95 % of OOD", min),
    "aupr_in": ("AUPR, test examples positive", max),
    "aupr_out": ("AUPR, OOD positive", max),
}


def set_labels(names: Sequence[str]) -> dict[str, str]:
    """{set: how it is called}: for a path its last part, if that is not ambiguous."""
    last = {name: pathlib.PurePath(name).name or name for name in names}
    counts = Counter([*last.values(), "test"])
    return {name: label if counts[label] == 1 else name for name, label in last.items()}


def _completed_sets(numbers):
    return {n: x["scores"] for n, x in numbers["sets"].items() if "scores" in x}


def ood_verdict(numbers: dict) -> Verdict:
    sets, labels = _completed_sets(numbers), set_labels(numbers["sets"])
    unread = [labels[name] for name, x in numbers["sets"].items() if "error" in x]
    failed = f"failed: {', '.join(unread)}" if unread else ""
    if not sets:
        return Verdict("no set", failed or "config.eval.ood.sets is empty")
    main, *others = list(numbers["labels"])[:NUM_HISTOGRAMS]
    hardest = min(sets, key=lambda name: sets[name][main]["auroc"])
    label, mean = numbers["labels"], numbers["mean"]
    details = [
        f"by {label[main]}, mean of {len(sets)} sets; the hardest is {labels[hardest]}"
        f" with {sets[hardest][main]['auroc']:.3f}",
        *(f"{label[score]} {mean[score]['auroc']:.3f}" for score in others),
        *([failed] if failed else []),
        *([_seen(numbers)] if _seen(numbers) else []),
    ]
    return Verdict(f"AUROC {mean[main]['auroc']:.3f}", "; ".join(details))


def _seen(numbers):
    """A warning, or "": detecting outliers of the training is no evidence."""
    labels, seen = set_labels(numbers["sets"]), numbers.get("seen_in_training", ())
    names = ", ".join(labels[name] for name in seen)
    return f"warning: trained on outliers of {names}" if seen else ""


def measures(numbers: dict) -> list[Measure]:
    mean = numbers["mean"]
    return [
        Measure(f"mean AUROC, {label}", mean[score]["auroc"], "", "higher")
        for score, label in numbers["labels"].items()
        if score in mean
    ]


def section(numbers: dict, folder: epath.Path) -> page.Section:
    sets, labels = _completed_sets(numbers), set_labels(numbers["sets"])
    text = (
        f"Each score should be larger on the {numbers['num_images']:,} test examples"
        " than on those of other sets."
    )
    if std := numbers["noise_std"]:
        text += (
            f" All carry Gaussian noise of {std:g}, in units of the network's input."
        )
    if steps := numbers["refine_steps"]:
        text += f" Refinement is {steps} sampling steps."
    for label, reason in numbers.get("missing", {}).items():
        text += f" Without {label}: {reason}."
    if warning := _seen(numbers):
        text += f" {warning.capitalize()}: its numbers say nothing of other sets."
    histograms, rocs = [], []
    arrays = page.load_arrays(folder / "ood_scores.npz")
    for score, label in numbers["labels"].items() if sets else ():
        figure = _histogram(numbers, arrays, sets, score)
        histograms.append(page.figure_panel(figure, f"ood_{score}", f"{label}."))
        curves = {labels[name]: _roc(arrays, name, score) for name in sets}
        axes = "out-of-distribution accepted", "test images accepted"
        figure = charts.curves(curves, *axes, of_shares=True, first=1)
        rocs.append(page.figure_panel(figure, f"roc-{score}", f"ROC by {label}."))
    panels = histograms[:NUM_HISTOGRAMS]
    if "ood_examples.png" in numbers["files"]:
        order = ", ".join(labels.get(name, name) for name in numbers["pictured"])
        path = folder / "ood_examples.png"
        panels.append(page.picture_panel(path, "The sets.", f"Rows: {order}."))
    tables = [_table(numbers, sets, metric) for metric in TABLES if sets]
    return page.Section(
        text,
        panels,
        tables[:2],
        more_title="More tables, ROC curves and the other scores" if sets else "",
        more_tables=tables[2:],
        more_panels=rocs + histograms[NUM_HISTOGRAMS:],
    )


def _histogram(numbers, arrays, sets, score):
    """Of one score, on the test set and on `sets`."""
    labels = {"test": "test"} | set_labels(numbers["sets"])
    named = {labels[name]: arrays[f"{name}/{score}"] for name in ("test", *sets)}
    axis = numbers["axes"].get(score) or numbers["labels"][score]
    return charts.histograms(named, axis)


def _roc(arrays, name, score):
    """At most 200 points of the curve: shares accepted of the set, and of test."""
    roc = ood.roc_curve(arrays[f"test/{score}"], arrays[f"{name}/{score}"])
    keep = np.linspace(0, len(roc.thresholds), 200).round().astype(int)
    counts = (roc.false_positives, roc.true_positives)
    return tuple(np.append(0, x / x[-1])[np.unique(keep)] for x in counts)


def _table(numbers, sets, metric):
    """One row a score, one column a set, the best of a column marked."""
    (title, best), labels = TABLES[metric], set_labels(numbers["sets"])
    groups = {name: mean for name, mean in numbers.get("groups", {}).items() if mean}
    columns = [*sets.values(), *groups.values(), numbers["mean"]]
    tops = [best(scores[metric] for scores in column.values()) for column in columns]
    rows = []
    for score, label in numbers["labels"].items():
        values = [column[score][metric] for column in columns]
        marked = [i for i, value in enumerate(values) if value == tops[i]]
        cells = [label, *(f"{value:.3f}" for value in values)]
        rows.append(page.Row(cells, tuple(i + 1 for i in marked)))
    head = ["", *(labels[name] for name in sets), *groups, "mean"]
    return page.Table(title, head, rows)
