"""The charts of a report: numbers in, figures out, as SVG in the page's colours.

Every chart is one small panel, legible at the width of a phone. Colours are those
of a light page; in an SVG each is a CSS variable with that colour as its default,
so that a dark page can set others.
"""

import io
from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

INK, MUTED, GRID = "#1b2330", "#66707f", "#dfe3e9"
# Told apart by the colour-blind too (after Okabe & Ito), and by their dashes.
SERIES = ("#0072b2", "#d55e00", "#009e73", "#a8479c", "#b08500", "#3fa0d6", "#7a5c46")
DASHES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)))
VARIABLES = {INK: "ink", MUTED: "muted", GRID: "rule"} | {
    colour: f"series-{i}" for i, colour in enumerate(SERIES)
}
STYLE = {
    "font.size": 10,
    "svg.fonttype": "none",  # text stays text, in the page's own font
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "text.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 9,
}


def svg(figure: Figure, name: str) -> str:
    """An <svg> element to put into HTML. `name` makes the ids in it its own."""
    file = io.StringIO()
    with matplotlib.rc_context(STYLE | {"svg.hashsalt": name}):
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    text = file.getvalue()
    text = text[text.index("<svg") :]
    for colour, variable in VARIABLES.items():
        text = text.replace(colour, f"var(--{variable}, {colour})")
    return text


