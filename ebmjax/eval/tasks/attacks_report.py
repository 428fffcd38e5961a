"""How the numbers of the attacks task are shown."""

from collections.abc import Sequence

import numpy as np
from etils import epath

from ebmjax import pictures
from ebmjax.eval.report import charts, page
from ebmjax.eval.task import NORMS, Column, Measure, format_number
from ebmjax.eval.tasks.attack_headline import autoattack_table

UNITS = {"linf": (255, "255ths"), "l2": (1, "[0, 1] units")}  # of eps in charts


def curves(numbers: dict, norm: str) -> dict[str, list[dict]]:
    """{attack, or what it was made on: rows} of all accuracies under `norm`."""
    of_norm = numbers["norms"][norm]
    clean = {"eps": 0.0, "eps_text": "0", "accuracy": numbers["clean_accuracy"]}
    rows = {"PGD": of_norm["sweep"]} | of_norm["attacks"]
    if "autoattack" in of_norm:
        rows["AutoAttack"] = of_norm["autoattack"]
    if "crosscheck" in of_norm:
        pairs = zip(of_norm["sweep"], of_norm["crosscheck"]["accuracies"], strict=True)
        rows["foolbox"] = [row | {"accuracy": accuracy} for row, accuracy in pairs]
    rows = {name: [clean, *of_attack] for name, of_attack in rows.items()}
    for k, refined in numbers.get("refined", {}).items():
        by_gradient = refined["norms"][norm]["gradients"]
        names = {g: f"JEM-{k}, {g.replace('_', ' ')} gradient" for g in by_gradient}
        rows |= {names[g]: points for g, points in by_gradient.items()}
        for gradient, points in refined["norms"][norm].get("autoattack", {}).items():
            start = by_gradient[gradient][0]  # eps 0
            rows[f"{names[gradient]}, AutoAttack (rand)"] = [start, *points]
    return rows


def _at(rows, eps_text):
    return next(row["accuracy"] for row in rows if row["eps_text"] == eps_text)


def measures(numbers: dict) -> list[Measure]:
    rows = []
    for norm, of_norm in numbers["norms"].items():
        rows_of = {"": of_norm["sweep"]} | of_norm["attacks"]
        if "autoattack" in of_norm:
            rows_of["AutoAttack"] = of_norm["autoattack"]
        for name, of_attack in rows_of.items():
            rows += [
                Measure(
                    f"accuracy at {NORMS[norm]} {row['eps_text']}"
                    + (f", {name}" if name else ""),
                    row["accuracy"],
                    "%",
                    "higher",
                )
                for row in of_attack
            ]
    for k, refined in numbers.get("refined", {}).items():
        for norm, of_norm in refined["norms"].items():
            eps = numbers["norms"][norm]["pictured_eps"]
            # The accuracy is that under the stronger attack.
            accuracy = min(_at(rows, eps) for rows in of_norm["gradients"].values())
            name = f"JEM-{k}, accuracy at {NORMS[norm]} {eps}"
            rows.append(Measure(name, accuracy, "%", "higher"))
            by_gradient = of_norm.get("autoattack", {}).values()
            for points in zip(*by_gradient, strict=True):
                name = f"JEM-{k}, accuracy at {NORMS[norm]} {points[0]['eps_text']}"
                accuracy = min(row["accuracy"] for row in points)
                name += ", AutoAttack (rand)"
                rows.append(Measure(name, accuracy, "%", "higher"))
    return rows


def section(numbers: dict, folder: epath.Path) -> page.Section:
    panels, norms = [], numbers["norms"]
    for norm, of_norm in norms.items():
        title = f"Accuracy under {NORMS[norm]} attacks."
        caption = _caption(numbers, of_norm)
        panels.append(
            page.figure_panel(figure(numbers, norm), f"accuracy_{norm}", title, caption)
        )
    for norm, of_norm in norms.items():
        panels.append(
            page.picture_panel(
                folder / f"attack_{norm}.png",
                f"{NORMS[norm]}, eps {of_norm['pictured_eps']}.",
                "Test images, their adversarial examples, and the change, stretched.",
            )
        )
    text = (
        f"Share of the first {numbers['num_images']} test images that are still"
        " classified right, those that were wrong before counting as wrong. An attack"
        " that finds no mistake is no proof that there is none."
    )
    tiles = _distal_tiles(numbers, folder) if "distal" in numbers else None
    tables = [_table(numbers, norm) for norm in norms]
    tables += [autoattack_table(numbers, n) for n in norms if "autoattack" in norms[n]]
    return page.Section(text, panels, tables, tiles)


