"""From uint8 images to what a network sees, and back. Inside the compiled step.

Every image has its own key, so what happens to it does not depend on the batch.
"""

import jax
import jax.numpy as jnp
from jax import lax


def to_float(image: jax.Array) -> jax.Array:
    """uint8 in 0..255 -> float32 in [-1, 1]; floats are in [-1, 1] already."""
    if image.dtype != jnp.uint8:
        return image
    return image.astype(jnp.float32) / 127.5 - 1.0


def to_uint8(x: jax.Array) -> jax.Array:
    """[-1, 1] -> uint8, what lies beyond being clipped: for pictures."""
    return jnp.round((jnp.clip(x, -1.0, 1.0) + 1.0) * 127.5).astype(jnp.uint8)


def crop_and_flip(
    keys: jax.Array, image: jax.Array, *, pad: int, flip: bool
) -> jax.Array:
    """Reflect-pads by `pad` pixels, crops at random, mirrors half.  [B, H, W, C].

    `keys` [B]. Both parts at zero or False leave the images as they are.
    """

    def one(key, image):
        k_crop, k_flip = jax.random.split(key)
        if pad:
            offset = jax.random.randint(k_crop, (2,), 0, 2 * pad + 1)
            padded = jnp.pad(image, ((pad, pad), (pad, pad), (0, 0)), mode="reflect")
            image = lax.dynamic_slice(padded, (*offset, 0), image.shape)
        if flip:
            mirrored = jax.random.bernoulli(k_flip)
            image = jnp.where(mirrored, image[:, ::-1], image)
        return image

    return jax.vmap(one)(keys, image) if pad or flip else image


def add_noise(keys: jax.Array, x: jax.Array, std: float) -> jax.Array:
    """x + std N(0, I).  keys [B], x [B, ...]."""
    if not std:
        return x
    return x + std * jax.vmap(lambda k: jax.random.normal(k, x.shape[1:], x.dtype))(
        keys
    )
