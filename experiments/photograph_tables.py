"""The tables and the picture of `experiments.photographs`, from its committed files."""

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
PICTURED = ("classifier", "ng_ebm_0.01", "hdge", "jem_5")  # by `draw_ood`


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
    Row("Fréchet distance of the buffer", "{:.0f}", _buffer_distance),
]
SCORES = {
    "log_density": "log p(x)",
    "max_log_prob": "max p",
    "approximate_mass": "approximate mass",
}

HEADLINE = (  # README's columns
    "cost of a step",
    *("accuracy, %", "ECE, 15 bins, %", "ECE after temperature, %"),
    *("ECE under corruptions, %", "AURC, max p, %", "PGD, L∞ 8/255, %"),
    *("AUROC, mean, log p(x)", "AUROC, mean, max p", "AUROC, mean, approximate mass"),
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
            return lambda n: n["ood"]["mean"][score][metric]
        return lambda n: n["ood"]["sets"][name]["scores"][score][metric]

    rows = [
        Row(f"AUROC, mean, {text}", "{:.3f}", of("mean", score, "auroc"))
        for score, text in SCORES.items()
    ]
    rows.append(Row("FPR95, mean, log p(x), %", "{:.1%}", _mean_fpr95))
    return rows + [
        Row(
            f"AUROC, {_stem(name)}, log p(x)",
            "{:.3f}",
            of(name, "log_density", "auroc"),
        )
        for name in numbers["ood"]["sets"]
    ]


def _mean_fpr95(numbers):
    return _get(numbers, "ood", "mean", "log_density", "fpr95_in")


def draw(folder: pathlib.Path, path: pathlib.Path) -> None:
    """Accuracy, confidence and ECE of validation along training, and the reliability of
    the test set at its end, of seed 0."""
    figure, axes = plt.subplots(2, 2, figsize=(9, 6.5), layout="constrained")
    *curves, reliability = axes.flat
    keys = {"accuracy": "accuracy", "confidence": "mean confidence", "ece": "ECE"}
    for method in TITLES:
        run = folder / f"{method}-0"
        if not run.exists():
            continue
        lines = (run / "curve.jsonl").read_text().splitlines()
        lines = [json.loads(line) for line in lines]
        for ax, key in zip(curves, keys, strict=True):
            values = [100 * line[key] for line in lines]
            ax.plot(
                [line["step"] for line in lines], values, ".-", label=TITLES[method]
            )
        numbers = json.loads((run / "eval.json").read_text())
        bins = numbers["calibration"]["as_trained"]["reliability"]
        points = [  # with 20 images and more
            (100 * confidence, 100 * accuracy)
            for count, confidence, accuracy in zip(
                bins["counts"], bins["confidence"], bins["accuracy"], strict=True
            )
            if count >= 20
        ]
        reliability.plot(*zip(*points, strict=True), ".-")
    for ax, title in zip(curves, keys.values(), strict=True):
        ax.set(title=f"validation: {title}, %", xlabel="training step")
    reliability.axline((50, 50), slope=1, color="grey", linestyle="dotted")
    reliability.set(title="test: reliability", xlabel="confidence, %")
    reliability.set(ylabel="accuracy, %")
    for ax in axes.flat:
        ax.grid(alpha=0.3)
    handles = curves[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=3)
    figure.savefig(path, dpi=90)
    plt.close(figure)


def draw_ood(folder: pathlib.Path, path: pathlib.Path) -> None:
    """log p(x) of the test set and of each OOD set, of seed 0 of the methods `PICTURED`
    that have results."""
    files = {method: folder / f"{method}-0" / HISTOGRAMS for method in PICTURED}
    files = {method: file for method, file in files.items() if file.exists()}
    if not files:
        return
    rows = -(-len(files) // 2)
    figure, axes = plt.subplots(
        rows, 2, figsize=(9, 2.5 * rows + 0.5), layout="constrained", squeeze=False
    )
    for ax in axes.flat[len(files) :]:
        ax.set_axis_off()
    for ax, (method, file) in zip(axes.flat, files.items(), strict=False):
        edges, counts = json.loads(file.read_text()).values()
        for name, heights in counts.items():
            test = {"fill": True, "alpha": 0.35, "color": "black"}
            shares = [100 * height / sum(heights) for height in heights]
            style = test if name == "test" else {}
            ax.stairs(shares, edges, label=_stem(name), linewidth=1.5, **style)
        ax.set(title=TITLES[method], xlabel="log p(x) + constant", ylabel="images, %")
    handles = axes[0, 0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=6)
    figure.savefig(path, dpi=90)
    plt.close(figure)


def _stem(name):
    return pathlib.PurePath(name).stem


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
