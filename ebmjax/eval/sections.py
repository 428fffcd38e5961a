"""The sections of a run's report, one for each part of the evaluation.

Each is a function of the part's numbers in eval.json and of the folder with its
pictures and arrays.
"""

import numpy as np

from ebmjax import pictures
from ebmjax.eval import charts, ood
from ebmjax.eval.page import (
    Panel,
    Row,
    Section,
    Table,
    Tiles,
    arrays_of,
    drawn,
    image,
    shown,
)
from ebmjax.eval.summary import NORMS, SCORES, short

MAIN_SCORES = tuple(SCORES)[:3]  # those of the JEM paper
AXES = {
    "log_density": "log p(x) + log Z, nats",
    "max_log_prob": "log max p(y | x), nats",
    "approximate_mass": "-‖d log p(x) / dx‖",
}


def calibration(part, folder):
    before, after = part["as_trained"], part["temperature"]
    panels = [
        drawn(
            charts.reliability(before["reliability"]),
            "reliability",
            "As trained.",
            f"ECE {before['ece']:.2%}: the mean length of the orange lines, from a"
            f" bin's accuracy to its confidence. {part['num_bins']} bins.",
        )
    ]
    rows, columns = [], [before]
    head = [f"{part['num_images']:,} test images", "as trained"]
    if "value" in after:
        columns.append(after)
        head.append(f"T = {after['value']:.3f}")
        panels.append(
            drawn(
                charts.reliability(after["reliability"]),
                "reliability-temperature",
                "After temperature scaling.",
                f"T = {after['value']:.3f}, fitted on {after['num_valid']:,} validation"
                f" images. ECE {after['ece']:.2%}.",
            )
        )
    for key, name in {
        "ece": f"ECE, {part['num_bins']} bins of equal width",
        "ece_equal_mass": f"ECE, {part['num_bins']} bins of equal mass",
        "ece_20_bins": "ECE, 20 bins of equal width",
        "mce": "largest error of a bin (MCE)",
        "rms_ce": "root mean square error",
        "classwise_ece": "class-wise ECE",
        "ng_ebm_midpoint_ece": "as NG-EBM's code: 20 bins, midpoints",
    }.items():
        rows.append(Row([name, *(f"{column[key]:.2%}" for column in columns)]))
    rows.append(Row(["NLL, nats", *(f"{column['nll']:.4f}" for column in columns)]))
    rows.append(Row(["Brier score", *(f"{column['brier']:.4f}" for column in columns)]))
    text = "A calibrated classifier is right as often as it says."
    if "skipped" in after:
        text += f" No temperature was fitted: {after['skipped']}."
    return Section(
        "Calibration", text, panels, [Table("Calibration errors", head, rows)]
    )


def out_of_distribution(part, folder):
    arrays = arrays_of(folder / "ood_scores.npz")
    sets = {n: s["scores"] for n, s in part["sets"].items() if "scores" in s}
    histograms, rocs = {}, {}
    for score in [s for s in SCORES if f"test/{s}" in arrays]:
        histograms[score] = drawn(
            ood_histogram(arrays, sets, score),
            f"ood-{score}",
            f"{SCORES[score]}.",
        )
        curves = {short(n): _roc(arrays, n, score) for n in sets}
        rocs[score] = drawn(
            charts.roc(curves), f"roc-{score}", f"ROC by {SCORES[score]}."
        )
    panels = [histograms[s] for s in MAIN_SCORES] if sets else []
    if "ood_examples.png" in part["files"]:
        order = ", ".join(short(n) for n in part["pictured"])
        panels.append(shown(folder, "ood_examples.png", "The sets.", f"Rows: {order}."))
    tables = [
        _ood_table(part, sets, *metric)
        for metric in (
            ("auroc", "AUROC", max),
            ("fpr95_in", "Share of OOD accepted with 95 % of test images", min),
            ("fpr95_out", "Share of test images rejected with 95 % of OOD", min),
            ("aupr_in", "AUPR, test images positive", max),
            ("aupr_out", "AUPR, OOD positive", max),
        )
        if sets
    ]
    text = (
        f"Each score should be larger on the {part['num_images']:,} test images than on"
        f" images of other sets. All images carry Gaussian noise of"
        f" {part['noise_std']:g} (on [-1, 1]); refinement is {part['refine_steps']}"
        " SGLD steps."
    )
    more = [*(rocs[s] for s in rocs), *(histograms[s] for s in histograms)]
    more = [panel for panel in more if panel not in panels]
    return Section(
        "Out-of-distribution detection",
        text,
        panels,
        tables[:2],
        more_tables=tables[2:],
        more=more if sets else [],
        more_title="More tables, ROC curves and the other scores",
    )


