"""The tables and pictures of `experiments.photographs`, from its committed files."""

import json
import pathlib
import statistics
from collections.abc import Callable
from typing import NamedTuple

import matplotlib.pyplot as plt

TITLES = {
    "classifier": "classifier",
    "ng_ebm": "NG-EBM, β = γ = 1",
    "ng_ebm_0.1": "NG-EBM, β = γ = 0.1",
    "ng_ebm_0.01": "NG-EBM, β = γ = 0.01",
    "energy_variance": "energy variance alone, β = 1",
    "approximate_mass": "approximate mass alone, γ = 1",
    "hdge": "HDGE",
    "adversarial": "adversarial training, L∞ 8/255",
    "outlier_exposure": "outlier exposure (letters)",
    "jem_5": "JEM, 5 clipped steps",
    "sada_jem": "SADA-JEM's recipe, 5 steps",
    "jem": "JEM, 20 steps",
    "jem_ng_ebm": "JEM with β = γ = 0.1",
}


HISTOGRAMS, COSTS = "histograms.json", "costs.json"
PICTURED = ("classifier", "ng_ebm_0.01", "hdge", "jem_5", "sada_jem")  # by `draw_ood`
CURVES = ("classifier", "ng_ebm", "ng_ebm_0.01", "hdge", "jem_5")  # by `draw`
CURVES += ("jem", "sada_jem", "outlier_exposure", "adversarial")
NUM_CURVES = 6  # the first of these methods that have results
SETS = {  # OOD sets, by the stem of their names
    "mnist": "MNIST",
    "kmnist": "KMNIST",
    "notmnist": "notMNIST",
    "omniglot_small": "Omniglot",
    "gtsrb32": "traffic signs",
    "gtsrb32_jpeg75": "traffic signs (JPEG 75)",
    "tiny_imagenet32": "Tiny ImageNet",
    "interpolation": "interpolations",
    "uniform": "uniform noise",
    "test": "test images",
}


class Row(NamedTuple):
    name: str
    form: str
    get: Callable[[dict], float | None]
    varies: bool = True  # between seeds


def _get(numbers, *path):
    """None if that was not measured."""
    for name in path:
        if name not in numbers:
            return None
        numbers = numbers[name]
    return numbers


def _eps(norm, text):
    def get(numbers):
        attacked = _get(numbers, "attacks", "norms", norm) or {}
        found = [
            r["accuracy"] for r in attacked.get("sweep", ()) if r["eps_text"] == text
        ]
        return found[0] if found else None

    return get


def _buffer_distance(numbers):
    """By the features of the classifier, if it was measured so."""
    scores = _get(numbers, "samples", "scores") or {}
    if scores.get("extractor") in (None, "this run"):
        return None
    return _get(scores, "sets", "buffer", "frechet_distance")


def _mean_confidence(numbers):
    bins = numbers["as_trained"]["reliability"]
    pairs = list(zip(bins["counts"], bins["confidence"], strict=True))
    total = sum(count for count, _ in pairs)
    return sum(count * mean for count, mean in pairs if count) / total


ROWS = [
    Row("cost of a step", "{:.1f}", lambda n: n["cost"], varies=False),
    Row("accuracy, %", "{:.1%}", lambda n: n["classification"]["accuracy"]),
    Row("mean confidence, %", "{:.1%}", lambda n: _mean_confidence(n["calibration"])),
    Row("NLL, nats", "{:.3f}", lambda n: n["classification"]["nll"]),
    Row("ECE, 15 bins, %", "{:.1%}", lambda n: n["classification"]["ece"]),
    Row("temperature", "{:.2f}", lambda n: n["calibration"]["temperature"]["value"]),
    Row(
        "ECE after temperature, %",
        "{:.1%}",
        lambda n: n["calibration"]["temperature"]["ece"],
    ),
    Row(
        "ECE under corruptions, %",
        "{:.1%}",
        lambda n: _get(n, "shift", "mean", "all", "ece"),
    ),
    Row(
        "AURC, max p, %",
        "{:.2%}",
        lambda n: _get(n, "selective", "scores", "max_log_prob", "aurc"),
    ),
    Row("PGD, L∞ 2/255, %", "{:.1%}", _eps("linf", "2/255")),
    Row("PGD, L∞ 8/255, %", "{:.1%}", _eps("linf", "8/255")),
    Row("PGD, L2 0.5, %", "{:.1%}", _eps("l2", "0.5")),
    Row("Fréchet distance of the buffer", "{:.3g}", _buffer_distance),
]
SCORES = {
    "log_density": "log p(x)",
    "max_log_prob": "max p",
    "approximate_mass": "approximate mass",
    "nearest_neighbour": "nearest neighbours",
}