def png(figure: Figure) -> bytes:
    """The same on white, at twice the resolution of a screen."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=200, facecolor="white")
    return file.getvalue()


def reliability(bins: dict) -> Figure:
    """Accuracy in each bin of confidence, and below it how many images are there.

    `bins` is a `calibration.Reliability` as a dict; empty bins are absent, those
    with less than 1 % of the images pale.
    """
    edges, counts = np.asarray(bins["edges"]), np.asarray(bins["counts"])
    some = counts > 0
    left, width = edges[:-1][some], np.diff(edges)[some]
    accuracy = np.asarray(bins["accuracy"], float)[some]
    confidence = np.asarray(bins["confidence"], float)[some]
    figure, (top, bottom) = _figure(2, height_ratios=(3, 1))
    top.plot([0, 1], [0, 1], color=MUTED, lw=1, ls="--")
    for few, alpha in ((False, 1.0), (True, 0.3)):
        of = (counts[some] < 0.01 * counts.sum()) == few
        bars = {"align": "edge", "color": SERIES[0], "lw": 0, "alpha": 0.6 * alpha}
        top.bar(left[of], accuracy[of], width[of], **bars)
        x, line = confidence[of], {"color": SERIES[1], "alpha": alpha}
        top.vlines(x, accuracy[of], x, lw=2, **line)
        top.plot(x, x, "o", ms=3.5, **line)
    top.set(xlim=(0, 1), ylim=(0, 1), ylabel="accuracy")
    bottom.bar(left, counts[some] / counts.sum(), width, align="edge", color=SERIES[0])
    bottom.set(xlim=(0, 1), xlabel="confidence", ylabel="images")
    for axis in (top.xaxis, top.yaxis, bottom.xaxis, bottom.yaxis):
        axis.set_major_formatter(PercentFormatter(1, decimals=0))
    top.tick_params(labelbottom=False)
    return figure


def curves(
    named: dict[str, tuple[Sequence, Sequence]],
    xlabel: str,
    ylabel: str,
    *,
    of_shares: bool = False,
    first: int = 0,
) -> Figure:
    """{name: (x, y)}, where y is a share; points are marked where they are few.

    With `of_shares` x is a share too, and the diagonal is drawn. The first curve has
    the colour `first` of `SERIES`.
    """
    figure, (axes,) = _figure()
    axes.set(xlabel=xlabel, ylabel=ylabel, ylim=(-0.02, 1.02))
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    if of_shares:
        axes.plot([0, 1], [0, 1], color=MUTED, lw=1, ls="--")
        axes.set(ylim=(0, 1.01))
        axes.xaxis.set_major_formatter(PercentFormatter(1))
    for i, (name, (x, y)) in enumerate(named.items(), start=first):
        marker = {"marker": "o", "ms": 4} if len(x) < 20 else {}
        axes.plot(x, y, label=name, **_line(i), **marker)
    # Not before: a limit that is set stops the other one from following the curves.
    axes.set(xlim=(0, 1 if of_shares else None))
    return _with_legend(figure, axes)


def reliability_curves(named: dict[str, dict]) -> Figure:
    """Accuracy against confidence of several runs, in bins with 1 % or more."""
    points = {}
    for name, bins in named.items():
        counts = np.asarray(bins["counts"])
        some = counts >= 0.01 * counts.sum()
        x, y = (np.asarray(bins[k], float)[some] for k in ("confidence", "accuracy"))
        points[name] = x, y
    return curves(points, "confidence", "accuracy", of_shares=True)


def risk_coverage(named: dict[str, dict]) -> Figure:
    """{name: {"coverage": [...], "risk": [...]}}; the risk axis ends at the largest."""
    figure, (axes,) = _figure()
    for i, (name, curve) in enumerate(named.items()):
        axes.plot(curve["coverage"], curve["risk"], label=name, **_line(i))
    top = max(max(curve["risk"]) for curve in named.values())
    axes.set(xlabel="coverage", ylabel="risk", xlim=(0, 1))
    axes.set(ylim=(0, 1.05 * top or 1))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1))
    return _with_legend(figure, axes)


def histograms(named: dict[str, np.ndarray], xlabel: str) -> Figure:
    """Densities of several samples of a number; the first, the data, is filled.

    The range is that of 99 % of each; what lies beyond is in the outermost bins.
    """
    figure, (axes,) = _figure()
    named = {name: x[np.isfinite(x)] for name, x in named.items()}
    named = {name: x for name, x in named.items() if len(x)}
    ends = np.array([np.quantile(x, [0.005, 0.995]) for x in named.values()])
    low, high = ends[:, 0].min(), ends[:, 1].max()
    edges = np.linspace(low, max(high, low + 1e-6), 41)
    for i, (name, x) in enumerate(named.items()):
        density, _ = np.histogram(np.clip(x, *edges[[0, -1]]), edges)
        density = density / density.sum()
        if i == 0:
            axes.stairs(density, edges, fill=True, color=SERIES[0], alpha=0.3)
        axes.stairs(density, edges, label=name, **_line(i))
    axes.set(xlabel=xlabel, ylabel="share of images", ylim=(0, None))
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    return _with_legend(figure, axes)


def trace(median, low, high) -> Figure:
    """The energy along chains: its median and the range of 90 % of them."""
    figure, (axes,) = _figure()
    median, low, high = (np.asarray(x, float) for x in (median, low, high))
    steps = np.arange(len(median))
    axes.fill_between(steps, low, high, color=SERIES[0], alpha=0.25, lw=0)
    axes.plot(steps, median, color=SERIES[0], lw=1.6)
    axes.set(xlabel="SGLD steps", ylabel="energy E(x), nats", xlim=(0, len(steps) - 1))
    return _with_legend(figure, axes)


def _figure(rows=1, height_ratios=(1,)):
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.4, 3.4), layout="constrained")
        axes = figure.subplots(rows, 1, height_ratios=height_ratios, squeeze=False)
    return figure, axes[:, 0]


def _line(i):
    colour, dashes = SERIES[i % len(SERIES)], DASHES[i % len(DASHES)]
    return {"color": colour, "ls": dashes, "lw": 1.6}


def _with_legend(figure, axes):
    if labels := axes.get_legend_handles_labels()[1]:
        columns = 3 if max(map(len, labels)) < 15 else 2
        with matplotlib.rc_context(STYLE):
            figure.legend(loc="outside upper left", ncols=columns)  # hides no curve
    return figure
