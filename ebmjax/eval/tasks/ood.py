"""Out-of-distribution detection: how well scores tell test examples from other sets."""

import functools
import logging
import re
from collections.abc import Mapping

import jax
import numpy as np

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
from ebmjax.eval.report import glossary
from ebmjax.eval.result import (
    COLUMNS,
    Progress,
    Result,
    has_images,
    key,
    npz,
    picture,
)
from ebmjax.eval.task import Task
from ebmjax.eval.tasks.ood_report import TABLES, measures, ood_verdict, section

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
    outside = {name: x for name, x in images.items() if name != "test"}
    seen = ood_sets.seen_in_training(run, outside)
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


TASK = Task(
    compute,
    title="Out-of-distribution detection",
    verdict=ood_verdict,
    measures=measures,
    section=section,
    glossary=glossary.OOD,
)