HEADLINE = (  # README's columns
    "cost of a step",
    *("accuracy, %", "ECE, 15 bins, %", "ECE after temperature, %"),
    *("ECE under corruptions, %", "PGD, L∞ 8/255, %"),
    *("AUROC, mean, log p(x)", "AUROC, mean, max p", "AUROC, mean, approximate mass"),
    "AUROC, mean, nearest neighbours",
    "Fréchet distance of the buffer",
)


def read_results(folder: pathlib.Path) -> dict[str, list[dict]]:
    """{method: the eval.json of each seed, and "cost"}, in the order of `TITLES`."""
    path, found = folder / COSTS, {}
    costs = json.loads(path.read_text()) if path.exists() else {}
    for method in TITLES:
        paths = sorted(folder.glob(f"{method}-[0-9]*/eval.json"))
        if paths:
            cost = {"cost": costs.get(method)}
            found[method] = [json.loads(path.read_text()) | cost for path in paths]
    return found


def table(results: dict[str, list[dict]], columns: tuple[str, ...] = ()) -> str:
    """Markdown: a row a method, the mean over its seeds ± their standard deviation.

    All columns, unless some are named, but for those of which nothing was measured.
    """
    rows = ROWS + _ood_rows(next(iter(results.values()))[0])
    rows = [
        row
        for row in rows
        if row.name in (columns or {row.name})
        and any(_cell(row, seeds) for seeds in results.values())
    ]
    head = ["method", "seeds", *(row.name for row in rows)]
    lines = [head, ["---"] * len(head)]
    for method, seeds in results.items():
        cells = [_cell(row, seeds) for row in rows]
        lines.append([TITLES[method], str(len(seeds)), *cells])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def _ood_rows(numbers):
    """The mean over the sets, and each set by log p(x)."""

    def of(name, score, metric):
        if name == "mean":
            return lambda n: _get(n, "ood", "mean", score, metric)
        return lambda n: n["ood"]["sets"][name]["scores"][score][metric]

    rows = [
        Row(f"AUROC, mean, {text}", "{:.3f}", of("mean", score, "auroc"))
        for score, text in SCORES.items()
    ]
    rows.append(Row("FPR95, mean, log p(x), %", "{:.1%}", _mean_fpr95))
    return rows + [
        Row(
            f"AUROC, {set_title(name)}, log p(x)",
            "{:.3f}",
            of(name, "log_density", "auroc"),
        )
        for name in numbers["ood"]["sets"]
    ]


def _mean_fpr95(numbers):
    return _get(numbers, "ood", "mean", "log_density", "fpr95_in")


