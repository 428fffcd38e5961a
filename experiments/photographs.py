"""Results on photographs: each objective of the package on Fashion-MNIST or CIFAR-10.

    python -m experiments.photographs fashion_mnist --train
    python -m experiments.photographs cifar10 --train --only=classifier,ng_ebm
    python -m experiments.photographs fashion_mnist

`--train` trains and evaluates what is missing under runs/DATASET, one seed of all
methods after the other, and may be stopped and started again. What is finished is then
copied to experiments/results/DATASET: config, eval.json, the curve of validation, and
the newest picture of the chains. Without `--train` the tables, README's and one with
all columns, and a picture of the curves are made from those files alone.

    --only=NAME,...    some of the methods
    --seeds=N          seeds 0 to N - 1 (3)
    --data=NAME        the data set, as config.data.name: a TFDS name or an .npz file
    --ood=NAME,...     OOD sets, as config.eval.ood.sets
    --outliers=NAME    outliers, without which outlier_exposure is left out
    --runs=DIR         the folder of run directories
"""

import argparse
import json
import pathlib
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable
from typing import NamedTuple

import matplotlib.pyplot as plt
import ml_collections

from ebmjax import config, presets, rundir, writers

RESULTS = pathlib.Path(__file__).parent / "results"


# --- what is trained ----------------------------------------------------------


def fashion_mnist() -> ml_collections.ConfigDict:
    """6 epochs of 859 steps of the ConvNet, on the images as they are."""
    c = presets.fashion_mnist()
    c.data.update(pad=0, flip=False)
    c.optimizer.warmup_steps = 500
    c.num_steps = 6 * 859
    c.eval.ood.sets = ("mnist", "kmnist", "interpolation", "uniform")
    return c


def cifar10() -> ml_collections.ConfigDict:
    """30 epochs of 703 steps of WRN-16-2."""
    c = presets.cifar10()
    c.model.update(depth=16, width=2)
    c.optimizer.update(learning_rate=1e-3, decay="cosine")
    c.num_steps = 30 * 703
    c.eval.ood.sets = ("svhn_cropped", "cifar100", "interpolation", "uniform")
    return c


def evaluation(c: ml_collections.ConfigDict) -> None:
    """What the tables show, and no more: half an hour less for a run on a CPU."""
    c.eval.tasks = ("classification", "calibration", "selective", "ood", "shift")
    c.eval.tasks += ("attacks", "samples")
    c.eval.ood.update(num_images=2000, num_fit=5000, refine_steps=0)
    c.eval.shift.num_images = 1000
    c.eval.attacks.update(num_images=200, eps_linf=(2.0, 8.0), eps_l2=(0.5,))
    c.eval.attacks.update(refine_images=0, distal_steps=0, distance_rounds=0)
    c.eval.samples.num_steps = 20


DATASETS = {"fashion_mnist": fashion_mnist, "cifar10": cifar10}


def short_chains(c: ml_collections.ConfigDict) -> None:
    """JEM with five clipped steps from class Gaussians, on clean images: what JEM++ and
    SADA-JEM have in common, without batch norm."""
    presets.jem(c)
    c.data.noise_std = 0.0
    c.sgld.update(num_steps=5, noise_std=0.0, clip_grad=1.0, clip_x=1.0)
    c.sgld.init = "class_gaussian"


def weights(**objective: float) -> Callable[[ml_collections.ConfigDict], None]:
    return lambda c: c.objective.update(objective)


def outlier_exposure(c: ml_collections.ConfigDict) -> None:
    """Liu et al.'s weight and margins, from scratch."""
    c.objective.outliers = 0.1


def adversarial(c: ml_collections.ConfigDict) -> None:
    """Without the batch norm of the preset, so that networks are the same."""
    c.objective.update(cross_entropy=0.0, adversarial=1.0)
    c.data.noise_std = 0.0


METHODS = {
    "classifier": lambda c: None,
    "ng_ebm": presets.ng_ebm,
    "ng_ebm_0.1": weights(energy_variance=0.1, approximate_mass=0.1),
    "ng_ebm_0.01": weights(energy_variance=0.01, approximate_mass=0.01),
    "energy_variance": weights(energy_variance=1.0),
    "approximate_mass": weights(approximate_mass=1.0),
    "hdge": presets.hdge,
    "adversarial": adversarial,
    "outlier_exposure": outlier_exposure,
    "jem_5": short_chains,
    "jem": presets.jem,
    "jem_ng_ebm": weights(p_x=1.0, energy_variance=0.1, approximate_mass=0.1),
}


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
    "jem": "JEM, 20 steps",
    "jem_ng_ebm": "JEM with β = γ = 0.1",
}


def config_of(method: str, seed: int, args) -> ml_collections.ConfigDict:
    c = DATASETS[args.dataset]()
    METHODS[method](c)
    evaluation(c)
    c.seed = seed
    if args.data:
        c.data.name = args.data
    if args.ood:
        c.eval.ood.sets = tuple(args.ood.split(","))
    if c.objective.outliers:
        c.data.outliers = args.outliers
    config.check(c)
    return c


