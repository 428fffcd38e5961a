"""A sampler of your own, in training and evaluation: underdamped Langevin dynamics.

python -m ebmjax.main --config=examples/own_sampler.py
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

import ebmjax
from ebmjax import sgld


class State(NamedTuple):
    position: jax.Array  # the one field that every sampler's state has
    velocity: jax.Array


def underdamped(energy_fn, *, noise_std, step_size=0.2, friction=0.2):
    """v <- (1 - friction) v - step_size ∇E(x) + noise;  x <- x + v"""

    def step(key, state):
        x, v = state
        energy, grad = jax.vmap(jax.value_and_grad(lambda x: energy_fn(x[None])[0]))(x)
        noise = noise_std * jax.random.normal(key, x.shape)
        v = (1.0 - friction) * v - step_size * grad + noise
        return State(x + v, v), sgld.Info(energy, ebmjax.energy.norm(grad))

    return sgld.Sampler(lambda x: State(x, jnp.zeros_like(x)), step)


def get_config():
    c = ebmjax.presets.digits()
    c.objective.p_x = 1.0
    return c


def get_recipe(c):
    sampler = functools.partial(underdamped, noise_std=c.sgld.noise_std)
    return ebmjax.Recipe(sampler=sampler)
