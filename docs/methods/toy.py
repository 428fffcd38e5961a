"""The pictures of the pages on methods: log p(x) of each objective on two moons.

    python docs/methods/toy.py [NAME ...]

Trains an MLP on 1,000 points in the plane by each objective and draws figures/NAME.png:
log p(x) as trained, its largest values in light colours, the data, and the line where
both classes are equally likely. The picture of adversarial training is drawn of images
and has a function of its own.
"""

import pathlib
import sys
import tempfile

import jax
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import make_moons

import ebmjax

FIGURES = pathlib.Path(__file__).parent / "figures"
EXTENT = 3.0  # of the picture, in standard deviations of the data
# The textbook's dynamics, of temperature 1, so that log p(x) is that of the data.
LANGEVIN = {"step_size": 0.01, "noise_std": 0.02**0.5, "num_steps": 60}
OBJECTIVES = {
    "classifier": {},
    "ng_ebm": {"objective": {"energy_variance": 1.0, "approximate_mass": 1.0}},
    "jem": {"objective": {"p_x": 1.0}, "sgld": LANGEVIN},
    "jem_pp": {
        "objective": {"p_x": 1.0},
        "sgld": {"init": "class_gaussian", "clip_grad": 1.0, "noise_std": 0.0},
        "optimizer": {"sam_rho": 0.05},
    },
    "energy_l2": {"objective": {"p_x": 1.0, "energy_l2": 0.1}, "sgld": LANGEVIN},
    "input_gradient": {"objective": {"input_gradient": 0.1}},
    "hdge": {"objective": {"contrast": 1.0}, "hdge": {"queue_size": 4_096}},
    "outlier_exposure": {
        "objective": {"outliers": 0.1},
        "outliers": {"margin_in": -5.0, "margin_out": 0.0},
    },
}


def moons():
    """Training and test points; the plane's outliers are uniform on [-3, 3]²."""
    x, y = make_moons(1_500, noise=0.1, random_state=0)
    x = ((x - x.mean(axis=0)) / x.std(axis=0)).astype(np.float32)
    splits = ebmjax.data.from_arrays(x[:1_000], y[:1_000], x[1_000:], y[1_000:])
    outliers = np.random.default_rng(0).uniform(-EXTENT, EXTENT, (5_000, 2))
    labels = np.full(len(outliers), -1, np.int32)
    return splits, ebmjax.Dataset(outliers.astype(np.float32), labels)


def config(**changes):
    c = ebmjax.config.default()
    c.num_steps = 3_000
    c.data.update(pad=0, flip=False, noise_std=0.0)
    c.model.update(name="mlp", features=(128, 128, 128))
    c.sgld.update(step_size=0.1, noise_std=0.1, buffer_size=2_000)
    c.optimizer.update(learning_rate=1e-3, warmup_steps=100, decay="cosine")
    c.every.update(log=1_000, checkpoint=3_000, samples=3_000)
    c.tensorboard = False
    c.update(changes)
    return c


def train(name):
    splits, outliers = moons()
    if name == "outlier_exposure":
        splits = splits._replace(outliers=outliers)
    with tempfile.TemporaryDirectory() as workdir:
        return ebmjax.fit(config(**OBJECTIVES[name]), workdir, data=splits)


def draw(name):
    run = train(name)
    axis = np.linspace(-EXTENT, EXTENT, 150, dtype=np.float32)
    grid = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    log_density = run.log_density(grid).reshape(150, 150)
    margin = (run.logits(grid) @ [1.0, -1.0]).reshape(150, 150)
    test = run.splits().test
    low = np.quantile(log_density, 0.1)
    figure, axes = plt.subplots(figsize=(4.6, 3.6), layout="constrained")
    image = axes.contourf(
        axis, axis, np.maximum(log_density, low), levels=24, cmap="viridis"
    )
    axes.contour(axis, axis, margin, levels=[0], colors="white", linewidths=1.5)
    for label, colour in enumerate(("#ff7f0e", "#e8e8e8")):
        points = test.image[test.label == label][:100]
        axes.scatter(*points.T, s=7, color=colour, edgecolor="black", linewidth=0.3)
    figure.colorbar(image, label="log p(x) + log Z, nats", format="%.3g")
    axes.set(aspect="equal", xticks=[], yticks=[])
    save(figure, name)


def draw_adversarial():
    """A digit, the change of PGD at 0.1, and the image that it makes."""
    c = ebmjax.presets.digits()
    c.model.update(name="convnet", features=(16, 16))
    c.objective.update(cross_entropy=0.0, adversarial=1.0)
    c.adversarial.update(eps=0.1, step_size=0.025)
    c.tensorboard = False
    with tempfile.TemporaryDirectory() as workdir:
        run = ebmjax.fit(c, workdir)
    test = run.splits().test.take(slice(6))
    x = run.to_float(test.image)
    attacked = ebmjax.eval.attacks.pgd(
        jax.random.key(0),
        lambda x: run.model.logits(x),
        jax.numpy.asarray(x),
        jax.numpy.asarray(test.label),
        eps=0.2,
        step_size=0.05,
        num_steps=20,
    )
    rows = {"x": x, "change": np.asarray(attacked) - x, "x + change": attacked}
    figure, axes = plt.subplots(3, 6, figsize=(5.6, 3.0), layout="constrained")
    for row, (text, images) in zip(axes, rows.items(), strict=True):
        row[0].set_ylabel(text)
        for ax, image in zip(row, images, strict=True):
            ax.imshow(image[..., 0], cmap="gray", vmin=-1, vmax=1)
            ax.set(xticks=[], yticks=[])
    save(figure, "adversarial")


def save(figure, name):
    FIGURES.mkdir(exist_ok=True)
    figure.savefig(FIGURES / f"{name}.png", dpi=110)
    plt.close(figure)


def main(names):
    plt.switch_backend("Agg")
    for name in names or [*OBJECTIVES, "adversarial"]:
        print(name, flush=True)
        draw_adversarial() if name == "adversarial" else draw(name)


if __name__ == "__main__":
    main(sys.argv[1:])
