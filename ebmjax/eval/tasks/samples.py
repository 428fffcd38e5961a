"""Samples: chains and the replay buffer, their energies and distances to the data, and
the test images that the model finds most and least likely."""

import functools
from collections.abc import Sequence

import numpy as np
from etils import epath

from ebmjax import runs
from ebmjax.eval import calibration, sample_scores, samples
from ebmjax.eval.report import charts, glossary, page
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

PER_CLASS = 5  # images a class at each end
STARTS = {
    "uniform": "uniform noise",
    "gaussian": "a Gaussian of the training images",
    "class_gaussian": "Gaussians of the classes",
    "own": "the recipe's own starts",
}


def compute(run: runs.Run, progress: Progress) -> Result:
    """Chains and their energies, what the model finds likely, distances to data."""
    if not has_images(run):
        return skipped("samples are shown as pictures: the data are vectors")
    c, splits = run.config.eval.samples, run.splits()
    extract = sample_scores.extractor(run)  # before anything that takes long
    columns = min(run.num_classes, COLUMNS)
    start, chains = _chains(run, c.num_chains, progress("chains on p(x)"))
    labels = np.tile(np.arange(columns, dtype=np.int32), PER_CLASS)
    by_class = _chains(run, len(labels), progress("chains on p(x | y)"), labels)[1]
    finite = np.isfinite(chains.x).all(axis=(1, 2, 3))
    if not finite.any():
        raise ValueError(f"all {c.num_chains} chains have left the finite numbers")
    images = {"chains": to_uint8(chains.x[finite])}
    if run.buffer is not None:  # at random, for its blocks may be classes
        order = np.random.default_rng(run.config.seed).permutation(len(run.buffer))
        images["buffer"] = to_uint8(run.buffer[order[: c.num_chains]])

    progress("energies")
    energies = {"test": run.energy(splits.test.image), "starts": run.energy(start)}
    energies |= {name: run.energy(x) for name, x in images.items()}
    progress("nearest training images")
    kind = "buffer" if "buffer" in images else "chains"
    likely = images[kind][samples.extremes(-energies[kind], COLUMNS)[0]]
    near = samples.nearest(likely, splits.train.image, 5)
    neighbours = [likely, *splits.train.image[near.T]]
    pictures = {name: picture(x[:100], COLUMNS) for name, x in images.items()} | {
        "chains_by_class": picture(by_class.x, columns),
        "neighbours": picture(np.concatenate(neighbours), len(likely)),
        **_extremes(run, -energies["test"], columns),
    }
    quantiles = np.quantile(chains.energy[finite], [0.05, 0.5, 0.95], axis=0)
    numbers = {
        "num_chains": c.num_chains,
        "num_diverged": int(np.sum(~finite)),  # and left out
        "num_steps": c.num_steps,
        "init": "own" if run.chain_init else run.config.sgld.init,
        "step_size": run.config.sgld.step_size,
        "noise_std": run.config.sgld.noise_std,
        "mean_energy": {name: float(np.mean(e)) for name, e in energies.items()},
        "trace": dict(zip(("q05", "median", "q95"), quantiles, strict=True)),
        "class_columns": list(run.class_names[:columns]),
        "neighbours_of": kind,
        "scores": sample_scores.scores(
            run, extract, images, progress("features of samples and data")
        ),
    }
    files = {f"{name}.png": png for name, png in pictures.items()}
    files |= {"energies.npz": npz(energies), "samples.npz": npz(images)}
    return Result(numbers, files)


def _chains(run, num, progress, labels=None):
    """Where `num` fresh chains start, and the chains: on p(x), or p(x | y)."""
    c = run.config.eval.samples
    name = "chains" if labels is None else "class chains"
    start = run.fresh_starts(key(run, f"start of {name}"), num, labels)

    def from_start(model, key, start, labels=None):
        return samples.chains(
            key,
            functools.partial(model.energy, labels=labels),
            start,
            num_steps=c.num_steps,
            sampler=run.sampler,
        )

    arrays = (start,) if labels is None else (start, labels)
    return start, run.map(from_start, *arrays, key=key(run, name), progress=progress)


def _extremes(run, log_density, columns):
    """Pictures of the test images that the model finds most and least likely."""
    test = run.splits().test
    log_probs = np.log(calibration.softmax(run.logits(test.image)) + 1e-300)
    of_label = log_probs[np.arange(len(test.label)), test.label]
    by_label = samples.extremes_per_class(of_label, test.label, PER_CLASS)
    per_class = [by_label[k] for k in sorted(by_label)[:columns]]
    count = min(len(best) for best, _ in per_class)  # classes may be small
    rows = [np.array([ends[i][:count] for ends in per_class]).T for i in (0, 1)]
    best, worst = samples.extremes(log_density, 2 * COLUMNS)
    return {
        "test_likely": picture(test.image[best], COLUMNS),
        "test_unlikely": picture(test.image[worst], COLUMNS),
        "test_sure": picture(test.image[rows[0].ravel()], len(per_class)),
        "test_unsure": picture(test.image[rows[1].ravel()], len(per_class)),
    }


# --- how it is shown -----------------------------------------------------------


