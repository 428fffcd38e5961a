"""Stochastic gradient Langevin dynamics (Welling & Teh, 2011) on any energy.

    sampler = sgld.sgld(energy_fn, step_size=0.1, noise_std=0.3)
    state, info = sgld.run(key, sampler, sampler.init(x), num_steps=100)

`energy_fn` maps B positions to their B energies; a position is any pytree of
floating-point arrays with a leading B. The B chains are independent if the energy
of one position does not depend on the others.
"""

import functools
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from ebmjax import energy

Position = Any  # pytree of arrays [B, ...]


class State(NamedTuple):
    position: Position


class Info(NamedTuple):
    """Diagnostics of a step, at the position from which it started."""

    energy: jax.Array  # [B]
    grad_norm: jax.Array  # [B], ‖dE/dx‖₂ over all leaves, before any clipping


class Sampler(NamedTuple):
    """Any Markov chain: a state has a `position`; an info may have an `energy` and a
    `grad_norm` [B], which are logged."""

    init: Callable[[Position], State]
    step: Callable[[jax.Array, State], tuple[State, Info]]


EnergyFn = Callable[[Position], jax.Array]  # B positions -> [B]
SamplerFactory = Callable[[EnergyFn], Sampler]


def sgld(
    energy_fn: EnergyFn,
    *,
    step_size: float,
    noise_std: float,
    clip_grad: float = 0.0,
    clip_x: float = 0.0,
) -> Sampler:
    """x <- clip(x - step_size clip(∇E(x), ±clip_grad) + noise_std N(0, I), ±clip_x).

    Its temperature is T = noise_std² / (2 step_size): without clipping the chain
    follows p(x)^(1/T) ∝ exp(-E(x)/T), up to a bias of order step_size. For T = 1,
    the textbook dynamics, take ``noise_std=langevin_noise_std(step_size)``. JEM
    takes (1.0, 0.01), hence T = 5e-5: nearly gradient descent on the energy.

    With ``noise_std=0`` (JEM++ and SADA-JEM, both clips being 1) there is no stationary
    law to converge to: the chain is clipped gradient descent on E, and where it ends
    depends on where it starts. Its samples differ by their starts, in a replay buffer
    by the fresh ones, and not by chance on the way.

    Both clips act entry by entry, 0 meaning none. They stabilise short chains, and with
    noise they change the stationary law:

    * `clip_grad` replaces ∇E by a bounded field. Where E is a sum over entries,
      that is the gradient of an energy with linear tails, as Huber's loss has them,
      whose law is broader; elsewhere it is in general no gradient at all, and the
      law has no closed form.
    * `clip_x` restricts x to a cube. The law is p^(1/T) restricted to it, but for
      mass on the faces, where a step that leaves the cube ends: a share of order
      √step_size at fixed T.

    The position keeps its dtype, whatever those of step_size and noise_std. A
    gradient that is NaN makes its chain NaN, and `Info.grad_norm` NaN from that step
    on: under jit look there; see also `run`.
    """
    if clip_grad < 0 or clip_x < 0:
        raise ValueError(
            f"clip_grad is {clip_grad} and clip_x {clip_x}; expected positive bounds,"
            " or 0 for none"
        )

    def init(position):
        leaves = jax.tree.leaves(position)
        chex.assert_type(leaves, float)
        chex.assert_equal_shape_prefix(leaves, 1)
        return State(position)

    def move(x, grad, noise):
        def number(value):
            return jnp.asarray(value, x.dtype)

        if clip_grad:
            grad = jnp.clip(grad, number(-clip_grad), number(clip_grad))
        x = x - number(step_size) * grad + number(noise_std) * noise
        return jnp.clip(x, number(-clip_x), number(clip_x)) if clip_x else x

    def step(key, state):
        x = state.position
        energies, vjp = jax.vjp(energy_fn, x)
        chex.assert_shape(energies, (len(jax.tree.leaves(x)[0]),))
        (grad,) = vjp(jnp.ones_like(energies))
        info = Info(energies, _norm(grad, energies.dtype))
        return State(jax.tree.map(move, x, grad, _normal_like(key, x))), info

    return Sampler(init, step)


# The sampler of JEM, as a `SamplerFactory`.
JEM = functools.partial(sgld, step_size=1.0, noise_std=0.01)


def langevin_noise_std(step_size: float, temperature: float = 1.0) -> jax.Array:
    """The noise_std with which `sgld` has this temperature."""
    return jnp.sqrt(2.0 * step_size * temperature)


def run(
    key: jax.Array, sampler: Sampler, state: State, num_steps: int
) -> tuple[State, Info]:
    """Takes `num_steps` steps (S); infos come stacked, [S, B].

    Warns (RuntimeWarning) if a position ends with an entry that is not finite,
    because the gradient was not or the steps diverged. Under a transformation such
    as jit values are not known and there is no warning: check the result.
    """

    def body(state, key):
        return sampler.step(key, state)

    state, info = jax.lax.scan(body, state, jax.random.split(key, num_steps))
    _warn_unless_finite(state)
    return state, info


def _warn_unless_finite(state):
    values = [energy.known_value(x) for x in jax.tree.leaves(state)]
    leaves = [x for x in values if x is not None]
    if len(leaves) < len(values):
        return
    finite = [np.isfinite(x).reshape(len(x), -1).all(axis=1) for x in leaves]
    num_lost = np.sum(~np.all(finite, axis=0))
    if num_lost:
        warnings.warn(
            f"{num_lost} of {len(leaves[0])} chains ended with values that are not"
            " finite: the energy's gradient was not, or the step size is too large;"
            " Info.grad_norm shows from which step on",
            RuntimeWarning,
            stacklevel=3,
        )


def _normal_like(key, tree):
    leaves, treedef = jax.tree.flatten(tree)
    # One leaf, the usual case, has the key to itself.
    keys = [key] if len(leaves) == 1 else jax.random.split(key, len(leaves))
    noise = [
        jax.random.normal(k, x.shape, x.dtype)
        for k, x in zip(keys, leaves, strict=True)
    ]
    return treedef.unflatten(noise)


def _norm(tree, dtype):
    norms = [energy.norm(x).astype(dtype) for x in jax.tree.leaves(tree)]
    return norms[0] if len(norms) == 1 else energy.norm(jnp.stack(norms, axis=-1))
