"""What is minimised: a weighted sum of terms that share one forward pass.

    L = sum over terms of weight * value(Pass)

A `Term` names what it needs. The forward pass is planned from the needs of the terms
that have a weight: a term of weight zero costs nothing, and one pass of the data serves
all others. What is `MADE` from the batch, samples by `draw_samples` and adversarial
examples by `Recipe.attack`, comes first; `loss`, which is what one differentiates,
takes it as given.
"""

import difflib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ebmjax import energy, losses, replay, sgld
from ebmjax.models import Network
from ebmjax.terms import MADE, NEEDS, TERMS, Pass, Term, TermSettings

DATA_KEY = 5  # folded into the key of data in a pass of their own; others count from 0


class Objective(NamedTuple):
    """The terms that have a weight, and their weights."""

    terms: dict[str, Term]
    weights: dict[str, float]
    settings: TermSettings = TermSettings()

    @property
    def needs(self) -> frozenset[str]:
        return frozenset(need for term in self.terms.values() for need in term.needs)

    @property
    def sampled(self) -> bool:
        """Does a term need chains?"""
        return bool(self.needs & {"samples", "joint_samples"})

    @property
    def makes_examples(self) -> bool:
        """Does a term need what is made from the batch before the gradient?"""
        return bool(self.needs & MADE)


def objective(
    weights: Mapping[str, float],
    terms: Mapping[str, Term] = TERMS,
    settings: TermSettings | None = None,
) -> Objective:
    """The objective with these weights, those of zero left out.

    Raises ValueError for a weight without a term (naming the nearest), for a need that
    is not one of `NEEDS`, and if no weight is left.
    """
    for name in weights:
        if name not in terms:
            near = difflib.get_close_matches(name, terms, n=1, cutoff=0)
            raise ValueError(
                f"objective.{name}: there is no such term; did you mean {near[0]!r}? A"
                " term of your own belongs to the terms of the recipe"
            )
    chosen = {name: terms[name] for name, weight in weights.items() if weight}
    if not chosen:
        raise ValueError("the objective has no term with a weight; set one")
    for name, term in chosen.items():
        for need in term.needs:
            if need not in NEEDS:
                raise ValueError(
                    f"term {name!r} needs {need!r}, which is not one of"
                    f" {', '.join(NEEDS)}"
                )
    weights = {name: float(weights[name]) for name in chosen}
    return Objective(chosen, weights, settings or TermSettings())


class ChainSettings(NamedTuple):
    """How chains are run during training; see `sgld.run` and `replay.draw`."""

    num_steps: int = 20
    reinit_prob: float = 0.05
    class_conditional: bool = False  # "samples" come from p(y) p(x | y), y uniform
    replace: bool = False
    train_mode: bool = False  # the network as in training; its state is not updated


class Aux(NamedTuple):
    model_state: Any  # after the forward pass
    metrics: dict[str, jax.Array]
    enqueued: jax.Array | None = None  # [L, K], this device's next entries of the queue


def draw_samples(
    key: jax.Array,
    logits_fn: Callable[[jax.Array], jax.Array],
    buffer: replay.Buffer,
    batch: dict,
    *,
    needs: frozenset[str],
    sampler: sgld.SamplerFactory,
    chains: ChainSettings,
    num_classes: int,
    chain_init: replay.ChainInit | None = None,
) -> tuple[dict[str, jax.Array], replay.Buffer, dict[str, jax.Array]]:
    """Runs a batch of chains for each kind of samples that a term needs.

    Fresh chains without classes start from all classes alike. -> ({"samples": [B, ...],
    "joint_samples": [L, ...]} as needed, the buffer with the chains put back, metrics).
    """
    samples, metrics = {}, {}
    of_every_class = chain_init and replay.of_every_class(chain_init, num_classes)
    k_label, k_samples, k_joint = jax.random.split(key, 3)

    def run(key, count, labels, prefix):
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
            reinit_prob=chains.reinit_prob,
            replace=chains.replace,
            chain_init=of_every_class if labels is None else chain_init,
        )
        chain = sampler(energy_fn)
        state, info = sgld.run(k_run, chain, chain.init(start.x), chains.num_steps)
        if hasattr(info, "grad_norm"):  # a user's sampler may tell other things
            metrics[f"{prefix}_grad_norm"] = info.grad_norm[-1].mean()
        return state.position, replay.put(buffer, start.slot, state.position)

    if "samples" in needs:
        count, labels = len(batch["image"]), None
        if chains.class_conditional:
            labels = jax.random.randint(k_label, (count,), 0, num_classes)
        samples["samples"], buffer = run(k_samples, count, labels, "sgld")
    if "joint_samples" in needs:
        labels = batch.get("labelled", batch)["label"]
        joint = run(k_joint, len(labels), labels, "joint_sgld")
        samples["joint_samples"], buffer = joint
    return samples, buffer, metrics