def sample_quality_verdict(numbers: dict) -> Verdict:
    scores, name = numbers["scores"], numbers["neighbours_of"]
    distance = {k: row["frechet_distance"] for k, row in scores["sets"].items()}
    detail = (
        f"{sample_scores.distance_name(scores)} of {scores['num_samples']} images of"
        f" the {'replay buffer' if name == 'buffer' else 'chains'} to training images;"
        f" test images have {format_number(distance['test'], '.3g')}"
    )
    if numbers["num_diverged"]:
        total = numbers["num_chains"]
        detail += f"; {numbers['num_diverged']} of {total} chains diverged"
    short = "FID" if sample_scores.is_inception(scores) else "FD"
    return Verdict(f"{short} {format_number(distance[name], '.3g')}", detail)


def measures(numbers: dict) -> list[Measure]:
    scores = numbers["scores"]
    # By its own features each run is measured with another rule.
    better = "lower" if scores["extractor"] != "this run" else ""
    return [
        Measure(
            f"{sample_scores.distance_name(scores)}, {name}",
            row["frechet_distance"],
            "",
            better,
        )
        for name, row in scores["sets"].items()
    ]


def section(numbers: dict, folder: epath.Path) -> page.Section:
    start = STARTS[numbers.get("init", "uniform")]
    steps = (
        f"from {start}, {numbers['num_steps']} SGLD steps of size"
        f" {numbers['step_size']:g}, noise {numbers['noise_std']:g}."
    )
    columns = f"Columns: {', '.join(numbers['class_columns'])}."
    neighbours = f"Most likely of the {numbers['neighbours_of']},"
    below = "selected by log p(x), and below each its five nearest training images."
    of_model = {
        "buffer": ("Replay buffer,", "drawn at random."),
        "chains": ("Chains on p(x)", steps),
        "chains_by_class": ("Chains on p(x | y)", f"{steps} {columns}"),
        "neighbours": (neighbours, below),
    }
    if "buffer.png" not in numbers["files"]:
        del of_model["buffer"]
    of_test = {
        "test_likely": ("Most likely test images", "by log p(x)."),
        "test_unlikely": ("Least likely", "by log p(x)."),
        "test_sure": ("Most confident of each class", "by p(label | x)."),
        "test_unsure": ("Least confident", "by p(label | x)."),
    }
    text = (
        "What the model's own chains make, and what it finds likely. Lower energy is"
        " more likely: log p(x) = -E(x) - log Z."
    )
    panels = [
        *_picture_panels(folder, of_model),
        *_energy_panels(numbers, folder),
        *_picture_panels(folder, of_test),
    ]
    return page.Section(text, panels, [_table(numbers["scores"])])


def _picture_panels(folder, texts):
    return [page.picture_panel(folder / f"{name}.png", *x) for name, x in texts.items()]


def _energy_panels(numbers, folder):
    energies, trace = page.load_arrays(folder / "energies.npz"), numbers["trace"]
    order = ("test", "buffer", "chains", "starts", "noise")  # the last of old runs
    of_sets = {name: energies[name] for name in order if name in energies}
    return (
        page.figure_panel(
            charts.histograms(of_sets, "energy E(x), nats"),
            "energies",
            "Energies.",
            "Samples of a model that fits lie where test images lie.",
        ),
        page.figure_panel(
            charts.trace(trace["median"], trace["q05"], trace["q95"]),
            "energy_trace",
            "Energy along the chains.",
            f"Median and 90 % of {numbers['num_chains']} chains on p(x).",
        ),
    )


def _table(scores):
    def spread(row, metric, spec):
        mean, std = (format_number(row[metric][k], spec) for k in ("mean", "std"))
        return f"{mean} ± {std}"

    rows = [
        page.Row(
            [
                name,
                format_number(row["frechet_distance"], ".3f"),
                spread(row, "kid", ".4f"),
                spread(row, "inception_score", ".2f"),
            ]
        )
        for name, row in scores["sets"].items()
    ]
    text = (
        f"On {scores['num_features']} features and the classes of"
        f" {scores['extractor']}, {scores['num_samples']} samples of each kind against"
        f" {scores['num_reference']:,} training images."
    )
    head = ["samples", "FID", "KID", "Inception Score"]
    if sample_scores.is_inception(scores):
        text += f" Images are resized as by {scores['input']}. The papers take 50,000."
    else:
        head = [
            "samples",
            "Fréchet distance",
            "kernel distance",
            f"{head[3]}'s formula",
        ]
        text += (
            " Not FID and IS, which use an Inception network: compare with the row of"
            " test images."
        )
    text += " The samples are in eval/samples.npz."
    return page.Table("Distances to the training images", head, rows, text)


def compare(columns: Sequence[Column]) -> list[page.Panel]:
    """The replay buffer of the first run of each column, or else its chains."""
    panels = []
    for column in columns:
        files = column.numbers[0]["files"]
        name = "buffer.png" if "buffer.png" in files else "chains.png"
        panels.append(page.picture_panel(column.folder / name, column.label))
    return panels


TASK = Task(
    compute,
    title="Samples",
    verdict=sample_quality_verdict,
    measures=measures,
    section=section,
    compare=compare,
    glossary=glossary.SAMPLES,
)