def train(method: str, seed: int, args) -> None:
    """Trains and evaluates a run in a process of its own, unless that is done."""
    workdir = args.runs / f"{method}-{seed}"
    workdir.mkdir(parents=True, exist_ok=True)
    file = workdir.with_suffix(".config.py")
    c = config_of(method, seed, args)
    text = json.dumps(config.to_json(c))
    file.write_text(
        "from ebmjax import config\n\n\n"
        f"def get_config():\n    return config.from_json({text})\n"
    )
    command = [sys.executable, "-m", "ebmjax.main"]
    command += [f"--config={file}", f"--workdir={workdir}"]
    subprocess.run(command, check=True)


def keep(workdir: pathlib.Path, folder: pathlib.Path) -> None:
    """Copies the small files of a finished run to `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in (rundir.CONFIG, "eval.json"):
        shutil.copy(workdir / name, folder / name)
    lines = writers.read(workdir / writers.METRICS)
    curve = [line for line in lines if line["split"] == "valid"]
    text = "".join(json.dumps(line) + "\n" for line in curve)
    (folder / "curve.jsonl").write_text(text)
    pictures = sorted((workdir / "samples").glob("*.png"))
    if pictures:
        shutil.copy(pictures[-1], folder / "samples.png")


# --- the tables ---------------------------------------------------------------


class Row(NamedTuple):
    name: str
    form: str
    get: Callable[[dict], float | None]


def _get(numbers, *path):
    """None if that was not measured."""
    for name in path:
        numbers = numbers.get(name, {})
    return numbers or None


def _eps(norm, text):
    def get(numbers):
        attacked = _get(numbers, "attacks", "norms", norm) or {}
        found = [
            r["accuracy"] for r in attacked.get("sweep", ()) if r["eps_text"] == text
        ]
        return found[0] if found else None

    return get


def _mean_confidence(numbers):
    bins = numbers["as_trained"]["reliability"]
    pairs = list(zip(bins["counts"], bins["confidence"], strict=True))
    total = sum(count for count, _ in pairs)
    return sum(count * mean for count, mean in pairs if count) / total


ROWS = [
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
]
SCORES = {
    "log_density": "log p(x)",
    "max_log_prob": "max p",
    "approximate_mass": "approximate mass",
}

HEADLINE = (  # README's columns
    *("accuracy, %", "ECE, 15 bins, %", "ECE after temperature, %"),
    *("ECE under corruptions, %", "AURC, max p, %", "PGD, L∞ 8/255, %"),
    *("AUROC, mean, log p(x)", "AUROC, mean, max p", "AUROC, mean, approximate mass"),
)


def read_results(folder: pathlib.Path) -> dict[str, list[dict]]:
    """{method: the eval.json of each seed}, in the order of `METHODS`."""
    found = {}
    for method in METHODS:
        paths = sorted(folder.glob(f"{method}-[0-9]*/eval.json"))
        if paths:
            found[method] = [json.loads(path.read_text()) for path in paths]
    return found


def table(results: dict[str, list[dict]], columns: tuple[str, ...] = ()) -> str:
    """Markdown: a row a method, the mean over its seeds ± their standard deviation.

    All columns, unless some are named.
    """
    rows = ROWS + _ood_rows(next(iter(results.values()))[0])
    rows = [row for row in rows if row.name in (columns or {row.name})]
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


def draw_curves(folder: pathlib.Path, path: pathlib.Path) -> None:
    """Accuracy, confidence and ECE of validation along training, of seed 0."""
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.6), layout="constrained")
    for method in METHODS:
        file = folder / f"{method}-0" / "curve.jsonl"
        if not file.exists():
            continue
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        steps = [line["step"] for line in lines]
        for ax, key in zip(axes, ("accuracy", "confidence", "ece"), strict=True):
            values = [100 * line[key] for line in lines]
            ax.plot(steps, values, marker=".", label=TITLES[method])
    for ax, title in zip(axes, ("accuracy", "mean confidence", "ECE"), strict=True):
        ax.set(title=f"{title}, %", xlabel="training step")
        ax.grid(alpha=0.3)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center")
    figure.savefig(path, dpi=80)
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
    if len(values) > 1:
        text += " ± " + form.format(statistics.stdev(values)).rstrip("%")
    return text


def main():
    args = arguments()
    folder = RESULTS / args.dataset
    if args.train:
        for seed in range(args.seeds):
            for method in args.only:
                train(method, seed, args)
                workdir = args.runs / f"{method}-{seed}"
                keep(workdir, folder / workdir.name)
    results = read_results(folder)
    if not results:
        sys.exit(f"error: {folder} holds no results; add --train")
    text = table(results)
    folder.with_suffix(".md").write_text(f"{table(results, HEADLINE)}\n{text}")
    draw_curves(folder, folder.with_name(f"{folder.name}_curves.png"))
    print(text)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m experiments.photographs",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("dataset", choices=DATASETS)
    parser.add_argument("--train", action="store_true")
    for name in ("only", "data", "ood", "outliers"):
        parser.add_argument(f"--{name}", default="")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--runs", type=rundir.expand)
    args = parser.parse_args()
    args.runs = pathlib.Path(args.runs or f"runs/{args.dataset}")
    args.only = args.only.split(",") if args.only else [*METHODS]
    for method in args.only:
        if method not in METHODS:
            hint = config.nearest(method, METHODS)
            parser.error(f"--only: there is no method {method!r}{hint}")
    if args.train and not args.outliers and "outlier_exposure" in args.only:
        args.only.remove("outlier_exposure")
        print("outlier_exposure is left out: it needs --outliers", file=sys.stderr)
    return args


if __name__ == "__main__":
    main()
