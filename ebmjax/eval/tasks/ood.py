"""Out-of-distribution detection: how well scores tell test examples from other sets."""

import functools
import logging
import pathlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence

import jax
import numpy as np
from etils import epath

from ebmjax import runs
from ebmjax.eval import (
    calibration,
    feature_scores,
    fit_features,
    ood,
    ood_sets,
    openood,
)
from ebmjax.eval.ood import SCORES, Score
from ebmjax.eval.report import charts, glossary, page
from ebmjax.eval.result import (
    COLUMNS,
    Progress,
    Result,
    has_images,
    key,
    npz,
    picture,
)
from ebmjax.eval.task import Measure, Task, Verdict

REFINEMENT_LABELS = {
    "refined_log_density": "log p(x) gained in refinement",
    "refined_grad_norm": "gradient lost in refinement",
    "refined_distance": "distance moved in refinement",
}
FITTED_LABELS = REFINEMENT_LABELS | feature_scores.LABELS
TEMPERED = "tempered_log_density"
FEATURES = "features"  # go with the scores of a batch, and are none
GROUPS = ("near", "far")  # of OpenOOD
RESERVED = (*FITTED_LABELS, TEMPERED, FEATURES)  # names that own scores cannot have
NUM_HISTOGRAMS = 3  # that are not folded away: the scores of the JEM paper
TABLES = {
    "auroc": ("AUROC", max),
    "fpr95_in": ("Share of OOD accepted with 95 % of test examples", min),
    "fpr95_out": ("Share of test examples rejected with 95 % of OOD", min),
    "aupr_in": ("AUPR, test examples positive", max),
    "aupr_out": ("AUPR, OOD positive", max),
}


def task(scores: Mapping[str, Score] = SCORES) -> Task:
    """The task with these scores: `SCORES | {"mine": Score(fn, "my score")}`.

    Raises ValueError for a name that cannot be part of a file name.
    """
    for name in scores:
        if not re.fullmatch(r"[\w.-]+", name) or name in RESERVED:
            raise ValueError(
                f"{name!r} cannot be the name of an OOD score: use letters, digits and"
                " underscores, and none of " + ", ".join(RESERVED)
            )
    return TASK._replace(compute=functools.partial(compute, scores=scores))


def compute(
    run: runs.Run, progress: Progress, scores: Mapping[str, Score] = SCORES
) -> Result:
    """AUROC, AUPR and FPR of each score against each set of `eval.ood.sets`, `near`
    and `far`, and their means.

    A set that cannot be read is an {"error": why} in its place, a score that is not
    finite somewhere is one in "not_finite"; the others stay.
    """
    c = run.config.eval.ood
    test = run.splits().test.image[: c.num_images]
    asked = tuple(dict.fromkeys((*c.sets, *c.near, *c.far)))
    images, sets = ood_sets.read_all(run, asked, test, progress)
    images = {"test": test} | images
    if c.temperature:
        fn, label = ood.tempered_log_density(c.temperature), "log p(x) at T ="
        scores = {**scores, TEMPERED: Score(fn, f"{label} {c.temperature:g}")}
    by_set = _scores(run, scores, images, progress)
    features = {name: values.pop(FEATURES, None) for name, values in by_set.items()}
    for name, fitted in fit_features.scores(run, features, progress).items():
        by_set[name] |= fitted
    not_finite = _not_finite(by_set)
    labels = {name: score.label for name, score in scores.items()} | FITTED_LABELS
    # In the order of the scores; a compiled function returns them alphabetically.
    computed = by_set["test"].keys() - not_finite.keys()
    kept = [score for score in labels if score in computed]
    if not kept:
        raise ValueError(f"no score is finite: {not_finite}")
    inside = by_set.pop("test")
    for name, outside in by_set.items():
        metrics = {k: ood_metrics(inside[k], outside[k]) for k in kept}
        sets[name] = {"num_images": len(images[name]), "scores": metrics}
    seen = ood_sets.seen_in_training(run, list(sets))
    if seen:
        logging.warning("the run was trained on outliers of %s", ", ".join(seen))
    completed = {name: x["scores"] for name, x in sets.items() if "scores" in x}
    rows = {name: x[:COLUMNS] for name, x in images.items() if len(x) >= COLUMNS}
    numbers = {
        "num_images": len(test),
        "noise_std": c.noise_std,
        "refine_steps": c.refine_steps,
        "labels": {score: labels[score] for score in kept},
        "axes": {name: score.axis for name, score in scores.items() if score.axis},
        "num_fit": min(c.num_fit, len(run.splits().train.label)),
        "sets": {name: sets[name] for name in asked},  # in order
        "mean": _mean([*completed.values()]),
        "groups": {
            group: _mean([completed[name] for name in c[group] if name in completed])
            for group in GROUPS
            if c[group]
        },
        "pictured": list(rows) if has_images(run) else [],
        "not_finite": not_finite,
        "seen_in_training": seen,
    }
    arrays = {"test": inside} | by_set
    arrays = {f"{n}/{k}": v for n, x in arrays.items() for k, v in x.items()}
    files = {"ood_scores.npz": npz(arrays)}
    if numbers["groups"]:
        logits, label = run.logits(test), run.splits().test.label[: len(test)]
        accuracy = calibration.accuracy(logits, label)
        files["openood.csv"] = openood.table(numbers, accuracy).encode()
    if numbers["pictured"]:
        files["ood_examples.png"] = picture(np.concatenate([*rows.values()]), COLUMNS)
    return Result(numbers, files)


