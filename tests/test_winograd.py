import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from ebmjax.kernels import winograd


@jax.jit
def plain(x, w):
    return lax.conv_general_dilated(
        x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def operands(batch, height, width, channels=(3, 5)):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(batch, height, width, channels[0]))
    w = rng.normal(size=(3, 3, *channels)) / (3 * channels[0] ** 0.5)
    g = rng.normal(size=(batch, height, width, channels[1]))
    return x, w, g


def relative(ours, exact):
    return np.abs(ours - exact).max() / np.abs(exact).max()


# The last two go through in parts: of 2 images, and (37 is prime) one by one.
@pytest.mark.parametrize(
    "shape", [(2, 4, 4), (3, 8, 4), (1, 12, 20), (8, 32, 32), (37, 32, 32)]
)
def test_it_is_the_convolution_and_its_transpose(shape):
    with jax.enable_x64(True):
        x, w, g = map(jnp.asarray, operands(*shape))
        y, vjp = jax.vjp(lambda w: plain(x, w), w)
        assert relative(jax.jit(winograd.correlate)(x, w), y) < 1e-12
        assert relative(jax.jit(winograd.weight_grad)(x, g), vjp(g)[0]) < 1e-12


def test_it_is_the_transpose_for_many_channels_too():
    with jax.enable_x64(True):
        x, w, g = map(jnp.asarray, operands(8, 32, 32, (3, winograd.FEW + 1)))
        exact = jax.vjp(lambda w: plain(x, w), w)[1](g)[0]
        assert relative(jax.jit(winograd.weight_grad)(x, g), exact) < 1e-12


@pytest.mark.parametrize("channels, size", [(32, 32), (128, 16), (512, 8)])
def test_its_rounding_in_float32_is_bounded(channels, size):
    """Measured: 3e-6 to 1e-5 of the largest entry; plain sums have 4e-7 to 6e-7."""
    x, w, g = operands(4, size, size, (channels, 32))
    with jax.enable_x64(True):
        y, vjp = jax.vjp(lambda w: plain(jnp.asarray(x), w), jnp.asarray(w))
        y, dw = np.asarray(y), np.asarray(vjp(jnp.asarray(g))[0])
    x, w, g = (jnp.asarray(a, jnp.float32) for a in (x, w, g))
    assert relative(jax.jit(winograd.correlate)(x, w), y) < 2e-5
    assert relative(jax.jit(winograd.weight_grad)(x, g), dw) < 2e-5


def test_parts_are_added_up_in_float32():
    ones = jnp.ones((1000, 1), jnp.bfloat16)  # where 256 + 1 is 256
    total = winograd.sum_of_parts(1, lambda x: x.sum(0), ones)
    assert total.dtype == jnp.bfloat16 and total == 1000