def loss(
    params: Any,
    model_state: Any,
    batch: dict,
    made: dict[str, jax.Array],
    key: jax.Array,
    *,
    network: Network,
    objective: Objective,
    queue: jax.Array | None = None,
    axis_name: str | None = None,
) -> tuple[jax.Array, Aux]:
    """The weighted sum on this device's batch.

    `batch` has "image" [B, ...] and "label" [B]. If it also has "labelled", a batch of
    the same form, the terms that need labels use that one: semi-supervised training,
    and the official code's separate streams. "outliers" is a batch for the terms that
    need them. `made` has what is made from the batch beforehand, see `MADE`; `queue`
    [N, K] the logits of earlier batches.
    """
    outputs, model_state = _forward(
        params, model_state, batch, made, key, network, objective.needs
    )
    outputs = outputs._replace(
        queue=queue, axis_name=axis_name, settings=objective.settings
    )
    values = {name: term.value(outputs) for name, term in objective.terms.items()}
    total: Any = sum(objective.weights[name] * value for name, value in values.items())
    metrics = {"loss": total, **values, **_metrics(outputs, objective.needs)}
    enqueued = None if queue is None else outputs.labelled_logits
    return total, Aux(model_state, metrics, enqueued)


def _metrics(p: Pass, needs):
    """What is logged beside the terms."""
    metrics = {}
    if "labels" in needs and p.labelled_logits.shape[-1] > 1:
        correct = p.labelled_logits.argmax(axis=-1) == p.labels
        metrics["accuracy"] = correct.mean()
    if "adversarial" in needs:
        correct = p.adversarial_logits.argmax(axis=-1) == p.labels
        metrics["adversarial_accuracy"] = correct.mean()
    if "outliers" in needs:
        metrics["energy_outliers"] = p.outlier_energies.mean()
    pairs = {}
    if "samples" in needs and p.logits is not None:
        pairs["energy"] = p.energies, p.sample_energies
    if {"labels", "joint_samples"} <= needs:
        pairs["joint_energy"] = p.joint_energies, p.joint_sample_energies
    for name, (data, model) in pairs.items():
        metrics |= {
            f"{name}_data": data.mean(),
            f"{name}_model": model.mean(),
            f"{name}_gap": data.mean() - model.mean(),
        }
    return metrics


def _forward(params, model_state, batch, made, key, network, needs):
    """The pass that serves all terms.  -> Pass, model state."""
    labelled = batch.get("labelled", batch)
    images = {}
    if needs & {"data", "input_grad"} or ("labels" in needs and labelled is batch):
        images["data"] = batch["image"]
    if "samples" in needs:
        images["samples"] = made["samples"]
    if "labels" in needs and labelled is not batch:
        images["labelled"] = labelled["image"]
    if "joint_samples" in needs:
        images["joint_samples"] = made["joint_samples"]
    if "adversarial" in needs:
        images["adversarial"] = made["adversarial"]
    if "outliers" in needs:
        images["outliers"] = batch["outliers"]["image"]

    logits: Any = {}
    norms: Any = None
    for i, names in enumerate(_passes(images, needs, network.per_example)):
        x = jnp.concatenate([images[name] for name in names])
        if names == ("data",) and "input_grad" in needs:
            k = jax.random.fold_in(key, DATA_KEY)
            norms, (together, model_state) = _with_gradient(
                network, params, model_state, x, k
            )
        else:
            k = key if network.per_example else jax.random.fold_in(key, i)
            together, model_state = network.train(params, model_state, x, k)
        ends = np.cumsum([len(images[name]) for name in names])[:-1]
        logits |= zip(names, jnp.split(together, ends), strict=True)
    return Pass(
        logits=logits.get("data"),
        labelled_logits=logits.get("labelled", logits.get("data")),
        labels=labelled["label"],
        sample_logits=logits.get("samples"),
        joint_sample_logits=logits.get("joint_samples"),
        adversarial_logits=logits.get("adversarial"),
        outlier_logits=logits.get("outliers"),
        input_grad_norm=norms,
    ), model_state


def _passes(images, needs, per_example):
    """The sets of `images` that go through the network as one batch: tuples of names.

    If examples are independent, all do but those whose gradient is needed. Under batch
    norm every set is a batch of its own, as in the official programs, but for outliers,
    which share the batch of the labelled images (Liu et al., 2020). That batch is the
    last one, for its moments weigh most in those that evaluation uses.
    """
    alone = {"data"} if "input_grad" in needs else set()
    if per_example:
        passes = [tuple(alone), tuple(name for name in images if name not in alone)]
        return [names for names in passes if names]
    kinds = ("labelled", "data", "adversarial")
    last = next((name for name in kinds if name in images), "")
    shared = tuple(x for x in (last, "outliers") if x in images and x not in alone)
    passes = [(name,) for name in images if name != last and name not in shared]
    passes += [shared] if shared else []
    return [*passes, (last,)] if last in alone else passes


def _with_gradient(network, params, model_state, x, key):
    """-> ‖dE/dx‖ [B], (logits, model state)."""

    def energy_fn(x):
        logits, new = network.train(params, model_state, x, key)
        return energy.from_logits(logits), (logits, new)

    return losses.gradient_norm(energy_fn, x, has_aux=True)
