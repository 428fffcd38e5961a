"""Accuracy against eps of the models that ship with the package, as curves.

    python -m experiments.shipped_robustness --data=fashion_mnist.npz
    python -m experiments.shipped_robustness --redraw

PGD, 40 steps of both losses with one restart, on the first 200 test images. Writes
the accuracies and the picture to experiments/results/fashion_mnist_robustness.json and
.png; with --redraw the picture alone, of the accuracies that are there.

    --data=NAME        the data set, as config.data.name (fashion_mnist, from TFDS)
    --num_images=N     of the test set (200)
"""

import argparse
import json
import pathlib

import matplotlib.pyplot as plt
import numpy as np

import ebmjax
from ebmjax import augment
from ebmjax.eval import robustness
from ebmjax.eval.result import Progress

MODELS = {
    "classifier": "classifier",
    "ng_ebm": "NG-EBM, β = γ = 0.01",
    "jem": "JEM, 5 clipped steps",
}
EPS = {
    "linf": (0.5, 1.0, 2.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0),  # in 255ths
    "l2": (0.125, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0),  # of images in [0, 1]
}
LABELS = {"linf": "L∞ eps, 255ths", "l2": "L2 eps, of images in [0, 1]"}
RESULTS = pathlib.Path(__file__).parent / "results" / "fashion_mnist_robustness.json"


def accuracies(name: str, splits, num_images: int) -> dict[str, list[float]]:
    """{norm: accuracy at 0 and at each of `EPS`} of a shipped model."""
    run = ebmjax.load(f"ebmjax://fashion_mnist-{name}", data=splits)
    run.config.eval.attacks.update(eps_linf=EPS["linf"], eps_l2=EPS["l2"])
    test = splits.test.take(slice(num_images))
    x = np.asarray(augment.to_float(test.image))
    target = robustness.Target(run, x, test.label, Progress())
    clean = float(np.mean(run.logits(x).argmax(axis=-1) == test.label))
    return {
        norm: [
            clean,
            *(row["accuracy"] for row in robustness.pgd(target, norm)[0]["sweep"]),
        ]
        for norm in EPS
    }


def draw(
    results: dict[str, dict[str, list[float]]], num_images: int, path: pathlib.Path
) -> None:
    figure, axes = plt.subplots(
        1, 2, figsize=(9, 3.2), layout="constrained", sharey=True
    )
    for ax, (norm, eps) in zip(axes, EPS.items(), strict=True):
        for name, by_norm in results.items():
            ax.plot(
                [0, *eps], np.multiply(by_norm[norm], 100), ".-", label=MODELS[name]
            )
        ax.set(xlabel=LABELS[norm], ylim=(0, 100))
        ax.grid(alpha=0.3)
    axes[0].set_ylabel("accuracy under PGD, %")
    axes[1].legend(title=f"n = {num_images}")
    figure.savefig(path, dpi=90)
    plt.close(figure)


def main():
    parser = argparse.ArgumentParser(
        "python -m experiments.shipped_robustness",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", default="fashion_mnist")
    parser.add_argument("--num_images", type=int, default=200)
    parser.add_argument("--redraw", action="store_true")
    args = parser.parse_args()
    if args.redraw:
        results = json.loads(RESULTS.read_text())
    else:
        splits = ebmjax.data.load(args.data)
        results = {name: accuracies(name, splits, args.num_images) for name in MODELS}
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    draw(results, args.num_images, RESULTS.with_suffix(".png"))


if __name__ == "__main__":
    main()
