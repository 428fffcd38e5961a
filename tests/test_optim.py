import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ebmjax import optim


def test_warm_up_is_linear_from_zero_and_steps_multiply():
    schedule = optim.schedule(
        1e-2,
        num_steps=100,
        warmup_steps=10,
        decay="step",
        boundaries=(50, 80),
        decay_factor=0.3,
    )
    found = [float(schedule(step)) for step in (0, 5, 10, 49, 50, 80, 99)]
    expected = [0, 5e-3, 1e-2, 1e-2, 3e-3, 9e-4, 9e-4]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_cosine_falls_to_zero_at_the_end():
    schedule = optim.schedule(1.0, num_steps=100, decay="cosine")
    found = [float(schedule(step)) for step in (0, 50, 100)]
    np.testing.assert_allclose(found, [1, 0.5, 0], atol=1e-6)


def first_update(name, **kwargs):
    """Of a parameter 2 with gradient 3, at rate 0.1."""
    optimizer = optim.optimizer(name, lambda step: 0.1, **kwargs)
    params, grads = jnp.array([2.0]), jnp.array([3.0])
    updates, _ = optimizer.update(grads, optimizer.init(params), params)
    return float(updates[0])


@pytest.mark.parametrize(
    "name, kwargs, expected",
    [
        ("adam", {}, -0.1),  # Adam's first step has length 1
        ("adamw", dict(weight_decay=0.5), -0.1 - 0.1 * 0.5 * 2),
        ("adam", dict(weight_decay=0.5), -0.1),  # inside the gradient it only rescales
        ("sgd", {}, -0.3),
        ("sgd", dict(nesterov=True), -0.1 * (3 + 0.9 * 3)),
        ("sgd", dict(weight_decay=0.5), -0.1 * (3 + 0.5 * 2)),
    ],
)
def test_the_first_update_is_that_of_the_textbook(name, kwargs, expected):
    np.testing.assert_allclose(first_update(name, **kwargs), expected, rtol=1e-5)


@pytest.mark.parametrize("adaptive", [False, True])
def test_sam_takes_the_gradient_a_step_of_length_rho_uphill(adaptive):
    """In the metric of the parameters' own sizes if it is adaptive."""
    params = {"w": jnp.array([1.0, -2.0]), "b": jnp.array([0.5])}
    visited = []

    def grad_fn(params):
        visited.append(params)
        return jax.tree.map(lambda x: 3.0 * x**2, params), len(visited)

    grads, aux = optim.sam(0.1, adaptive=adaptive)(grad_fn, params)
    at, uphill = visited
    moved = jax.tree.map(jnp.subtract, uphill, at)
    size = (
        jax.tree.map(jnp.abs, params)
        if adaptive
        else jax.tree.map(jnp.ones_like, params)
    )
    length = optax.tree.norm(jax.tree.map(jnp.divide, moved, size))
    np.testing.assert_allclose(length, 0.1, rtol=1e-5)
    direction = jax.tree.map(lambda x, s: 3.0 * x**2 * s**2, params, size)
    cosine = optax.tree.vdot(moved, direction) / (
        optax.tree.norm(moved) * optax.tree.norm(direction)
    )
    np.testing.assert_allclose(cosine, 1.0, rtol=1e-5)
    chex.assert_trees_all_close(grads, jax.tree.map(lambda x: 3.0 * x**2, uphill))
    assert aux == 1  # of the evaluation at the parameters themselves