def draw(folder: pathlib.Path, path: pathlib.Path) -> None:
    """Accuracy, confidence and ECE of validation along training, and the reliability of
    the test set at its end, before and after a temperature, of seed 0."""
    methods = [name for name in CURVES if (folder / f"{name}-0").exists()]
    figure, axes = plt.subplots(2, 3, figsize=(12, 6), layout="constrained")
    *curves, before, after, legend = axes.flat
    keys = {"accuracy": "accuracy", "confidence": "mean confidence", "ece": "ECE"}
    for method in methods[:NUM_CURVES]:
        run = folder / f"{method}-0"
        lines = (run / "curve.jsonl").read_text().splitlines()
        lines = [json.loads(line) for line in lines]
        steps = [line["step"] for line in lines]
        for ax, key in zip(curves, keys, strict=True):
            values = [100 * line[key] for line in lines]
            ax.plot(steps, values, ".-", label=TITLES[method])
        numbers = json.loads((run / "eval.json").read_text())["calibration"]
        for ax, which in {before: "as_trained", after: "temperature"}.items():
            if points := _reliability(_get(numbers, which, "reliability")):
                ax.plot(*zip(*points, strict=True), ".-")
    for ax, title in zip(curves, keys.values(), strict=True):
        ax.set(title=f"validation: {title}, %", xlabel="training step")
    titles = {before: "as trained", after: "after a temperature"}
    for ax, title in titles.items():
        ax.axline((50, 50), slope=1, color="grey", linestyle="dotted")
        ax.set(title=f"test: reliability {title}", xlabel="confidence, %")
        ax.set_ylabel("accuracy, %")
    for ax in (*curves, before, after):
        ax.grid(alpha=0.3)
    legend.set_axis_off()
    handles = curves[0].get_legend_handles_labels()
    legend.legend(*handles, loc="center", title="seed 0")
    figure.savefig(path, dpi=80)
    plt.close(figure)


def _reliability(bins):
    """(confidence, accuracy), in %, of the bins with 20 images and more."""
    if bins is None:
        return []
    names = ("counts", "confidence", "accuracy")
    rows = zip(*(bins[name] for name in names), strict=True)
    return [
        (100 * confidence, 100 * accuracy)
        for count, confidence, accuracy in rows
        if count >= 20
    ]


def draw_ood(folder: pathlib.Path, path: pathlib.Path) -> None:
    """log p(x) of the test set and of each OOD set, with its AUROC, of seed 0 of the
    methods `PICTURED` that have results."""
    files = {method: folder / f"{method}-0" / HISTOGRAMS for method in PICTURED}
    files = {method: file for method, file in files.items() if file.exists()}
    if not files:
        return
    rows = -(-len(files) // 2)
    figure, axes = plt.subplots(
        rows, 2, figsize=(11, 2.5 * rows), layout="constrained", squeeze=False
    )
    for ax in axes.flat[len(files) :]:
        ax.set_axis_off()
    for ax, (method, file) in zip(axes.flat, files.items(), strict=False):
        edges, counts = json.loads(file.read_text()).values()
        aurocs = _aurocs(file.with_name("eval.json"))
        for name, heights in counts.items():
            test = {"fill": True, "alpha": 0.35, "color": "black"}
            shares = [100 * height / sum(heights) for height in heights]
            style = test if name == "test" else {}
            label = " ".join([set_title(name), *aurocs.get(name, ())])
            ax.stairs(shares, edges, label=label, linewidth=1.5, **style)
        ax.set(title=TITLES[method], xlabel="log p(x) + constant", ylabel="images, %")
        title = "AUROC, seed 0" if aurocs else None
        ax.legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize=8, title=title)
    figure.savefig(path, dpi=80)
    plt.close(figure)


def _aurocs(path):
    """{set: [its AUROC by log p(x) as text]}; nothing without eval.json."""
    if not path.exists():
        return {}
    sets = json.loads(path.read_text())["ood"]["sets"]
    score = "log_density"
    return {k: [f"{v['scores'][score]['auroc']:.3f}"] for k, v in sets.items()}


def set_title(name: str) -> str:
    """Of an OOD set: its name in `SETS`, or that of its file."""
    stem = pathlib.PurePath(name).stem
    return SETS.get(stem, stem)


def _cell(row, seeds):
    """Empty where a run was not evaluated so."""
    values = [row.get(numbers) for numbers in seeds]
    if None in values:
        return ""
    mean, form = statistics.fmean(values), row.form
    text = form.format(mean).rstrip("%")
    if len(values) > 1 and row.varies:
        text += " ± " + form.format(statistics.stdev(values)).rstrip("%")
    return text
