"""Joint and marginal energies of clean and of attacked test images."""

import numpy as np
from etils import epath

from ebmjax import augment, runs
from ebmjax.eval import attacks, calibration, energies, ood, robustness
from ebmjax.eval.report import charts, glossary, page
from ebmjax.eval.result import (
    Progress,
    Result,
    finite_logits,
    has_images,
    npz,
    skipped,
)
from ebmjax.eval.task import NORMS, Measure, Task, Verdict, format_number

KINDS = {"marginal": "E(x)", "joint": "E(x, label)"}
NUM_SHOWN = 20  # images of an outcome that has a histogram
OUTCOMES = {
    "all": "all",
    "withstood": "still right",
    "fooled": "fooled",
    "wrong": "wrong before",
}


def compute(run: runs.Run, progress: Progress) -> Result:
    """Energies of the first test images before and after PGD on the cross-entropy."""
    if not has_images(run):
        return skipped("attacks are bounded in pixels: the data are vectors")
    c, test = run.config.eval.energies, run.splits().test
    test = test.take(slice(c.num_images))
    x, labels = np.asarray(augment.to_float(test.image)), test.label
    logits = finite_logits(run, x)
    target = robustness.Target(run, x, labels, progress)
    rows, arrays = [], _arrays("clean", logits, labels)
    for norm in NORMS:
        for row, attacked in zip(*_attack(target, norm), strict=True):
            name = f"{norm}_{len(rows)}"
            rows.append({"name": name, "norm": norm} | row)
            rows[-1] |= changes(logits, attacked, labels)
            arrays |= _arrays(name, attacked, labels)
    numbers = {
        "num_images": len(labels),
        "num_steps": c.num_steps,
        "step_share": c.step_share,
        "clean_accuracy": calibration.accuracy(logits, labels),
        "attacks": rows,
    }
    return Result(numbers, {"attack_energies.npz": npz(arrays)})


def _attack(target, norm):
    """Rows, and logits [N, K] of each, under PGD at each eps of the config."""
    c = target.run.config.eval.energies
    eps = robustness.with_texts(c[f"eps_{norm}"], norm)
    if not eps:
        return [], []

    def attack(model, key, x, labels, eps):
        worst = attacks.pgd(
            key,
            model.logits,
            x,
            labels,
            norm=norm,
            eps=eps,
            step_size=c.step_share * eps,
            num_steps=c.num_steps,
        )
        logits = model.logits(worst)
        return {"right": attacks.is_correct(logits, labels), "logits": logits}

    names = {"purpose": f"energies {norm}", "text": f"{norm}: energies under attack"}
    rows, arrays = robustness.accuracies(target, attack, eps, **names)
    return rows, arrays["logits"]


def changes(before: np.ndarray, after: np.ndarray, labels: np.ndarray) -> dict:
    """How energies differ between logits [N, K] of clean and of attacked images.

    -> the AUROC with which log p(x) tells clean from attacked, None where it is NaN;
    and of all images and of those of each outcome their number, and the means of both
    energies and of their changes.
    """
    pair = [energies.of_logits(x, labels) for x in (before, after)]
    right = [attacks.is_correct(x, labels) for x in (before, after)]
    masks = {"all": np.ones(len(labels), bool)} | energies.outcomes(*right)
    scores = [-np.asarray(x.marginal) for x in pair]
    known = not any(np.isnan(x).any() for x in scores)
    groups = {k: _means(*pair, mask) for k, mask in masks.items() if mask.any()}
    return {"auroc": ood.auroc(*scores) if known else None, "groups": groups}


def _means(before, after, mask):
    """Of two `Energies` over the images of `mask`, of which there are some."""
    group = {"num": int(mask.sum())}
    for kind in KINDS:
        clean, attacked = (np.asarray(x._asdict()[kind])[mask] for x in (before, after))
        means = {"clean": clean, "attacked": attacked, "change": attacked - clean}
        group[kind] = {k: float(np.mean(x)) for k, x in means.items()}
    return group


