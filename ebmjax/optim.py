"""Optimisers and learning rates, from optax."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

NAMES = ("adam", "adamw", "sgd")
DECAYS = ("constant", "step", "cosine")


def schedule(
    learning_rate: float,
    *,
    num_steps: int,
    warmup_steps: int = 0,
    decay: str = "constant",
    boundaries: tuple[int, ...] = (),
    decay_factor: float = 0.3,
) -> optax.Schedule:
    """Step -> learning rate: linear warm-up from 0 at step 0, times a decay.

    "step" multiplies by `decay_factor` at each of `boundaries` (steps);
    "cosine" falls to 0 at `num_steps`.
    """
    decays = {
        "constant": optax.constant_schedule(learning_rate),
        "step": optax.piecewise_constant_schedule(
            learning_rate, {step: decay_factor for step in boundaries}
        ),
        "cosine": optax.cosine_decay_schedule(learning_rate, num_steps),
    }
    after = decays[decay]
    if not warmup_steps:
        return after
    ramp = optax.linear_schedule(0.0, 1.0, warmup_steps)
    return lambda step: ramp(step) * after(step)


def optimizer(
    name: str,
    learning_rate: optax.Schedule,
    *,
    weight_decay: float = 0.0,
    b1: float = 0.9,
    b2: float = 0.999,
    momentum: float = 0.9,
    nesterov: bool = False,
) -> optax.GradientTransformation:
    """One of `NAMES`. "adam" and "sgd" decay weights by L2 in the gradient, as
    PyTorch's do; "adamw" decouples it. All of them work entry by entry, so that a
    device may have some of the entries only.
    """
    l2 = optax.add_decayed_weights(weight_decay) if weight_decay else optax.identity()
    optimizers = {
        "adam": lambda: optax.chain(l2, optax.adam(learning_rate, b1, b2)),
        "adamw": lambda: optax.adamw(learning_rate, b1, b2, weight_decay=weight_decay),
        "sgd": lambda: optax.chain(l2, optax.sgd(learning_rate, momentum, nesterov)),
    }
    return optimizers[name]()


def sam(rho: float, *, adaptive: bool = False) -> Callable:
    """Sharpness-aware minimisation (Foret et al., 2021), for `Recipe.gradient`.

    The gradient at w + e, where e is the perturbation of length `rho` that raises the
    loss most to first order:

        e = rho g / ‖g‖                      plain
        e = rho w² g / ‖|w| g‖               adaptive (Kwon et al., 2021)

    Metrics and model state are those of the evaluation at w. Both evaluations see the
    same batch, samples and dropout, and all terms of the objective; SADA-JEM's program
    leaves its energy L2 term, of weight 0 by default, out of the second. Weight decay
    belongs to the optimiser and is taken at w, as there.
    """

    def gradient(grad_fn, params):
        grads, aux = grad_fn(params)
        scale = jax.tree.map(jnp.abs, params) if adaptive else None
        scaled = jax.tree.map(jnp.multiply, scale, grads) if adaptive else grads
        length = rho / (optax.tree.norm(scaled) + 1e-12)
        if adaptive:
            scaled = jax.tree.map(jnp.multiply, scale, scaled)
        shifted = jax.tree.map(lambda w, e: w + length * e, params, scaled)
        return grad_fn(shifted)[0], aux

    return gradient
