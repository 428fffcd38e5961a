"""Counterfactuals: test images moved towards other classes by the model's energy."""

import itertools
from collections.abc import Sequence

import numpy as np
from etils import epath

from ebmjax import augment, pictures, runs
from ebmjax.eval import energies
from ebmjax.eval.report import glossary, page
from ebmjax.eval.result import (
    COLUMNS,
    Progress,
    Result,
    has_images,
    key,
    npz,
    picture,
    skipped,
    to_uint8,
)
from ebmjax.eval.task import Column, Measure, Task, Verdict, format_number

FILE = "counterfactuals.png"


def compute(run: runs.Run, progress: Progress) -> Result:
    """Chains on E(x, class) from one test image of each class to each class.

    At most `COLUMNS` classes, the first ones that the test set has.
    """
    if not has_images(run):
        return skipped("counterfactuals are shown as pictures: the data are vectors")
    num_steps, test = run.config.eval.counterfactuals.num_steps, run.splits().test
    classes = np.unique(test.label)[:COLUMNS]
    first = [np.flatnonzero(test.label == k)[0] for k in classes]
    start = np.asarray(augment.to_float(test.image[first]))
    found = _chains(run, start, classes, num_steps, progress("chains to each class"))
    ends = found.x.reshape(len(classes), len(classes), *run.image_shape)
    numbers = {
        "num_steps": num_steps,
        "classes": [run.class_names[k] for k in classes],
        "test_images": first,
        "log_density_of_image": run.log_density(start),
        "confidence": found.confidence.reshape(ends.shape[:2]),
        "log_density": found.log_density.reshape(ends.shape[:2]),
        "distance": found.distance.reshape(ends.shape[:2]) / 2,  # of [0, 1]
    }
    numbers["mean"] = mean_of_pairs(numbers)
    images = to_uint8(np.concatenate([start[:, None], ends], axis=1))
    files = {
        FILE: picture(images.reshape(-1, *run.image_shape), images.shape[1]),
        "counterfactuals.npz": npz({"x": images}),
    }
    return Result(numbers, files)


def _chains(run, start, classes, num_steps, progress):
    """One for each pair of an image of `start` and a class, the images in order."""
    pairs = itertools.product(range(len(start)), classes)
    source, towards = np.int32([*pairs]).T

    def move(model, key, x, targets):
        return energies.counterfactual(
            key,
            model.logits,
            x,
            targets,
            num_steps=num_steps,
            sampler=run.sampler,
        )

    return run.map(
        move,
        start[source],
        towards,
        key=key(run, "counterfactuals"),
        progress=progress,
    )


def mean_of_pairs(numbers: dict) -> dict:
    """Over the chains to another class, without those that have diverged."""
    arrays = {k: numbers[k] for k in ("confidence", "log_density", "distance")}
    before = np.asarray(numbers["log_density_of_image"])[:, None]
    arrays["log_density_gain"] = arrays["log_density"] - before
    others = ~np.eye(len(before), dtype=bool)
    kept = others & np.all([np.isfinite(x) for x in arrays.values()], axis=0)
    counts = {"num": int(others.sum()), "num_diverged": int((others & ~kept).sum())}
    means = {k: float(np.mean(x[kept])) for k, x in arrays.items() if kept.any()}
    return counts | means


# --- how it is shown -----------------------------------------------------------


def counterfactuals_verdict(numbers: dict) -> Verdict:
    mean = numbers["mean"]
    num, num_diverged = mean["num"], mean["num_diverged"]
    if num == num_diverged:
        return Verdict("–", f"all {num} chains diverged")
    detail = (
        f"mean p(class | x) after {numbers['num_steps']} steps towards another class,"
        f" at an L2 distance of {mean['distance']:.3g}; log p(x) changes by"
        f" {mean['log_density_gain']:+.3g} nats"
    )
    if num_diverged:
        detail += f"; {num_diverged} of {num} chains diverged"
    return Verdict(f"{mean['confidence']:.1%}", detail)


def measures(numbers: dict) -> list[Measure]:
    mean = numbers["mean"]
    return [
        Measure("counterfactuals, confidence", mean.get("confidence"), "%"),
        Measure("counterfactuals, L2 distance", mean.get("distance")),
        Measure(
            "counterfactuals, change of log p(x)", mean.get("log_density_gain"), "nats"
        ),
    ]


def section(numbers: dict, folder: epath.Path) -> page.Section:
    text = (
        f"A test image of each class after {numbers['num_steps']} SGLD steps on"
        " E(x, class): what would the model have to see to take it for another class?"
        " log p(x, class) = log p(class | x) + log p(x), so chains go where images of"
        " the class are likely, not only where the answer changes. Chains are not"
        " clipped to the range of pixels; pictures are."
    )
    classes = ", ".join(numbers["classes"])
    grid = page.picture_panel(
        folder / FILE,
        "From each class to each class.",
        f"First column: test images; the others: where chains to {classes} end.",
    )
    return page.Section(text, [grid], tiles=_tiles(numbers, folder))


def _tiles(numbers, folder):
    """Each image beside its counterfactual of the next class."""
    images = page.load_arrays(folder / "counterfactuals.npz")["x"]
    classes = numbers["classes"]
    tiles = []
    for i, name in enumerate(classes):
        j = (i + 1) % len(classes)
        title = f"{name} to {classes[j]}"
        pair = pictures.grid(images[i, [0, 1 + j]], 2)
        tag = page.image_tag(pictures.png(pair, height=96), f"counterfactual: {title}")
        tiles.append(page.Panel(tag, title, _caption(numbers, i, j)))
    return page.Tiles(
        "Images and their counterfactuals of the next class",
        "L2 distances are of images in [0, 1]; in brackets the change of log p(x).",
        tiles,
    )


def _caption(numbers, i, j):
    after, before = numbers["log_density"][i][j], numbers["log_density_of_image"][i]
    gain = None if None in (after, before) else after - before
    gain, after = (format_number(value, "+.2f") for value in (gain, after))
    sure = format_number(numbers["confidence"][i][j], ".0%")
    distance = format_number(numbers["distance"][i][j], ".2f")
    return f"{sure} sure, distance {distance}, log p {after} ({gain})"


def compare(columns: Sequence[Column]) -> list[page.Panel]:
    """The pictures of the first run of each column."""
    caption = "First column: test images; the others: moved to each class."
    return [page.picture_panel(c.folder / FILE, c.label, caption) for c in columns]


TASK = Task(
    compute,
    title="Counterfactuals",
    verdict=counterfactuals_verdict,
    measures=measures,
    section=section,
    compare=compare,
    glossary=glossary.COUNTERFACTUALS,
)
