"""What is minimised: a weighted sum of the terms of `losses`.

    L = w_1 cross_entropy + w_2 p_x + w_3 p_x_y + w_4 energy_variance
        + w_5 approximate_mass

A term of weight zero costs nothing, and one forward pass of the data serves
all the others. First `negatives` runs the chains that the contrastive terms
need; then `loss`, which is what one differentiates, takes them as given.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ebmjax import energy, losses, replay, sgld
from ebmjax.models import Network


class Weights(NamedTuple):
    """Weight of each term; see `losses`."""

    cross_entropy: float = 0.0  # -log p(y | x)
    p_x: float = 0.0  # -log p(x), by contrast with chains on E(x)
    p_x_y: float = 0.0  # -log p(x | y), chains on E(x, y) at the batch's labels
    energy_variance: float = 0.0  # NG-EBM's beta
    approximate_mass: float = 0.0  # NG-EBM's gamma

    @property
    def sampled(self) -> bool:
        """Does a term need chains?"""
        return bool(self.p_x or self.p_x_y)


class Sampling(NamedTuple):
    """How negatives are drawn: `sgld.sgld`, `sgld.run` and `replay.draw`."""

    step_size: float = 1.0
    noise_std: float = 0.01
    num_steps: int = 20
    reinit_prob: float = 0.05
    class_conditional: bool = False  # p_x's negatives from p(y) p(x | y), y uniform
    replace: bool = False
    train_mode: bool = False  # the network as in training, which keeps no moments


class Negatives(NamedTuple):
    """Samples of the model, [B, H, W, C]; None where no term asks for them."""

    p_x: jax.Array | None = None
    p_x_y: jax.Array | None = None


class Aux(NamedTuple):
    stats: Any  # the network's norm statistics after the pass
    metrics: dict[str, jax.Array]


def negatives(
    key: jax.Array,
    logits_fn,
    buffer: replay.Buffer,
    batch: dict,
    *,
    weights: Weights,
    sampling: Sampling,
    num_classes: int,
) -> tuple[Negatives, replay.Buffer, dict[str, jax.Array]]:
    """Runs one batch of chains for each contrastive term, and puts them back."""
    drawn = Negatives()
    metrics = {}
    k_label, k_x, k_xy = jax.random.split(key, 3)
    shared = dict(sampling=sampling, num_classes=num_classes)
    if weights.p_x:
        count = len(batch["image"])
        labels = None
        if sampling.class_conditional:
            labels = jax.random.randint(k_label, (count,), 0, num_classes)
        x, buffer, info = _chains(k_x, logits_fn, buffer, count, labels, **shared)
        drawn = drawn._replace(p_x=x)
        metrics["sgld_grad_norm"] = info.grad_norm[-1].mean()
    if weights.p_x_y:
        labels = batch.get("labelled", batch)["label"]
        count = len(labels)
        x, buffer, info = _chains(k_xy, logits_fn, buffer, count, labels, **shared)
        drawn = drawn._replace(p_x_y=x)
        metrics["joint_sgld_grad_norm"] = info.grad_norm[-1].mean()
    return drawn, buffer, metrics


def _chains(key, logits_fn, buffer, count, labels, *, sampling, num_classes):
    """`count` chains on E(x), or on E(x, y) for the labels' y."""

    def energy_fn(x):
        if labels is None:
            return energy.from_logits(logits_fn(x))
        return energy.joint_from_logits(logits_fn(x), labels)

    k_draw, k_run = jax.random.split(key)
    start = replay.draw(
        k_draw,
        buffer,
        jnp.zeros(count, jnp.int32) if labels is None else labels,
        num_blocks=1 if labels is None else num_classes,
        reinit_prob=sampling.reinit_prob,
        replace=sampling.replace,
    )
    sampler = sgld.sgld(
        energy_fn, step_size=sampling.step_size, noise_std=sampling.noise_std
    )
    state, info = sgld.run(k_run, sampler, sampler.init(start.x), sampling.num_steps)
    return state.position, replay.put(buffer, start.slot, state.position), info