def _arrays(name, logits, labels):
    """Both energies, and which images are right, for the histograms."""
    named = energies.of_logits(logits, labels)._asdict()
    named["right"] = attacks.is_correct(logits, labels)
    return {f"{name}/{k}": np.asarray(x) for k, x in named.items()}


# --- how it is shown -----------------------------------------------------------


def _at(row):
    return f"{NORMS[row['norm']]} {row['eps_text']}"


def energies_verdict(numbers: dict) -> Verdict:
    if not numbers["attacks"]:
        return Verdict("–", "config.eval.energies has no eps")
    row = numbers["attacks"][0]
    everything = row["groups"]["all"]
    change = {k: format_number(everything[k]["change"], "+.3g") for k in KINDS}
    return Verdict(
        f"{change['marginal']} nats",
        f"mean change of E(x) under PGD at {_at(row)}, of E(x, label)"
        f" {change['joint']}; AUROC of log p(x), clean against attacked,"
        f" {format_number(row['auroc'], '.3f')}",
    )


def measures(numbers: dict) -> list[Measure]:
    rows = []
    for row in numbers["attacks"]:
        rows += [
            Measure(
                f"change of {label} under PGD, {_at(row)}",
                row["groups"]["all"][kind]["change"],
                "nats",
            )
            for kind, label in KINDS.items()
        ]
        name = f"AUROC of log p(x), clean against PGD, {_at(row)}"
        rows.append(Measure(name, row["auroc"], "", "higher"))
    return rows


def section(numbers: dict, folder: epath.Path) -> page.Section:
    text = (
        "The cross-entropy is E(x, label) - E(x): an attack that raises it raises the"
        " joint energy or lowers the marginal one. Where attacked images have the lower"
        " E(x), the model finds them more likely than clean ones, and log p(x) cannot"
        f" detect them (AUROC below 0.5). PGD takes {numbers['num_steps']} steps of"
        f" {numbers['step_share']:g} eps on the cross-entropy. The model classifies"
        f" {numbers['clean_accuracy']:.1%} of the {numbers['num_images']} test images"
        " right before it."
    )
    arrays = page.load_arrays(folder / "attack_energies.npz")
    rows = numbers["attacks"]
    panels = [_histogram(arrays, row, kind) for row in rows for kind in KINDS]
    return page.Section(text, panels, [_table(row) for row in rows])


def _histogram(arrays, row, kind):
    """Of clean and of attacked images, and of those fooled if they are not too few."""
    name = row["name"]
    masks = energies.outcomes(arrays["clean/right"], arrays[f"{name}/right"])
    attacked = arrays[f"{name}/{kind}"]
    named = {"clean": arrays[f"clean/{kind}"], "attacked": attacked}
    if masks["fooled"].sum() >= NUM_SHOWN:
        named["fooled"] = attacked[masks["fooled"]]
    return page.figure_panel(
        charts.histograms(named, f"{KINDS[kind]}, nats"),
        f"energy_{kind}_{name}",
        f"{kind.capitalize()} energy, {_at(row)}.",
        f"Of clean and of attacked images; {row['accuracy']:.1%} are still right.",
    )


def _table(row):
    """One row an outcome, three columns an energy."""
    columns = [(kind, k) for kind in KINDS for k in ("clean", "attacked", "change")]
    head = ["", "images", *(f"{KINDS[kind]} {k}" for kind, k in columns)]
    rows = [
        page.Row(
            [
                OUTCOMES[name],
                str(group["num"]),
                *(format_number(group[kind][k], ".3f") for kind, k in columns),
            ]
        )
        for name, group in row["groups"].items()
    ]
    auroc = format_number(row["auroc"], ".3f")
    text = f"AUROC of log p(x), clean against attacked images: {auroc}."
    return page.Table(f"Mean energies, {_at(row)}, nats", head, rows, text)


TASK = Task(
    compute,
    title="Energies under attack",
    verdict=energies_verdict,
    measures=measures,
    section=section,
    glossary=glossary.ENERGIES,
)
