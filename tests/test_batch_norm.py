"""The written-out gradient of batch norm against the one that JAX derives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ebmjax import parallel
from ebmjax.kernels import batch_norm

RNG = np.random.default_rng(0)
X = jnp.float32(2 + 3 * RNG.normal(size=(8, 5, 4, 3)))
SCALE, BIAS, V = (jnp.float32(RNG.normal(size=(3, 1, 1, 1, 3))[i]) for i in range(3))
WEIGHT, DIRECTION = jnp.float32(RNG.normal(size=(2, *X.shape)))


def plain(x, scale, bias):
    """Algorithm 1 of Ioffe & Szegedy."""
    mean = x.mean((0, 1, 2), keepdims=True)
    var = x.var((0, 1, 2), keepdims=True)
    return (x - mean) / jnp.sqrt(var + 1e-5) * scale + bias


def written_out(x, scale, bias):
    return batch_norm.batch_norm(x, scale, bias)[0]


def loss(norm):
    return lambda *args: (jnp.tanh(norm(*args)) * WEIGHT).sum()


def slope(norm):
    """A function of the input gradient, as a gradient penalty."""
    gradient = jax.grad(loss(norm))
    return lambda *args: (gradient(*args) * DIRECTION).sum()


def test_output_and_moments():
    y, mean, var = batch_norm.batch_norm(X, SCALE, BIAS)
    np.testing.assert_allclose(y, plain(X, SCALE, BIAS), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(mean[0, 0, 0], np.mean(X, (0, 1, 2)), rtol=1e-5)
    np.testing.assert_allclose(var[0, 0, 0], np.var(X, (0, 1, 2)), rtol=1e-5)


@pytest.mark.parametrize("of", [loss, slope])
def test_gradients_once_and_twice(of):
    args, which = (X, SCALE, BIAS), (0, 1, 2)
    found = jax.grad(of(written_out), which)(*args)
    expected = jax.grad(of(plain), which)(*args)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)


def test_over_devices_it_is_that_of_the_whole_batch():
    def gradients(x, scale, bias, weight, axis_name):
        def loss(x, scale, bias):
            y, *_ = batch_norm.batch_norm(x, scale, bias, axis_name)
            return (jnp.tanh(y) * weight).sum()

        dx, *others = jax.grad(loss, (0, 1, 2))(x, scale, bias)
        return dx, *jax.lax.psum(others, axis_name)

    axes = {"in_axes": (0, None, None, 0), "out_axes": (0, None, None)}
    blocks = X.reshape(4, 2, *X.shape[1:]), WEIGHT.reshape(4, 2, *X.shape[1:])
    dx, *others = parallel.spmd(gradients, **axes)(blocks[0], SCALE, BIAS, blocks[1])
    found = dx.reshape(X.shape), *others
    expected = jax.grad(loss(plain), (0, 1, 2))(X, SCALE, BIAS)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)