def ood_histogram(arrays, sets, score):
    named = {short(name): arrays[f"{name}/{score}"] for name in ("test", *sets)}
    return charts.histograms(named, AXES.get(score, SCORES[score]))


def _roc(arrays, name, score):
    """At most 200 points of the curve."""
    curve = ood.roc_curve(arrays[f"test/{score}"], arrays[f"{name}/{score}"])
    out = np.append(0, curve.false_positives) / curve.false_positives[-1]
    inside = np.append(0, curve.true_positives) / curve.true_positives[-1]
    keep = np.unique(np.linspace(0, len(out) - 1, 200).round().astype(int))
    return out[keep], inside[keep]


def _ood_table(part, sets, metric, name, best):
    """One row a score, one column a set, the best of a column marked."""
    columns = [*sets.values(), part["mean"]]
    scores = [score for score in SCORES if score in part["mean"]]
    tops = [best(column[score][metric] for score in scores) for column in columns]
    rows = []
    for score in scores:
        values = [column[score][metric] for column in columns]
        marked = (
            i
            for i, (x, top) in enumerate(zip(values, tops, strict=True), 1)
            if x == top
        )
        rows.append(Row([SCORES[score], *(f"{x:.3f}" for x in values)], tuple(marked)))
    return Table(name, ["", *map(short, sets), "mean"], rows)


def attacks(part, folder):
    panels, tables = [], []
    for norm, found in part["norms"].items():
        panels.append(
            drawn(
                attack_figure(part, norm),
                f"attack-{norm}",
                f"Accuracy under {NORMS[norm]} attacks.",
                _attack_caption(part, found),
            )
        )
        tables.append(_attack_table(part, norm, found))
    for norm, found in part["norms"].items():
        panels.append(
            shown(
                folder,
                f"attack_{norm}.png",
                f"{NORMS[norm]}, eps {found['pictured_eps']}.",
                "Test images, the worst that was found, and the change, stretched.",
            )
        )
    tiles = None
    if "distal" in part:
        tiles = _distal(part["distal"], folder, part["settings"])
    text = (
        f"Share of the first {part['num_images']} test images that are still classified"
        " right, those that were wrong before counting as wrong. An attack that finds"
        " nothing proves nothing."
    )
    return Section("Attacks", text, panels, tables, tiles)


def attack_figure(part, norm):
    found = part["norms"][norm]
    curves = {"PGD": _points(found["sweep"], part["clean_accuracy"])}
    if "distances" in found:
        curves["nearest mistake"] = survival(found["distances"], found["max_eps"])
    for k, refined in part.get("refined", {}).items():
        for gradient, rows in refined["norms"][norm]["gradients"].items():
            curves[f"JEM-{k}, {gradient.replace('_', ' ')}"] = _points(rows)
    if "judge" in found:
        eps = [row["eps"] for row in found["sweep"]]
        curves["foolbox"] = eps, found["judge"]["accuracies"]
    scale, unit = (255, "255ths") if norm == "linf" else (1, "[0, 1] units")
    scaled = {name: ([scale * e for e in eps], y) for name, (eps, y) in curves.items()}
    return charts.robustness(scaled, f"{NORMS[norm]} eps, {unit}")


def _points(rows, clean=None):
    start = [] if clean is None else [(0.0, clean)]
    pairs = start + [(row["eps"], row["accuracy"]) for row in rows]
    return [eps for eps, _ in pairs], [accuracy for _, accuracy in pairs]


def survival(distances: list, max_eps: float) -> tuple[list, list]:
    """(eps, share of images whose nearest mistake is farther); None is farther yet."""
    far = np.array([np.inf if d is None else d for d in distances])
    eps = np.linspace(0, max_eps, 101)
    return list(eps), [float(np.mean(far > e)) for e in eps]


def _attack_caption(part, found):
    caption = (
        f"PGD: {part['num_steps']} steps of {part['step_share']:g} eps,"
        f" random starts for each loss ({', '.join(part['losses']).replace('_', ' ')}):"
        f" {part['num_restarts']}; the worst counts."
    )
    if "distances" in found:
        far = [np.inf if d is None else d for d in found["distances"]]
        middle = np.median(far)
        if np.isfinite(middle):
            caption += f" Median distance of the nearest mistake: {middle:.3g}."
    for k, refined in part.get("refined", {}).items():
        caption += (
            f" JEM-{k}: {refined['num_images']} images, {refined['num_copies']} copies."
        )
    return caption


