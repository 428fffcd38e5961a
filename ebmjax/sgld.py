"""Stochastic gradient Langevin dynamics (Welling & Teh, 2011) on any energy.

    sampler = sgld.sgld(energy_fn, step_size=0.1, noise_std=0.3)
    state, info = sgld.run(key, sampler, sampler.init(x), num_steps=100)

`energy_fn` maps B positions to their B energies; a position is any pytree of
arrays with a leading B. Chains do not meet: B of them are B independent runs.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

Position = Any  # pytree of arrays [B, ...]


class State(NamedTuple):
    position: Position


class Info(NamedTuple):
    """What a step saw where it started: for people, not for the next step."""

    energy: jax.Array  # [B]
    grad_norm: jax.Array  # [B], ‖dE/dx‖₂ over all leaves


class Sampler(NamedTuple):
    init: Callable[[Position], State]
    step: Callable[[jax.Array, State], tuple[State, Info]]


EnergyFn = Callable[[Position], jax.Array]  # B positions -> [B]
SamplerFactory = Callable[[EnergyFn], Sampler]


def sgld(energy_fn: EnergyFn, *, step_size: float, noise_std: float) -> Sampler:
    """x <- x - step_size ∇E(x) + noise_std N(0, I).

    Its temperature is T = noise_std² / (2 step_size): the chain follows
    p(x)^(1/T) ∝ exp(-E(x)/T), up to a bias of order step_size. For T = 1, the
    textbook's dynamics, take ``noise_std=langevin_noise_std(step_size)``. JEM
    takes (1.0, 0.01), hence T = 5e-5: nearly gradient descent on the energy.
    """

    def init(position):
        return State(position)

    def step(key, state):
        x = state.position
        energy, vjp = jax.vjp(energy_fn, x)
        (grad,) = vjp(jnp.ones_like(energy))
        x = jax.tree.map(
            lambda x, g, n: x - step_size * g + noise_std * n,
            x,
            grad,
            _normal_like(key, x),
        )
        return State(x), Info(energy, _norm(grad))

    return Sampler(init, step)


# The sampler of JEM, as a `SamplerFactory`.
JEM = functools.partial(sgld, step_size=1.0, noise_std=0.01)


def langevin_noise_std(step_size: float, temperature: float = 1.0) -> jax.Array:
    """The noise_std with which `sgld` has this temperature."""
    return jnp.sqrt(2.0 * step_size * temperature)


def run(
    key: jax.Array, sampler: Sampler, state: State, num_steps: int
) -> tuple[State, Info]:
    """Takes `num_steps` steps (S); infos come stacked, [S, B]."""

    def body(state, key):
        return sampler.step(key, state)

    return jax.lax.scan(body, state, jax.random.split(key, num_steps))


def _normal_like(key, tree):
    leaves, treedef = jax.tree.flatten(tree)
    # One leaf, the usual case, has the key to itself.
    keys = [key] if len(leaves) == 1 else jax.random.split(key, len(leaves))
    noise = [
        jax.random.normal(k, x.shape, x.dtype)
        for k, x in zip(keys, leaves, strict=True)
    ]
    return treedef.unflatten(noise)


def _norm(tree):
    squares = [
        jnp.sum(x.reshape(len(x), -1) ** 2, axis=-1) for x in jax.tree.leaves(tree)
    ]
    return jnp.sqrt(sum(squares))
