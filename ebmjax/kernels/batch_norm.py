"""Batch normalisation in training, with its gradient written out.

Derived by JAX, a gradient goes over the activations of a layer about twice as often,
which is what batch norm costs on a CPU: chains through it are mostly that.
"""

import functools

import jax
from jax import lax

EPSILON = 1e-5  # PyTorch's
OVER_EXAMPLES = (0, 1, 2)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def batch_norm(
    x: jax.Array, scale: jax.Array, bias: jax.Array, axis_name: str | None = None
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """x [B, H, W, C], scale and bias [1, 1, 1, C] -> y, and the moments [1, 1, 1, C].

    Ioffe & Szegedy (2015), algorithm 1: y = scale (x - mean) / sqrt(var + 1e-5) + bias
    with mean and (biased) variance of the batch, over the devices of `axis_name` too.
    The moments are for running averages: no gradient goes through them.
    """
    return _forward(x, scale, bias, axis_name)[0]


def _forward(x, scale, bias, axis_name):
    mean = _over_devices(_mean(x), axis_name)
    var = _over_devices(_mean((x - mean) ** 2), axis_name)
    inverse = lax.rsqrt(var + EPSILON)
    y = (x - mean) * (inverse * scale) + bias
    return (y, mean, var), (x, mean, inverse, scale)


def _backward(axis_name, kept, cotangents):
    """Gradients of x, scale and bias; the latter two of this device's examples."""
    x, mean, inverse, scale = kept
    dy, _, _ = cotangents
    normalised = (x - mean) * inverse
    d_scale, d_bias = _mean(dy * normalised), _mean(dy)
    dx = (scale * inverse) * (
        dy
        - _over_devices(d_bias, axis_name)
        - normalised * _over_devices(d_scale, axis_name)
    )
    count = x.size // scale.size
    return dx, count * d_scale, count * d_bias


batch_norm.defvjp(_forward, _backward)


def _mean(x):
    return x.mean(axis=OVER_EXAMPLES, keepdims=True)


def _over_devices(mean, axis_name):
    return mean if axis_name is None else lax.pmean(mean, axis_name)
