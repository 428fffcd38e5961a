"""The terms of the objectives. Lower is better, whatever the term.

Per example where a term has examples; who calls it takes the mean.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from ebmjax import energy


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """-log p(y | x) = E(x, y) - E(x).  [B, K], [B] -> [B], nats."""
    return energy.joint_from_logits(logits, labels) - energy.from_logits(logits)


def contrast(energy_data: jax.Array, energy_model: jax.Array) -> jax.Array:
    """mean E(data) - mean E(model).  [B], [M] -> [].

    With samples from the model its gradient is that of -log p (Grathwohl et
    al., 2020, equation 2; for p(x) and p(x | y) alike); its value is not, and
    hovers about zero while the chains keep up with the data.
    """
    return energy_data.mean() - energy_model.mean()


def energy_variance(energies: jax.Array, axis_name: str | None = None) -> jax.Array:
    """mean (E - mean E)² over the batch of all devices.  [B] -> [].

    The beta term of NG-EBM (Piland et al., 2023). Averaging each device's own
    variance would be another loss, one that depends on the number of devices.
    """
    mean = energies.mean()
    if axis_name is not None:
        mean = lax.pmean(mean, axis_name)
    return jnp.mean((energies - mean) ** 2)


def gradient_norm(
    energy_fn: energy.EnergyFn, x: jax.Array, *, has_aux: bool = False
) -> Any:
    """‖dE/dx‖₂, the approximate mass with its sign turned.  [B, ...] -> [B].

    The gamma term of NG-EBM (Piland et al., 2023). With `has_aux`, `energy_fn`
    returns (energies, aux) and this (norms, aux), from one forward pass.
    """

    def total(x):
        energies, aux = energy_fn(x) if has_aux else (energy_fn(x), None)
        return energies.sum(), aux

    gradient, aux = jax.grad(total, has_aux=True)(x)
    norms = energy.norm(gradient)
    return (norms, aux) if has_aux else norms


def energy_l2(energy_data: jax.Array, energy_model: jax.Array) -> jax.Array:
    """mean E(data)² + mean E(model)².  [B], [M] -> [].

    Keeps energies near 0 (Du & Mordatch, 2019, section 3.3).
    """
    return jnp.mean(energy_data**2) + jnp.mean(energy_model**2)
