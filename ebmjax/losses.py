"""The terms of the objectives. Lower is better, whatever the term.

Terms that are sums over examples come per example, for the caller to average; the
others, which compare or pool examples, are scalars.
"""

from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
from jax import lax

from ebmjax import energy


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """-log p(y | x) = E(x, y) - E(x).  [B, K], [B] -> [B], nats.

    Labels outside 0..K-1 as in `energy.joint_from_logits`: ValueError, or NaN
    where they are traced.
    """
    return energy.joint_from_logits(logits, labels) - energy.from_logits(logits)


def contrast(energy_data: jax.Array, energy_model: jax.Array) -> jax.Array:
    """mean E(data) - mean E(model), the term of p(x) or p(x | y).  [B], [M] -> [].

    With samples from the model its gradient is that of -log p (Grathwohl et
    al., 2020, equation 2; for p(x) and p(x | y) alike). Its value is not, and
    fluctuates about zero while the chains follow the data.
    """
    chex.assert_rank([energy_data, energy_model], 1)
    return energy_data.mean() - energy_model.mean()


def energy_l2(
    energy_data: jax.Array,
    energy_model: jax.Array,
    *,
    form: str = "mean_square",
    axis_name: str | None = None,
) -> jax.Array:
    """Keeps energies near zero, so that they cannot drift.  [B], [M] -> [].

    * "mean_square": mean E(data)² + mean E(model)² (IGEBM: Du & Mordatch, 2019,
      section 4, weight 1). A mean over examples.
    * "square_mean": (mean E(data))² + (mean E(model))² (the code of M-JEM and
      SADA-JEM). Means are over the batch of all devices, by `axis_name`.
    """
    chex.assert_rank([energy_data, energy_model], 1)
    if form == "mean_square":
        return jnp.mean(energy_data**2) + jnp.mean(energy_model**2)
    if form == "square_mean":
        data, model = _mean(energy_data, axis_name), _mean(energy_model, axis_name)
        return data**2 + model**2
    raise ValueError(f"form is {form!r}, expected 'mean_square' or 'square_mean'")


def energy_variance(energies: jax.Array, axis_name: str | None = None) -> jax.Array:
    """mean (E - mean E)² over the batch of all devices.  [B] -> [].

    The beta term of NG-EBM (Piland et al., 2023). Averaging each device's own
    variance would be another loss, one that depends on the number of devices.
    """
    chex.assert_rank(energies, 1)
    return jnp.mean((energies - _mean(energies, axis_name)) ** 2)


def hdge_contrast(
    logits: jax.Array,
    labels: jax.Array,
    queue: jax.Array,
    *,
    temperature: float = 0.1,
    axis_name: str | None = None,
) -> jax.Array:
    """-log p(x, y) against a queue of logits.  [B, K], [B], [N, K] -> [B].

        -s(p, y) / T + log[exp(s(p, y) / T) + sum_n exp(s(q_n, y) / T)]
        s(v, y) = log(K - 1 + exp v_y)

    HDGE (Liu & Abbeel, 2020). p and q_n are logits divided by their L2 norms; s is the
    paper's logsumexp of one_hot(y) * v. With `axis_name`, N counts the queues of all
    devices.
    """
    chex.assert_rank([logits, labels, queue], [2, 1, 2])
    num_classes = logits.shape[-1]

    def scores(v):  # s(v, y) / T for every y.  [M, K] -> [M, K]
        unit = v / jnp.maximum(energy.norm(v), 1e-12)[:, None]
        return jnp.log(num_classes - 1 + jnp.exp(unit)) / temperature

    own = -energy.joint_from_logits(scores(logits), labels)
    # The queue's sum depends on the label alone: K numbers, not B N.
    others = jax.nn.logsumexp(scores(queue), axis=0)
    if axis_name is not None:
        others = jax.nn.logsumexp(lax.all_gather(others, axis_name), axis=0)
    return jnp.logaddexp(own, others[labels]) - own


def energy_margins(
    energy_data: jax.Array,
    energy_outliers: jax.Array,
    *,
    margin_in: float,
    margin_out: float,
) -> jax.Array:
    """Outlier exposure by energies (Liu et al., 2020, equation 8).  [B], [M] -> [].

    mean max(0, E(data) - margin_in)² + mean max(0, margin_out - E(outliers))²
    """
    chex.assert_rank([energy_data, energy_outliers], 1)
    above = jax.nn.relu(energy_data - margin_in)
    below = jax.nn.relu(margin_out - energy_outliers)
    return jnp.mean(above**2) + jnp.mean(below**2)


def gradient_norm(
    energy_fn: Callable[[jax.Array], Any], x: jax.Array, *, has_aux: bool = False
) -> jax.Array | tuple[jax.Array, Any]:
    """‖dE/dx‖₂, the approximate mass with its sign turned.  [B, ...] -> [B].

    The gamma term of NG-EBM (Piland et al., 2023). The mean of its square is VERA's
    penalty (Grathwohl et al., 2021), which is 0.1 ‖dE/dx‖² / 2: the objective's
    `input_gradient` with a weight of 0.05. With `has_aux`, energy_fn(x) is
    (energies, aux) and the result (norms, aux): so the pass that gives the
    gradient can give logits for other terms too, and all may be differentiated.
    """

    def with_aux(x):
        return energy_fn(x) if has_aux else (energy_fn(x), None)

    energies, vjp, aux = jax.vjp(with_aux, x, has_aux=True)
    chex.assert_shape(energies, (len(x),))
    (grad,) = vjp(jnp.ones_like(energies))
    norms = energy.norm(grad)
    return (norms, aux) if has_aux else norms


def _mean(energies, axis_name):
    mean = energies.mean()
    return mean if axis_name is None else lax.pmean(mean, axis_name)