def _scores(run, scores, images, progress):
    """{set: {score: [N]}}, all sets in one call, so that scores are compiled once."""
    c = run.config.eval.ood

    def score_batch(model, key, image):
        k_noise, k_chain = jax.random.split(key)
        x = model.to_float(image)
        x = x + c.noise_std * jax.random.normal(k_noise, x.shape)
        values = {}
        for name, score in scores.items():
            values[name] = score(model.logits, x)
            if values[name].shape != x.shape[:1]:
                raise ValueError(
                    f"OOD score {name!r} returned shape {values[name].shape} for"
                    f" {len(x)} examples, expected {x.shape[:1]}"
                )
        if c.refine_steps:
            refined = ood.refinement_scores(
                k_chain,
                model.logits,
                x,
                num_steps=c.refine_steps,
                sampler=run.sampler,
            )
            values |= {f"refined_{k}": v for k, v in refined._asdict().items()}
        if c.num_fit:
            values[FEATURES] = model.features(x)
        return values

    values = run.map(
        score_batch,
        np.concatenate(list(images.values())),
        key=key(run, "ood"),
        progress=progress(f"scores of {', '.join(images)}"),
    )
    ends = np.cumsum([len(x) for x in images.values()])[:-1]
    by_set = {name: {} for name in images}
    for score, of_all in values.items():
        for name, of_set in zip(images, np.split(of_all, ends), strict=True):
            by_set[name][score] = of_set
    return by_set


def _not_finite(by_set):
    """{score: {"error": where it is NaN or infinite}}: such scores rank nothing."""
    errors = {}
    for name, scores in by_set.items():
        for score, values in scores.items():
            if bad := int(np.sum(~np.isfinite(values))):
                where = f"{bad} of {len(values)} examples of {name}"
                errors.setdefault(score, {"error": f"not finite on {where}"})
    return errors


def ood_metrics(score_in: np.ndarray, score_out: np.ndarray) -> dict[str, float]:
    """[N], [M] -> AUROC, AUPR and FPR at 95 %, the latter two in both directions."""
    pair = score_in, score_out
    return {
        "auroc": ood.auroc(*pair),
        "aupr_in": ood.aupr(*pair),
        "aupr_out": ood.aupr(*pair, positive="out"),
        "fpr95_in": ood.fpr_at_tpr(*pair),
        "fpr95_out": ood.fpr_at_tpr(*pair, positive="out"),
    }


def _mean(sets):
    """Of {score: {metric: number}} over sets."""
    if not sets:
        return {}
    return {
        score: {
            metric: float(np.mean([x[score][metric] for x in sets]))
            for metric in TABLES
        }
        for score in sets[0]
    }


# --- how it is shown -----------------------------------------------------------


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


TASK = Task(
    compute,
    title="Out-of-distribution detection",
    verdict=ood_verdict,
    measures=measures,
    section=section,
    glossary=glossary.OOD,
)
