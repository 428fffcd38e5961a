"""The terms of an objective: what each needs of a forward pass, and its value."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ebmjax import energy, losses

# What a term may need: fields of `Pass`.
NEEDS = (
    "data",
    "labels",
    "samples",
    "joint_samples",
    "input_grad",
    "adversarial",
    "outliers",
    "queue",
)
# Those that are made from the batch before the gradient is taken.
MADE = frozenset({"samples", "joint_samples", "adversarial"})


class TermSettings(NamedTuple):
    """The numbers in the formulas of terms; see `losses`."""

    temperature: float = 0.1  # of the contrast
    margin_in: float = -25.0  # of the energies of data, nats
    margin_out: float = -7.0  # of the energies of outliers, nats


# None, of a type that spares each term a check of what it has asked for.
_NOT_MADE: Any = None


class Pass(NamedTuple):
    """The outputs of one forward pass on this device's batch.

    What no term needs is None. B examples of data, L with labels (the same examples,
    unless the batch has a labelled stream of its own), M chains, O outliers.
    """

    logits: jax.Array = _NOT_MADE  # [B, K], "data"
    labelled_logits: jax.Array = _NOT_MADE  # [L, K], "labels"
    labels: jax.Array = _NOT_MADE  # [L] int, "labels", "adversarial"
    sample_logits: jax.Array = _NOT_MADE  # [M, K], chains on E(x), "samples"
    # [L, K], chains on E(x, y) at the labels, "joint_samples"
    joint_sample_logits: jax.Array = _NOT_MADE
    input_grad_norm: jax.Array = _NOT_MADE  # [B], ‖dE/dx‖₂, "input_grad"
    adversarial_logits: jax.Array = _NOT_MADE  # [L, K], "adversarial"
    outlier_logits: jax.Array = _NOT_MADE  # [O, K], "outliers"
    queue: jax.Array = _NOT_MADE  # [N, K], logits of earlier batches, "queue"
    axis_name: str | None = None  # of the devices, for statistics of the whole batch
    settings: TermSettings = TermSettings()

    @property
    def energies(self) -> jax.Array:
        """E(x) of the data, [B]."""
        return energy.from_logits(self.logits)

    @property
    def sample_energies(self) -> jax.Array:
        """E(x) of the samples, [M]."""
        return energy.from_logits(self.sample_logits)

    @property
    def outlier_energies(self) -> jax.Array:
        """E(x) of the outliers, [O]."""
        return energy.from_logits(self.outlier_logits)

    @property
    def joint_energies(self) -> jax.Array:
        """E(x, y) of the labelled data, [L]."""
        return energy.joint_from_logits(self.labelled_logits, self.labels)

    @property
    def joint_sample_energies(self) -> jax.Array:
        """E(x, y) of the joint samples, [L]."""
        return energy.joint_from_logits(self.joint_sample_logits, self.labels)


class Term(NamedTuple):
    """One summand of the objective."""

    value: Callable[[Pass], jax.Array]  # -> [], this device's mean
    needs: tuple[str, ...]  # of `NEEDS`
    whole_batch: bool = False  # a statistic of the batch: refuses accumulation


# The terms of `config.objective`; formulas and sources are in `losses`.
TERMS: dict[str, Term] = {
    "cross_entropy": Term(
        lambda p: losses.cross_entropy(p.labelled_logits, p.labels).mean(), ("labels",)
    ),
    "p_x": Term(
        lambda p: losses.contrast(p.energies, p.sample_energies), ("data", "samples")
    ),
    "p_x_y": Term(
        lambda p: losses.contrast(p.joint_energies, p.joint_sample_energies),
        ("labels", "joint_samples"),
    ),
    "energy_variance": Term(
        lambda p: losses.energy_variance(p.energies, p.axis_name),
        ("data",),
        whole_batch=True,
    ),
    "approximate_mass": Term(lambda p: p.input_grad_norm.mean(), ("input_grad",)),
    "energy_l2": Term(
        lambda p: losses.energy_l2(p.energies, p.sample_energies), ("data", "samples")
    ),
    "mean_energy_l2": Term(
        lambda p: losses.energy_l2(
            p.energies, p.sample_energies, form="square_mean", axis_name=p.axis_name
        ),
        ("data", "samples"),
        whole_batch=True,
    ),
    "input_gradient": Term(lambda p: jnp.mean(p.input_grad_norm**2), ("input_grad",)),
    "contrast": Term(lambda p: _contrast(p).mean(), ("labels", "queue")),
    "outliers": Term(
        lambda p: losses.energy_margins(
            p.energies,
            p.outlier_energies,
            margin_in=p.settings.margin_in,
            margin_out=p.settings.margin_out,
        ),
        ("data", "outliers"),
    ),
    "adversarial": Term(
        lambda p: losses.cross_entropy(p.adversarial_logits, p.labels).mean(),
        ("adversarial",),
    ),
}


def _contrast(p):
    return losses.hdge_contrast(
        p.labelled_logits,
        p.labels,
        p.queue,
        temperature=p.settings.temperature,
        axis_name=p.axis_name,
    )