def _attack_table(part, norm, found):
    eps = [row["eps_text"] for row in found["sweep"]]
    percent = "{:.1%}".format
    rows = [
        Row(
            [
                "PGD",
                percent(part["clean_accuracy"]),
                *(percent(row["accuracy"]) for row in found["sweep"]),
            ]
        )
    ]
    for k, refined in part.get("refined", {}).items():
        for gradient, points in refined["norms"][norm]["gradients"].items():
            name = f"JEM-{k}, {gradient.replace('_', ' ')} gradient"
            rows.append(Row([name, *(percent(p["accuracy"]) for p in points)]))
    text = ""
    if "judge" in found:
        judged = found["judge"]
        rows.append(Row(["foolbox", "", *map(percent, judged["accuracies"])]))
        text = (
            "foolbox finds no more mistakes, but for one image at most."
            if judged["confirmed"]
            else "foolbox finds MORE mistakes: use more steps or restarts."
        )
    return Table(
        f"Accuracy under {NORMS[norm]} attacks", ["eps", "0", *eps], rows, text
    )


def _distal(rows, folder, settings):
    images = arrays_of(folder / "distal.npz")["x"]
    tiles = []
    for row, x in zip(rows, images, strict=True):
        gained = row["log_density"] - row["log_density_of_noise"]
        tiles.append(
            Panel(
                image(pictures.png(x, height=96), f"distal: {row['class']}"),
                row["class"],
                f"{row['confidence']:.0%} sure, {row['num_steps']} steps,"
                f" log p {row['log_density']:+.1f} ({gained:+.1f})",
            )
        )
    return Tiles(
        "Distal adversarial examples",
        "From uniform noise up log p(class | x) until the model is"
        f" {settings['distal_confidence']:.0%} sure, in steps of"
        f" {settings['distal_step_size']:g} (L2, on [-1, 1]). Does it look like the"
        " class? In brackets what log p(x) gained.",
        tiles,
    )


def samples(part, folder):
    trace = part["trace"]
    steps = (
        f"{part['num_steps']} SGLD steps of size {part['step_size']:g}, noise"
        f" {part['noise_std']:g}"
    )
    columns = ", ".join(part["class_columns"])
    panels = [shown(folder, "chains.png", "Chains on p(x)", f"from noise, {steps}.")]
    if "buffer.png" in part["files"]:
        panels.insert(
            0,
            shown(folder, "buffer.png", "Replay buffer,", "drawn at random."),
        )
    panels += [
        shown(
            folder,
            "chains_by_class.png",
            "Chains on p(x | y)",
            f"from noise, {steps}. Columns: {columns}.",
        ),
        shown(
            folder,
            "neighbours.png",
            f"Most likely of the {part['neighbours_of']},",
            "selected by log p(x), and below each its five nearest training images.",
        ),
        drawn(
            energy_figure(folder),
            "energies",
            "Energies.",
            "Samples of a model that fits lie where test images lie.",
        ),
        drawn(
            charts.trace(trace["median"], trace["q05"], trace["q95"]),
            "trace",
            "Energy along the chains.",
            f"Median and 90 % of {part['num_chains']} chains on p(x).",
        ),
        shown(folder, "test_likely.png", "Likeliest test images", "by log p(x)."),
        shown(folder, "test_unlikely.png", "Least likely", "by log p(x)."),
        shown(folder, "test_sure.png", "Surest of each class", "by p(label | x)."),
        shown(folder, "test_unsure.png", "Least sure", "by p(label | x)."),
    ]
    scores = part["scores"]
    rows = [
        Row(
            [
                name,
                f"{row['frechet_distance']:.3f}",
                f"{row['kid']['mean']:.4f} ± {row['kid']['std']:.4f}",
                f"{row['inception_score']['mean']:.2f}"
                f" ± {row['inception_score']['std']:.2f}",
            ]
        )
        for name, row in scores["sets"].items()
    ]
    table = Table(
        "Distances to the training images",
        ["samples", "Fréchet distance", "kernel distance", "Inception Score's formula"],
        rows,
        f"On {scores['num_features']} features and the classes of"
        f" {scores['extractor']}, {scores['num_samples']} samples of each kind, none"
        f" selected, against {scores['num_reference']:,} training images. Not FID and"
        " IS, which are of an Inception network: compare with the row of test images."
        " The samples are in eval/samples.npz.",
    )
    text = (
        "What the model's own chains make, and what it finds likely. Lower energy is"
        " more likely: log p(x) = -E(x) - log Z."
    )
    return Section("Samples", text, panels, [table])


def energy_figure(folder):
    energies = arrays_of(folder / "energies.npz")
    order = [n for n in ("test", "buffer", "chains", "noise") if n in energies]
    return charts.histograms({n: energies[n] for n in order}, "energy E(x), nats")


SECTIONS = {
    "calibration": calibration,
    "ood": out_of_distribution,
    "attacks": attacks,
    "samples": samples,
}
