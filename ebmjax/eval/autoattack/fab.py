"""FAB, targeted (Croce & Hein, 2019, arXiv 1907.02044): steps to the boundary of a
class, biased towards the original image, which find a near mistake.

The constants are those of AutoAttack. Its official version looks for the nearest
mistake, and counts it where it is within eps; here an image's answer is the first
mistake within eps, which exists for the same images.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from ebmjax import energy
from ebmjax.eval.autoattack.common import Found, each
from ebmjax.eval.margins import is_correct, without_nan
from ebmjax.norms import NORMS, choose, clip, per_image

NUM_STEPS = 100
OVERSHOOT = 1.05  # eta of the paper
RETREAT = 0.9  # beta
MAX_BIAS = 0.1  # alpha_max


def project(u, weights, gap, *, norm, bounds):
    """The least move d, by `norm`, with ⟨weights, u + d⟩ = ⟨weights, u⟩ - gap and
    u + d within `bounds`, or the largest move that way if there is none.

    u, weights [B, ...], gap [B] -> [B, ...].

    With a multiplier λ >= 0, every entry moves by min(λ rate, room), where `room` is
    its distance to the bound ahead, and rate is 1 for "linf" and |weight| for "l2".
    What is reached grows with λ, concave and linear between the values at which an
    entry hits its bound, so that Newton's method from 0 ends, exactly, after a few
    steps.
    """
    low, high = bounds
    largest = NORMS["linf"].size(weights)
    weights = weights / jnp.where(largest > 0, largest, 1)
    gap = per_image(gap, u) / jnp.where(largest > 0, largest, 1)
    size = jnp.abs(weights)
    down = jnp.where(gap >= 0, 1, -1) * jnp.sign(weights)
    room = jnp.where(down > 0, u - low, high - u) * (size > 0)
    rate = (size > 0).astype(u.dtype) if norm == "linf" else size
    axes = tuple(range(1, u.ndim))

    def newton(carry):
        multiplier, num_free, _ = carry
        free = multiplier * rate < room
        slope = jnp.sum(free * size * rate, axis=axes, keepdims=True)
        rest = jnp.abs(gap) - jnp.sum(~free * size * room, axis=axes, keepdims=True)
        better = rest / jnp.where(slope > 0, slope, 1)
        better = jnp.where(slope > 0, jnp.maximum(better, multiplier), multiplier)
        now_free = jnp.sum(better * rate < room, axis=axes, keepdims=True)
        return better, now_free, jnp.any(now_free < num_free)

    zero = jnp.zeros_like(gap)
    num_free = jnp.sum(room > 0, axis=axes, keepdims=True)
    carry = zero, num_free, jnp.bool_(True)
    multiplier, _, _ = lax.while_loop(lambda carry: carry[2], newton, carry)
    return -down * jnp.minimum(multiplier * rate, room)


class _State(NamedTuple):
    x: jax.Array  # [B, ...]
    found: Found


def attack(keys, logits_fn, x, labels, targets, *, norm, eps, bounds) -> Found:
    """Towards the classes `targets`; see `common`. It has no random part."""
    del keys
    ball = NORMS[norm]

    def excess(z):  # of the target's logit over the label's
        logits = logits_fn(z)
        own, other = (-energy.joint_from_logits(logits, k) for k in (labels, targets))
        return jnp.sum(other - own), other - own

    def plane(z):
        gradient, value = jax.grad(excess, has_aux=True)(z)
        return *without_nan(gradient), value

    def towards_boundary(z, weights, value):
        axes = tuple(range(1, z.ndim))
        gap = value + jnp.sum(weights * (x - z), axis=axes)
        moves = [
            project(u, weights, g, norm=norm, bounds=bounds)
            for u, g in ((z, value), (x, gap))
        ]
        ours, originals = (jnp.maximum(ball.size(d), 1e-8) for d in moves)
        bias = jnp.minimum(ours / (ours + originals), MAX_BIAS)
        ahead, back = (u + OVERSHOOT * d for u, d in zip((z, x), moves, strict=True))
        return clip((1 - bias) * ahead + bias * back, bounds)

    def body(carry):
        i, (z, found) = carry
        weights, has_nan, value = plane(z)
        zero = jnp.all(weights == 0, axis=tuple(range(1, x.ndim)))
        z = towards_boundary(z, weights, value)
        wrong = ~is_correct(logits_fn(z), labels)
        counts = wrong & (ball.size(z - x) <= eps).reshape(-1)
        found = Found(
            choose(~found.wrong & counts, z, found.x),
            found.wrong | counts,
            found.zero_gradient | ((i == 0) & zero),
            found.nan_gradient | has_nan,
        )
        z = jnp.where(each(wrong, x), x + RETREAT * (z - x), z)
        return i + 1, _State(z, found)

    def unfinished(carry):
        i, state = carry
        return (i < NUM_STEPS) & ~jnp.all(state.found.wrong)

    no = jnp.zeros(len(x), bool)
    carry = 0, _State(x, Found(x, no, no, no))
    return lax.while_loop(unfinished, body, carry)[1].found
