"""When an attack has succeeded, and what all attacks check first."""

import chex
import jax
import jax.numpy as jnp
import numpy as np

from ebmjax import energy
from ebmjax.norms import NORMS


def margin(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """max_{k≠y} f_k - f_y, positive where the answer is wrong.  [B, K], [B] -> [B].

    As a loss it is that of Carlini & Wagner (2017). Its gradient does not vanish
    where the classifier is confident, as that of cross-entropy does.
    """
    own = -energy.joint_from_logits(logits, labels)
    is_own = jax.nn.one_hot(labels, logits.shape[-1], dtype=bool)
    return jnp.where(is_own, -jnp.inf, logits).max(axis=-1) - own


def is_correct(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Is the label's logit the largest, the first of equals?  [B, K], [B] -> [B] bool.

    False where a logit is NaN, where argmax would still give some class.
    """
    chex.assert_rank([logits, labels], [2, 1])
    answered = ~jnp.isnan(logits).any(axis=-1)
    return answered & (logits.argmax(axis=-1) == labels)


def attack_margin(logits, labels, targeted):
    """`margin` from the attack's point of view: where it is positive, the attack has
    succeeded. NaN logits are a mistake, but they are not the target."""
    margins = margin(logits, labels)
    nan = jnp.isnan(logits).any(axis=-1) | jnp.isnan(margins)
    if targeted:
        return jnp.where(nan, -jnp.inf, -margins)
    return jnp.where(nan, jnp.inf, margins)


def without_nan(grad):
    """The gradient with NaN as 0 and ±inf as the largest number, and where there was
    NaN: [B, ...], [B] bool."""
    has_nan = jnp.isnan(grad).any(axis=tuple(range(1, grad.ndim)))
    return jnp.nan_to_num(grad), has_nan


def check(x, labels, norm, bounds):
    if norm not in NORMS:
        raise ValueError(f"norm is {norm!r}, not 'linf' or 'l2'")
    chex.assert_type(x, float)
    chex.assert_rank(labels, 1)
    chex.assert_equal_shape_prefix([x, labels], 1)
    low, high = bounds
    values = energy.known_value(x)
    if values is None or not values.size:
        return
    low, high = (np.asarray(bound, values.dtype) for bound in (low, high))
    if not (values.min() >= low and values.max() <= high):
        raise ValueError(
            f"x lies in [{values.min():g}, {values.max():g}], expected finite values"
            f" within bounds={bounds}: pass bounds=(low, high) in the units of x"
        )
