"""Pictures of the JEM on Fashion-MNIST that ships with the package.

    python -m experiments.figures.fashion --data=fashion_mnist.npz

Writes, beside this file, fashion_buffer.png, the first hundred of the shipped samples
of its replay buffer, and fashion_counterfactuals.png, what
`python -m ebmjax.eval --tasks=counterfactuals` computes, with the names of the classes.
"""

import argparse
import io
import pathlib

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

import ebmjax
from ebmjax import pictures
from ebmjax.eval import result
from ebmjax.eval.result import Progress
from ebmjax.eval.tasks import counterfactuals

FOLDER = pathlib.Path(__file__).parent


def draw(images: np.ndarray, names: list[str], path: pathlib.Path) -> None:
    """images: uint8 [K, 1 + K, H, W, 1], a test image and its chains in a row."""
    rows, columns, height, width, _ = images.shape
    grid = images[..., 0].transpose(0, 2, 1, 3).reshape(rows * height, columns * width)
    figure, ax = plt.subplots(figsize=(9, 8), layout="constrained")
    ax.imshow(grid, cmap="gray")
    for i in range(1, rows):
        ax.axhline(i * height - 0.5, color="white", linewidth=1)
    for i in range(1, columns):
        ax.axvline(i * width - 0.5, color="white", linewidth=3 if i == 1 else 1)
    ax.set_yticks((np.arange(rows) + 0.5) * height, names)
    ax.set_xticks((np.arange(columns) + 0.5) * width, ["test image", *names])
    ax.tick_params(length=0, labeltop=True, labelbottom=False)
    plt.setp(ax.get_xticklabels(), rotation=45, ha="left", rotation_mode="anchor")
    ax.set_ylabel("class of the test image")
    ax.set_title("class to which the chain leads")
    file = io.BytesIO()
    figure.savefig(file, dpi=80)
    plt.close(figure)
    Image.open(file).convert("L").quantize(64).save(path, optimize=True)


def main():
    parser = argparse.ArgumentParser(
        "python -m experiments.figures.fashion",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", default="fashion_mnist")
    args = parser.parse_args()
    splits = ebmjax.data.load(args.data)
    run = ebmjax.load("ebmjax://fashion_mnist-jem")
    # An .npz file need not have the names of the classes.
    run = ebmjax.load(
        "ebmjax://fashion_mnist-jem",
        data=splits._replace(class_names=run.class_names),
    )
    buffer = pictures.grid(result.to_uint8(run.buffer[:100]), result.COLUMNS)
    png = pictures.png(buffer, height=2 * len(buffer))
    (FOLDER / "fashion_buffer.png").write_bytes(png)
    found = counterfactuals.compute(run, Progress())
    with np.load(io.BytesIO(found.files["counterfactuals.npz"])) as arrays:
        images = arrays["x"]
    draw(images, found.numbers["classes"], FOLDER / "fashion_counterfactuals.png")


if __name__ == "__main__":
    main()
