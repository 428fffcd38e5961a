"""Are JEM's successors as good at a fraction of its cost?  Runs of equal cost.

    python -m experiments.ablation fashion_mnist
    python -m experiments.ablation cifar10 --budget=100000

JEM with 20 chain steps from uniform starts; five clipped steps, from uniform starts or
class Gaussians, with augmented or clean images for p(x); and the classifier, whose
features measure all samples. The budget is in classifier steps: each run takes as many
as have that cost, by the operations of the convolutions. It may be stopped and
started again; the table is in experiments/results/DATASET_ablation.md, and a picture of
the replay buffers beside it.

    --budget=N         classifier steps (30,000)
    --data=NAME        the data set, as config.data.name: a TFDS name or an .npz file
    --ood=NAME,NAME    OOD sets, as config.eval.ood.sets
    --runs=DIR         the folder of run directories (runs/DATASET_ablation)
"""

import argparse
import io
import json
import pathlib

import matplotlib.pyplot as plt
import ml_collections
import numpy as np
from PIL import Image

from ebmjax import config, pictures, presets, rundir, writers
from experiments import photographs


def chains(init: str, augment: bool):
    """Five clipped steps, as `photographs.short_chains`."""

    def change(c):
        photographs.short_chains(c)
        c.sgld.init = init
        if not augment:
            c.data.update(generative_augment=False, separate_streams=True)

    return change


VARIANTS = {
    "classifier": lambda c: None,
    "JEM, 20 steps": presets.jem,
    "5 steps, uniform starts, augmented": chains("uniform", True),
    "5 steps, uniform starts, clean": chains("uniform", False),
    "5 steps, class Gaussians, augmented": chains("class_gaussian", True),
    "5 steps, class Gaussians, clean": chains("class_gaussian", False),
}


def config_of(variant: str, args) -> ml_collections.ConfigDict:
    """Without the number of steps that the budget allows."""
    c = photographs.DATASETS[args.dataset]()
    VARIANTS[variant](c)
    # The same for all, and without it clean images would be no different.
    c.data.update(pad=max(c.data.pad, 2), noise_std=0.03)
    photographs.evaluation(c)
    c.eval.tasks = ("classification", "calibration", "ood", "samples")
    c.eval.samples.num_chains = 1_000
    c.data.name = args.data or c.data.name
    c.eval.ood.sets = tuple(args.ood.split(",")) if args.ood else c.eval.ood.sets
    if variant != "classifier":
        c.eval.samples.extractor = str(args.runs / _name("classifier"))
    config.check(c)
    return c


def _name(variant):
    return "".join(x if x.isalnum() else "_" for x in variant.lower())


def row(variant: str, cost: float, workdir: pathlib.Path) -> list[str]:
    numbers = json.loads((workdir / "eval.json").read_text())
    lines = [
        x for x in writers.read(workdir / writers.METRICS) if x["split"] == "train"
    ]
    ood = numbers["ood"]["mean"]
    distances = numbers["samples"]["scores"]["sets"]
    buffer = distances.get("buffer")
    return [
        variant,
        f"{cost:.1f}",
        str(numbers["run"]["step"]),
        f"{numbers['classification']['accuracy']:.1%}",
        f"{numbers['classification']['ece']:.1%}",
        f"{ood['log_density']['auroc']:.3f}",
        f"{ood['max_log_prob']['auroc']:.3f}",
        f"{buffer['frechet_distance']:.1f}" if buffer else "",
        f"{sorted(x['images_per_s'] for x in lines)[len(lines) // 2]:.0f}",
    ]


def draw(buffers: dict[str, np.ndarray], path: pathlib.Path) -> None:
    """Two rows of 20 images of each buffer, uint8 [N, H, W, C]."""
    figure, axes = plt.subplots(
        len(buffers), figsize=(8, 1.05 * len(buffers)), layout="constrained"
    )
    for ax, (variant, x) in zip(np.atleast_1d(axes), buffers.items(), strict=True):
        grid = pictures.grid(x[:40], 20)
        ax.imshow(grid if grid.shape[-1] == 3 else grid[..., 0], cmap="gray")
        ax.set_title(variant, loc="left", fontsize=9)
        ax.set_axis_off()
    file = io.BytesIO()
    figure.savefig(file, dpi=90)
    plt.close(figure)
    Image.open(file).convert("RGB").quantize(64).save(path, optimize=True)


COLUMNS = (
    *("variant", "cost of a step", "steps", "accuracy", "ECE"),
    *("AUROC, log p(x)", "AUROC, max p", "Fréchet distance of the buffer"),
    "images/s",
)


def main():
    args = arguments()
    rows, costs, buffers = [COLUMNS, ["---"] * len(COLUMNS)], {}, {}
    for variant in VARIANTS:
        c = config_of(variant, args)
        costs[variant] = photographs.operations(c, args.dataset)
        cost = costs[variant] / costs["classifier"]
        c.num_steps = round(args.budget / cost)
        c.optimizer.warmup_steps = min(c.optimizer.warmup_steps, c.num_steps // 10)
        workdir = args.runs / _name(variant)
        photographs.run_config(c, workdir)
        rows.append(row(variant, cost, workdir))
        with np.load(workdir / "eval" / "samples.npz") as images:
            if "buffer" in images:
                buffers[variant] = images["buffer"]
    text = "".join(f"| {' | '.join(cells)} |\n" for cells in rows)
    path = photographs.RESULTS / f"{args.dataset}_ablation.md"
    path.write_text(text)
    draw(buffers, path.with_suffix(".png"))
    print(text)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m experiments.ablation",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("dataset", choices=photographs.DATASETS)
    parser.add_argument("--budget", type=int, default=30_000)
    parser.add_argument("--data", default="")
    parser.add_argument("--ood", default="")
    parser.add_argument("--runs", type=rundir.expand)
    args = parser.parse_args()
    args.runs = pathlib.Path(args.runs or f"runs/{args.dataset}_ablation")
    return args


if __name__ == "__main__":
    main()
