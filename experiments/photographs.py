"""Results on photographs: each objective of the package on Fashion-MNIST or CIFAR-10.

    python -m experiments.photographs fashion_mnist --train
    python -m experiments.photographs cifar10 --train --only=classifier,ng_ebm
    python -m experiments.photographs fashion_mnist

`--train` trains and evaluates what is missing under runs/DATASET, one seed of all
methods after the other, and may be stopped and started again. What is finished is then
copied to experiments/results/DATASET: config, eval.json, the curve of validation,
histograms of log p(x), and the newest picture of the chains. Without `--train` the
tables, README's and one with all columns, and the pictures of curves and histograms are
made from those files alone; and what a step of each method costs is counted.

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
import subprocess
import sys
from collections.abc import Callable, Mapping

import ml_collections
import numpy as np
from PIL import Image

from ebmjax import config, data, plan, presets, rundir, writers
from ebmjax import train as train_loop
from experiments import photograph_tables as tables
from experiments.ng_ebm_cost import step_flops

RESULTS = pathlib.Path(__file__).parent / "results"
NUM_BINS = 60  # of the histograms


def fashion_mnist() -> ml_collections.ConfigDict:
    """6 epochs of 859 steps of the ConvNet, on the images as they are."""
    c = presets.fashion_mnist()
    c.data.update(pad=0, flip=False)
    c.optimizer.warmup_steps = 500
    c.num_steps = 6 * 859
    c.eval.ood.sets = ("mnist", "kmnist", "interpolation", "uniform")
    return c


def cifar10() -> ml_collections.ConfigDict:
    """10 epochs of 351 steps of WRN-10-2 with batch norm, by SGD."""
    c = presets.cifar10()
    presets.sgd(c, weight_decay=5e-4)
    c.data.noise_std = 0.0
    c.model.update(depth=10, width=2, norm="batch")
    c.sgld.train_mode = True
    c.optimizer.update(decay="cosine", warmup_steps=200)
    c.num_steps = 10 * 351
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


def sada_jem(c: ml_collections.ConfigDict) -> None:
    """SADA-JEM's recipe: chains of p(x) for half a batch, on images as they are, and
    sharpness-aware minimisation."""
    short_chains(c)
    c.data.update(separate_streams=True, generative_augment=False)
    c.data.generative_batch_size = c.batch_size // 2
    c.sgld.replace = True
    c.optimizer.update(sam_rho=2.0, sam_adaptive=True)


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
    "sada_jem": sada_jem,
    "jem": presets.jem,
    "jem_ng_ebm": weights(p_x=1.0, energy_variance=0.1, approximate_mass=0.1),
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
    if c.objective.p_x:  # one classifier's features measure all samples
        c.eval.samples.extractor = str(args.runs / "classifier-0")
        c.eval.samples.num_chains = 1000
    config.check(c)
    return c


def train(method: str, seed: int, args) -> None:
    """Trains and evaluates a run in a process of its own, unless that is done."""
    c = config_of(method, seed, args)
    if c.eval.samples.extractor:
        train("classifier", 0, args)
    run_config(c, args.runs / f"{method}-{seed}")


def run_config(c: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """As `python -m ebmjax.main` with a file of this config."""
    workdir.mkdir(parents=True, exist_ok=True)
    file = workdir.parent / f"{workdir.name}.config.py"
    text = json.dumps(config.to_json(c))
    file.write_text(
        "from ebmjax import config\n\n\n"
        f"def get_config():\n    return config.from_json({text})\n"
    )
    command = [sys.executable, "-m", "ebmjax.main"]
    command += [f"--config={file}", f"--workdir={workdir}"]
    subprocess.run(command, check=True)


def histograms(scores: Mapping[str, np.ndarray]) -> dict:
    """Of log p(x) of each set, over common bins: from the least of the 1 % quantiles to
    the largest of the 99 %, beyond which values count in the outermost bins."""
    suffix = "/log_density"
    values = {
        key.removesuffix(suffix): scores[key] for key in scores if key.endswith(suffix)
    }
    ends = np.array([np.quantile(v, (0.01, 0.99)) for v in values.values()])
    edges = np.linspace(ends[:, 0].min(), ends[:, 1].max(), NUM_BINS + 1)
    counts = {
        name: np.histogram(v.clip(edges[0], edges[-1]), edges)[0].tolist()
        for name, v in values.items()
    }
    return {"edges": edges.round(4).tolist(), "counts": counts}


def costs(folder: pathlib.Path) -> dict[str, float]:
    """{method: operations of the convolutions of a step, over the classifier's}; none
    without a run of the classifier."""
    paths = {
        path.parent.name.removesuffix("-0"): path
        for path in sorted(folder.glob(f"*-0/{rundir.CONFIG}"))
    }
    if "classifier" not in paths:
        return {}
    flops = {
        method: operations(config.from_json(path.read_text()), folder.name)
        for method, path in paths.items()
    }
    return {method: round(f / flops["classifier"], 2) for method, f in flops.items()}


def operations(c: ml_collections.ConfigDict, dataset: str) -> int:
    """Of the convolutions of a training step on images like those of `dataset`."""
    shape = {"fashion_mnist": (28, 28, 1), "cifar10": (32, 32, 3)}[dataset]
    x = np.random.default_rng(0).integers(0, 256, (2_000, *shape), np.uint8)
    y = np.arange(len(x)) % 10
    splits = data.from_arrays(x, y, x[:10], y[:10])
    made = plan.make_plan(c, None, splits._replace(outliers=splits.train))
    with train_loop.step_program(made) as run:
        return step_flops(run, made.make_state())


def keep(workdir: pathlib.Path, folder: pathlib.Path) -> None:
    """Copies the small files of a finished run to `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in (rundir.CONFIG, "eval.json"):
        shutil.copy(workdir / name, folder / name)
    lines = writers.read(workdir / writers.METRICS)
    curve = [line for line in lines if line["split"] == "valid"]
    text = "".join(json.dumps(line) + "\n" for line in curve)
    (folder / "curve.jsonl").write_text(text)
    counts = histograms(np.load(workdir / "eval" / "ood_scores.npz"))
    (folder / tables.HISTOGRAMS).write_text(json.dumps(counts) + "\n")
    pictures = sorted((workdir / "samples").glob("*.png"))
    if pictures:  # in few colours, for the repository keeps it
        image = Image.open(pictures[-1]).convert("RGB").quantize(128)
        image.save(folder / "samples.png", optimize=True)


def main():
    args = arguments()
    folder = RESULTS / args.dataset
    if args.train:
        for seed in range(args.seeds):
            for method in args.only:
                train(method, seed, args)
                workdir = args.runs / f"{method}-{seed}"
                keep(workdir, folder / workdir.name)
    if not tables.read_results(folder):
        sys.exit(f"error: {folder} holds no results; add --train")
    (folder / tables.COSTS).write_text(json.dumps(costs(folder), indent=1) + "\n")
    results = tables.read_results(folder)
    text = tables.table(results)
    folder.with_suffix(".md").write_text(
        f"{tables.table(results, tables.HEADLINE)}\n{text}"
    )
    tables.draw(folder, folder.with_name(f"{folder.name}_curves.png"))
    tables.draw_ood(folder, folder.with_name(f"{folder.name}_ood.png"))
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
