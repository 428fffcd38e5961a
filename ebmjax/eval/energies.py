"""Energies of clean and attacked examples, and counterfactuals.

For a classifier with logits f(x)[y] the marginal energy is E(x) = -logsumexp_y f(x)[y]
and the joint one E(x, y) = -f(x)[y]. The cross-entropy is their difference,
-log p(y | x) = E(x, y) - E(x), so an attack that raises it must raise the one or lower
the other: which of the two it does tells classifiers apart (Beadini & Masi, 2023;
Mirza et al., 2024). All are in nats; only differences mean anything.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ebmjax import energy, sgld

LogitsFn = Callable[[jax.Array], jax.Array]  # x [B, ...] -> [B, K]


class Energies(NamedTuple):
    marginal: jax.Array  # [B], E(x)
    joint: jax.Array  # [B], E(x, y) of the label


def of_logits(logits: jax.Array, labels: jax.Array) -> Energies:
    """E(x) and E(x, y).  [B, K], [B] int -> two [B].

    A label outside 0..K-1 is treated as `energy.joint_from_logits` treats it.
    """
    joint = energy.joint_from_logits(logits, labels)
    return Energies(energy.from_logits(logits), joint)


def outcomes(
    right_before: np.ndarray, right_after: np.ndarray
) -> dict[str, np.ndarray]:
    """Which examples an attack has fooled.  bool [N], [N] -> {outcome: bool [N]}.

    Every example has one outcome; those that were "wrong" before need no attack.
    """
    before, after = np.asarray(right_before), np.asarray(right_after)
    return {"withstood": before & after, "fooled": before & ~after, "wrong": ~before}


class Counterfactual(NamedTuple):
    """Where chains towards a class end; see `counterfactual`."""

    x: jax.Array  # [B, ...], not clipped
    confidence: jax.Array  # [B], p(target | x)
    log_density: jax.Array  # [B], log p(x) + log Z, nats
    distance: jax.Array  # [B], ‖x - start‖₂ in the units of x


def counterfactual(
    key: jax.Array,
    logits_fn: LogitsFn,
    x: jax.Array,
    targets: jax.Array,
    *,
    num_steps: int,
    sampler: sgld.SamplerFactory = sgld.JEM,
) -> Counterfactual:
    """x after `num_steps` steps of `sampler` on E(x, target), from the images on.

    x [B, ...] and targets [B] int. log p(x, target) = log p(target | x) + log p(x), so
    the chain moves towards what the model takes for a likely example of the class,
    unlike an attack, which follows log p(target | x) alone and stays near x.

    Where a chain diverges its results are not finite.
    """

    def joint_energy(x):
        return energy.joint_from_logits(logits_fn(x), targets)

    chain = sampler(joint_energy)
    state, _ = sgld.run(key, chain, chain.init(x), num_steps)
    end = state.position
    marginal, joint = of_logits(logits_fn(end), targets)
    return Counterfactual(
        end, jnp.exp(marginal - joint), -marginal, energy.norm(end - x)
    )
