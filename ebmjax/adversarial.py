"""Adversarial examples to train on; `eval.attacks` has those to evaluate with."""

from collections.abc import Callable

import chex
import jax
from jax import lax

from ebmjax import losses
from ebmjax.norms import NORMS, clip, per_image

# (key, logits_fn, x [B, ...], labels [B]) -> x_adv, like x
Attack = Callable[..., jax.Array]


def pgd_examples(
    key: jax.Array,
    logits_fn: Callable[[jax.Array], jax.Array],
    x: jax.Array,
    labels: jax.Array,
    *,
    norm: str = "linf",
    eps: float,
    step_size: float,
    num_steps: int,
    bounds: tuple[float, float] = (-1.0, 1.0),
) -> jax.Array:
    """The last point of projected gradient ascent (Madry et al., 2018, section 2.1).

        z <- project(z + step_size v),  v = argmax <v, d cross_entropy / dz>, |v| = 1

    from a uniform start in the eps-ball about x. `eps` and `step_size` are in the units
    of x. It takes `num_steps` gradients; `eval.attacks.pgd` looks for the strongest of
    the points visited instead, and takes two more.  x [B, ...] -> [B, ...].

    Raises ValueError for a `norm` other than "linf" and "l2".
    """
    if norm not in NORMS:
        raise ValueError(f"norm is {norm!r}, expected 'linf' or 'l2'")
    chex.assert_equal_shape_prefix([x, labels], 1)
    ball, eps, step_size = NORMS[norm], per_image(eps, x), per_image(step_size, x)

    def project(z):
        return clip(x + ball.project(z - x, eps), bounds)

    def total_loss(z):
        return losses.cross_entropy(logits_fn(z), labels).sum()

    def step(_, z):
        return project(z + step_size * ball.steepest(jax.grad(total_loss)(z)))

    return lax.fori_loop(0, num_steps, step, project(x + eps * ball.uniform(key, x)))