def loss(
    params,
    stats,
    batch: dict,
    drawn: Negatives,
    key: jax.Array,
    *,
    network: Network,
    weights: Weights,
    axis_name: str | None = None,
) -> tuple[jax.Array, Aux]:
    """The weighted sum on this device's batch, and what else there is to know.

    `batch` has "image" [B, H, W, C] and "label" [B]. If it has "labelled" too,
    a batch of the same form, then the terms that need labels take that one:
    semi-supervised training, and the official code's separate streams.
    """
    has_labelled = "labelled" in batch
    needs_labels = weights.cross_entropy or weights.p_x_y
    needs_data = weights.p_x or weights.energy_variance or weights.approximate_mass
    images = {}  # in the official order, which matters to batch statistics
    if needs_data or not has_labelled:
        images["data"] = batch["image"]
    if drawn.p_x is not None:
        images["p_x"] = drawn.p_x
    if has_labelled and needs_labels:
        images["labelled"] = batch["labelled"]["image"]
    if drawn.p_x_y is not None:
        images["p_x_y"] = drawn.p_x_y

    slope = None
    logits = {}
    if weights.approximate_mass:
        x = images.pop("data")
        logits["data"], slope, stats = _with_slope(network, params, stats, x, key)
    rest, stats = _forward(network, params, stats, images, key)
    logits |= rest

    labels = batch.get("labelled", batch)["label"]
    logits_labelled = logits.get("labelled", logits.get("data"))
    terms, metrics = {}, {}
    if weights.cross_entropy:
        terms["cross_entropy"] = losses.cross_entropy(logits_labelled, labels).mean()
    if weights.p_x_y:
        energy_data = energy.joint_from_logits(logits_labelled, labels)
        energy_model = energy.joint_from_logits(logits["p_x_y"], labels)
        terms["p_x_y"] = losses.contrast(energy_data, energy_model)
        metrics |= _energies("joint_energy", energy_data, energy_model)
    if weights.p_x:
        energy_data = energy.from_logits(logits["data"])
        energy_model = energy.from_logits(logits["p_x"])
        terms["p_x"] = losses.contrast(energy_data, energy_model)
        metrics |= _energies("energy", energy_data, energy_model)
    if weights.energy_variance:
        energies = energy.from_logits(logits["data"])
        terms["energy_variance"] = losses.energy_variance(energies, axis_name)
    if weights.approximate_mass:
        terms["approximate_mass"] = slope.mean()

    if needs_labels and logits_labelled.shape[-1] > 1:
        metrics["accuracy"] = (logits_labelled.argmax(axis=-1) == labels).mean()
    total = sum(getattr(weights, name) * term for name, term in terms.items())
    return total, Aux(stats, {"loss": total, **terms, **metrics})


def _energies(name, energy_data, energy_model):
    data, model = energy_data.mean(), energy_model.mean()
    return {f"{name}_data": data, f"{name}_model": model, f"{name}_gap": data - model}


def _with_slope(network, params, stats, x, key):
    """Logits, ‖dE/dx‖₂ and new statistics, all from one forward pass."""

    def logits_fn(x):
        return network.train(params, stats, x, key)

    logits, backward, stats = jax.vjp(logits_fn, x, has_aux=True)
    (score,) = backward(energy.score(energy.from_logits, logits))
    return logits, energy.norm(score), stats


def _forward(network, params, stats, images, key):
    """Logits of each set of images, all in one pass if examples do not meet."""
    if not images:
        return {}, stats
    if not network.separable:
        logits = {}
        for i, (name, x) in enumerate(images.items()):
            k = jax.random.fold_in(key, i)
            logits[name], stats = network.train(params, stats, x, k)
        return logits, stats
    x = jnp.concatenate(list(images.values()))
    logits, stats = network.train(params, stats, x, key)
    ends = np.cumsum([len(x) for x in images.values()])[:-1]
    return dict(zip(images, jnp.split(logits, ends), strict=True)), stats
