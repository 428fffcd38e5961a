"""Functions of a trained model, over any number of examples, on all devices."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax import lax

from ebmjax import augment, energy, models, parallel


@dataclasses.dataclass(frozen=True)
class Model:
    """A network with its variables, for use inside a compiled function."""

    network: models.Network
    variables: Any  # (params, model_state)
    scaling: Any = None  # `data.Scaling` of vectors

    def to_float(self, image: jax.Array) -> jax.Array:
        """Examples as the data set stores them -> what the network takes."""
        return augment.to_float(image, self.scaling)

    def logits(self, x: jax.Array) -> jax.Array:
        """f(x)[y]; x as the network takes it.  [B, ...] -> [B, K]."""
        return self.network.apply(*self.variables, x)

    def features(self, x: jax.Array) -> jax.Array:
        """The input of the last layer.  [B, ...] -> [B, F]."""
        return self.network.features(*self.variables, x)

    def energy(self, x: jax.Array, labels: jax.Array | None = None) -> jax.Array:
        """E(x), or with labels [B] E(x, y).  [B, ...] -> [B]."""
        if labels is None:
            return energy.from_logits(self.logits(x))
        return energy.joint_from_logits(self.logits(x), labels)


def program(fn: Callable, *, method: str = "shard_map") -> Callable:
    """Compiles `fn(variables, key, *xs) -> tree of [b, ...]` for `over_batches`.

    Each device sees its own b examples and its own key.
    """

    def on_device(variables, key, xs, axis_name):
        key = jax.random.fold_in(key, lax.axis_index(axis_name))
        out = fn(variables, key, *xs)
        # Every host gets the whole batch: there is nothing to collect later.
        return jax.tree.map(lambda y: lax.all_gather(y, axis_name, tiled=True), out)

    in_axes = (None, None, 0)
    return parallel.spmd(on_device, in_axes=in_axes, out_axes=None, method=method)


def over_batches(
    program: Callable,
    variables: Any,
    *arrays: np.ndarray,
    batch_size: int,
    key: jax.Array | None = None,
    progress: Callable = lambda batches: batches,
) -> Any:
    """The results for all of `arrays` [N, ...], as NumPy [N, ...].

    Each example is computed once; the last batch is filled up with zeros, whose
    results are dropped, so that there is one shape to compile. `batch_size` is
    rounded up to what divides over the devices; `progress` wraps the iteration.
    """
    num = len(arrays[0])
    if not num or any(len(x) != num for x in arrays):
        lengths = [len(x) for x in arrays]
        raise ValueError(f"arrays must be equally long and not empty, not {lengths}")
    num_devices = jax.device_count()
    batch_size = -(-min(batch_size, num) // num_devices) * num_devices
    key = parallel.place(jax.random.key(0) if key is None else key)

    results, running = [], None
    for i in progress(range(-(-num // batch_size))):
        part = tuple(_cut(x, i * batch_size, batch_size) for x in arrays)
        part = parallel.place(parallel.split(part), 0)
        out = program(variables, jax.random.fold_in(key, i), part)
        if running is not None:  # fetched while the next one is computed
            results.append(jax.device_get(running))
        running = out
    results.append(jax.device_get(running))
    return jax.tree.map(lambda *parts: np.concatenate(parts)[:num], *results)


def _cut(x, start, size):
    part = np.asarray(x[start : start + size])
    return np.pad(part, [(0, size - len(part))] + [(0, 0)] * (part.ndim - 1))


@functools.lru_cache(maxsize=8)  # those of so many networks
def logits(network: models.Network, method: str = "shard_map") -> Callable:
    """A `program`: (params, model_state, scaling), stored examples -> logits [N, K]."""

    def fn(variables, key, x):
        *variables, scaling = variables
        return network.apply(*variables, augment.to_float(x, scaling))

    return program(fn, method=method)
