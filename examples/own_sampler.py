"""A sampler of your own, in training and evaluation: underdamped Langevin dynamics.

python -m ebmjax.main --config=examples/own_sampler.py
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

import ebmjax


class State(NamedTuple):
    position: jax.Array  # the one field that every sampler's state has
    velocity: jax.Array


def underdamped(energy_fn, *, step_size=0.2, friction=0.2, noise_std=0.01):
    """v <- (1 - friction) v - step_size ∇E(x) + noise;  x <- x + v"""

    def step(key, state):
        x, v = state
        score = ebmjax.energy.score(energy_fn, x)  # -∇E
        noise = noise_std * jax.random.normal(key, x.shape)
        v = (1.0 - friction) * v + step_size * score + noise
        info = ebmjax.sgld.Info(energy_fn(x), ebmjax.energy.norm(score))
        return State(x + v, v), info

    return ebmjax.sgld.Sampler(lambda x: State(x, jnp.zeros_like(x)), step)


def get_config():
    c = ebmjax.presets.digits()
    c.objective.p_x = 1.0
    return c


def get_recipe(c):
    return ebmjax.Recipe(sampler=underdamped)