def figure(numbers: dict, norm: str):
    """Accuracy against eps by every attack, and by the distances."""
    of_norm = numbers["norms"][norm]
    lines = {
        name: ([row["eps"] for row in rows], [row["accuracy"] for row in rows])
        for name, rows in curves(numbers, norm).items()
    }
    if "distances" in of_norm:
        lines["nearest mistake"] = survival(of_norm["distances"], of_norm["max_eps"])
    return _chart(lines, norm)


def _chart(lines, norm):
    scale, unit = UNITS[norm]
    lines = {name: ([scale * e for e in eps], y) for name, (eps, y) in lines.items()}
    return charts.curves(lines, f"{NORMS[norm]} eps, {unit}", "accuracy")


def survival(distances: list, max_eps: float) -> tuple[list, list]:
    """(eps, share of images whose nearest mistake is farther); None is farther yet."""
    far = np.array([np.inf if d is None else d for d in distances])
    eps = np.linspace(0, max_eps, 101)
    return list(eps), [float(np.mean(far > e)) for e in eps]


def _caption(numbers, of_norm):
    caption = (
        f"PGD: {numbers['num_steps']} steps of {numbers['step_share']:g} eps,"
        " random starts for each loss"
        f" ({', '.join(numbers['losses']).replace('_', ' ')}):"
        f" {numbers['num_restarts']}; the worst counts."
    )
    if "distances" in of_norm:
        far = [np.inf if d is None else d for d in of_norm["distances"]]
        if np.isfinite(median := np.median(far)):
            caption += f" Median distance of the nearest mistake: {median:.3g}."
    for k, refined in numbers.get("refined", {}).items():
        caption += (
            f" JEM-{k}: {refined['num_images']} images, {refined['num_copies']} copies."
        )
    return caption


def _table(numbers, norm):
    of_norm, text = numbers["norms"][norm], ""
    by_name = {
        name: {row["eps"]: row for row in rows}
        for name, rows in curves(numbers, norm).items()
    }
    texts = {e: row["eps_text"] for of in by_name.values() for e, row in of.items()}
    rows = [
        page.Row([name, *(_percent(points.get(eps)) for eps in sorted(texts))])
        for name, points in by_name.items()
    ]
    if "crosscheck" in of_norm:
        text = (
            "foolbox finds no more mistakes, but for one image at most."
            if of_norm["crosscheck"]["confirmed"]
            else "foolbox finds MORE mistakes: use more steps or restarts."
        )
    head = ["eps", *(texts[eps] for eps in sorted(texts))]
    return page.Table(f"Accuracy under {NORMS[norm]} attacks", head, rows, text)


def _percent(row):
    return format_number(row and row["accuracy"], ".1%")


def _distal_tiles(numbers, folder):
    images, settings = page.load_arrays(folder / "distal.npz")["x"], numbers["settings"]
    tiles = []
    for row, x in zip(numbers["distal"], images, strict=True):
        after, before = row["log_density"], row["log_density_of_noise"]
        gain = None if None in (after, before) else after - before
        gain, after = (format_number(value, "+.1f") for value in (gain, after))
        caption = (
            f"{format_number(row['confidence'], '.0%')} sure, {row['num_steps']} steps,"
            f" log p {after} ({gain})"
        )
        tag = page.image_tag(pictures.png(x, height=96), f"distal: {row['class']}")
        tiles.append(page.Panel(tag, row["class"], caption))
    return page.Tiles(
        "Distal adversarial examples",
        "From uniform noise up log p(class | x) until the model is"
        f" {settings['distal_confidence']:.0%} sure, in steps of"
        f" {settings['distal_step_size']:g} (L2, on [-1, 1]). Does it look like the"
        " class? In brackets the gain in log p(x).",
        tiles,
    )


def compare(columns: Sequence[Column]) -> list[page.Panel]:
    """Mean accuracy over the runs of each column, and their distal examples."""
    panels = []
    for norm in NORMS:
        lines = {c.label: line for c in columns if (line := _mean_curve(c, norm))}
        if lines:
            title = f"Accuracy under {NORMS[norm]} attacks."
            chart = _chart(lines, norm)
            panels.append(page.figure_panel(chart, f"accuracy_{norm}", title))
    return panels + [
        page.picture_panel(column.folder / "distal.png", column.label, caption)
        for caption in ["Distal examples: from noise up p(class | x), one a class."]
        for column in columns
        if "distal.png" in column.numbers[0]["files"]
    ]


def _mean_curve(column, norm):
    """(eps, accuracy) under PGD at each eps that all the runs have."""
    accuracies: dict[float, list] = {}
    for numbers in column.numbers:
        if norm in numbers["norms"]:
            for row in curves(numbers, norm)["PGD"]:
                accuracies.setdefault(row["eps"], []).append(row["accuracy"])
    most = max(map(len, accuracies.values()), default=0)
    eps = sorted(e for e, x in accuracies.items() if len(x) == most)
    return eps and (eps, [float(np.mean(accuracies[e])) for e in eps])
