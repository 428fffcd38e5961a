"""From stored images to what a network takes, and back; inside the compiled step.

An augmentation is a function of one example and its own key, so that its result does
not depend on the batch or on the number of devices.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

# (key, x) -> x, of one example as the network takes it.
Augment = Callable[[jax.Array, jax.Array], jax.Array]


def to_float(image: jax.Array, scaling: Any = None) -> jax.Array:
    """Examples as a data set stores them -> what a network takes.

    uint8 images in 0..255 -> float32 in [-1, 1]; float images are in [-1, 1] already.
    With a `scaling` of mean and std [D], vectors [B, D] -> (vectors - mean) / std.
    """
    if scaling is not None:
        return (image - scaling.mean[None]) / scaling.std[None]
    if image.dtype != jnp.uint8:
        return image
    return image.astype(jnp.float32) / 127.5 - 1.0


def to_uint8(x: jax.Array) -> jax.Array:
    """[-1, 1] -> uint8, what lies beyond being clipped: for pictures."""
    return jnp.round((jnp.clip(x, -1.0, 1.0) + 1.0) * 127.5).astype(jnp.uint8)


def crop_and_flip(
    key: jax.Array, image: jax.Array, *, pad: int, flip: bool
) -> jax.Array:
    """Reflect-pads by `pad` pixels and crops at random; mirrors with probability 1/2.

    One image [H, W, C] -> [H, W, C].
    """
    k_crop, k_flip = jax.random.split(key)
    if pad:
        offset = jax.random.randint(k_crop, (2,), 0, 2 * pad + 1)
        padded = jnp.pad(image, ((pad, pad), (pad, pad), (0, 0)), mode="reflect")
        image = lax.dynamic_slice(padded, (*offset, 0), image.shape)
    if flip:
        mirrored = jax.random.bernoulli(k_flip)
        image = jnp.where(mirrored, image[:, ::-1], image)
    return image


def standard(*, pad: int = 0, flip: bool = False, noise_std: float = 0.0) -> Augment:
    """`crop_and_flip`, then Gaussian noise of `noise_std` in the units of x."""

    def augment(key, x):
        k_crop, k_noise = jax.random.split(key)
        if pad or flip:
            x = crop_and_flip(k_crop, x, pad=pad, flip=flip)
        if noise_std:
            x = x + noise_std * jax.random.normal(k_noise, x.shape, x.dtype)
        return x

    return augment


def augment_batch(
    key: jax.Array,
    data: Any,
    batch: dict,
    *,
    augment_fn: Augment,
    scaling: Any = None,
    device: jax.Array | int = 0,
    plain: bool = False,
) -> dict:
    """Stored examples -> what the network takes, augmented; nested batches likewise.

    Indices are into `data`, or into what it has under the name of a nested batch.

    Every place in the batch of all devices has a key of its own, so the number of
    devices changes nothing. With `plain`, only a nested batch "labelled" is augmented.
    """
    streams = {name: part for name, part in batch.items() if isinstance(part, dict)}
    if "index" in batch:
        arrays = {k: x for k, x in data.items() if not isinstance(x, dict)}
        batch = {name: values[batch["index"]] for name, values in arrays.items()}
    count = len(batch["label"])
    place = device * count + jnp.arange(count)
    keys = jax.vmap(functools.partial(jax.random.fold_in, key))(place)
    x = to_float(batch["image"], scaling)
    x = x if plain else jax.vmap(augment_fn)(keys, x)
    result = {"image": x, "label": batch["label"]}
    for i, (name, part) in enumerate(sorted(streams.items()), start=1):
        result[name] = augment_batch(
            jax.random.fold_in(key, i),
            data and data.get(name, data),
            part,
            augment_fn=augment_fn,
            scaling=scaling,
            device=device,
            plain=plain and name != "labelled",
        )
    return result
