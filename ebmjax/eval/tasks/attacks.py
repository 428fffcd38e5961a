"""Adversarial robustness: attacks, distances to the nearest mistake, refined
classifiers under attack, distal adversarial examples.

eps and distances are in the units of images in [0, 1], as in the literature; the
networks, and attacks, see images in [-1, 1] and so twice of that.
"""

import functools
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np
from etils import epath

from ebmjax import augment, pictures, processes, runs
from ebmjax.eval import calibration, crosscheck, judge, robustness
from ebmjax.eval.autoattack import driver, evaluation
from ebmjax.eval.report import charts, glossary, page
from ebmjax.eval.result import (
    COLUMNS,
    Progress,
    Result,
    finite_logits,
    has_images,
    npz,
    picture,
    skipped,
)
from ebmjax.eval.task import NORMS, Column, Measure, Task, format_number
from ebmjax.eval.tasks.attack_headline import autoattack_table, robustness_verdict

UNITS = {"linf": (255, "255ths"), "l2": (1, "[0, 1] units")}  # of eps in charts


def task(attacks: Mapping[str, robustness.Attack]) -> Task:
    """The task with more attacks than PGD: their accuracies stand beside its.

    Raises ValueError for a name that the report has for another curve.
    """
    if taken := {"PGD", "AutoAttack", "foolbox", "nearest mistake"} & set(attacks):
        raise ValueError(f"{taken.pop()!r} cannot be the name of an own attack")
    return TASK._replace(compute=functools.partial(compute, more=attacks))


def compute(
    run: runs.Run,
    progress: Progress,
    more: Mapping[str, robustness.Attack] = MappingProxyType({}),
) -> Result:
    """PGD and `more` attacks at each eps, and what the config asks for beside."""
    if not has_images(run):
        return skipped("attacks are bounded in pixels: the data are vectors")
    c, test = run.config.eval.attacks, run.splits().test
    if c.crosscheck:  # what is not installed is missed before anything takes long
        processes.on_every_process(crosscheck.modules)
    if c.judge:
        processes.on_every_process(judge.modules)
    test = test.take(slice(c.num_images))
    x, labels = np.asarray(augment.to_float(test.image)), test.label
    numbers = {
        "num_images": len(labels),
        "clean_accuracy": calibration.accuracy(finite_logits(run, x), labels),
        "losses": list(c.losses),
        "num_steps": c.num_steps,
        "num_restarts": c.num_restarts,
        "step_share": c.step_share,
        "norms": {},
    }
    files, target = {}, robustness.Target(run, x, labels, progress)
    for norm in c.norms:
        of_norm, worst = robustness.pgd(target, norm)
        files[f"attack_{norm}.png"] = _attack_picture(x, worst)
        of_norm["attacks"] = {
            name: robustness.own_attack(target, norm, name, attack)
            for name, attack in more.items()
        }
        if c.distance_rounds:
            of_norm["distances"] = robustness.distances(target, norm)
            of_norm["max_eps"] = robustness.max_eps(c, norm)
        if c.crosscheck:
            of_norm["crosscheck"] = robustness.foolbox(target, norm, of_norm["sweep"])
        numbers["norms"][norm] = of_norm
    num = c.refine_images
    first = robustness.Target(run, x[:num], labels[:num], progress)
    for num_steps in c.refine_steps if num else ():
        refined = robustness.refined(first, num_steps)
        numbers.setdefault("refined", {})[f"{num_steps}"] = refined
    if c.distal_steps:
        numbers["distal"], x = robustness.distal(run, progress)
        files["distal.png"] = picture(x, min(len(x), COLUMNS))
        files["distal.npz"] = npz({"x": x})
    found = _autoattack(target, numbers["norms"])
    if c.autoattack_refined:
        found |= _autoattack_refined(first, numbers.get("refined", {}))
    if found:  # or another call may go on from what an interrupted one has stored
        evaluation.forget(run)
    return Result(numbers | found, files)


def _autoattack_refined(target, refined):
    """AutoAttack for random classifiers on each JEM-k, whose rows it adds to `refined`.
    -> {"autoattack_refined": settings}."""
    num_classes = target.run.num_classes
    try:
        driver.check_classes(num_classes, "rand")
    except ValueError as error:
        return {"autoattack_refined": skipped(str(error)).numbers}
    for num_steps, of_k in refined.items():
        for norm, of_norm in of_k["norms"].items():
            if not target.run.config.eval.attacks[f"autoattack_eps_{norm}"]:
                continue
            of_norm["autoattack"] = {
                gradient: evaluation.autoattack(
                    target,
                    norm,
                    evaluation.refined(target.run, norm, int(num_steps), gradient),
                )
                for gradient in of_norm["gradients"]
            }
    return {"autoattack_refined": evaluation.settings(num_classes, "rand")}


def _autoattack(target, norms):
    """Adds the rows to `norms`. -> {"autoattack": settings} if there are any."""
    c = target.run.config.eval.attacks
    asked = [norm for norm in norms if c[f"autoattack_eps_{norm}"]]
    if not asked:
        return {}
    try:
        driver.check_classes(target.run.num_classes)
    except ValueError as error:
        return {"autoattack": skipped(str(error)).numbers}
    for norm in asked:
        norms[norm]["autoattack"] = evaluation.autoattack(target, norm)
    return {"autoattack": evaluation.settings(target.run.num_classes)}


def _attack_picture(x, worst):
    """Ten columns: images, adversarial examples, and the change, stretched."""
    x, worst = x[:COLUMNS], worst[:COLUMNS]
    change = worst - x
    change = change / max(float(np.abs(change).max()), 1e-6)
    return picture(np.concatenate([x, worst, change]), len(x))


# --- how it is shown -----------------------------------------------------------


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


TASK = Task(
    compute,
    title="Adversarial robustness",
    verdict=robustness_verdict,
    measures=measures,
    section=section,
    compare=compare,
    glossary=glossary.ATTACKS,
)
