"""The only module that knows how work is spread over devices.

A program is written for one device, with an `axis_name` for what it must ask
the others. Its arguments either differ from device to device (axes 0: a leading
axis [D], one slice each), or are the same everywhere (None: no device axis), or
are arrays of which every device holds a part (`Spread`).
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ebmjax import processes

AXIS = "device"
METHODS = ("shard_map", "pmap")
LEAST_SPREAD = 4096  # entries; a smaller array is not worth the messages


@dataclasses.dataclass(frozen=True)
class Spread:
    """An array that lies on all devices in equal parts, cut along axis `dim`."""

    dim: int


def spmd(
    fn: Callable,
    *,
    in_axes: tuple,
    out_axes: Any,
    method: str = "shard_map",
    donate: tuple[int, ...] = (),
) -> Callable:
    """Compiles `fn(*args, axis_name)` to run on every device of every process.

    `in_axes` (one entry an argument) and `out_axes` are 0, None, `Spread`, or
    trees of them, prefixes of what they describe. Outputs with None must be equal
    on all devices. `jax.pmap` and `jax.shard_map` compile to the same program
    here; pmap is the older name, in maintenance since jax 0.8, and knows no
    `Spread`.
    """
    fn = functools.partial(fn, axis_name=AXIS)
    if method == "pmap":
        mapped = jax.pmap(
            fn,
            axis_name=AXIS,
            in_axes=in_axes,
            out_axes=out_axes,
            donate_argnums=donate,
        )
        if not processes.several():
            return mapped
        return lambda *args: _rejoined(mapped(*args), out_axes)

    def body(*args):  # a shard keeps its leading axis, of length 1
        args = _each(lambda x: x[0], in_axes, args)
        return _each(lambda x: x[None], out_axes, fn(*args))

    specs = functools.partial(jax.tree.map, _spec, is_leaf=_is_none)
    mapped = jax.shard_map(
        body,
        mesh=mesh(),
        in_specs=specs(in_axes),
        out_specs=specs(out_axes),
        # With varying axes tracked, gradients of what is replicated come summed
        # over devices already, and a pmean after them is silently D times off.
        check_vma=False,
    )
    return jax.jit(mapped, donate_argnums=donate)


def spread(shapes: Any) -> Any:
    """Axes for a tree of arrays that no device needs to hold whole.

    `Spread` along the longest axis that the devices divide. None for what is small
    or has no such axis: every device holds that.
    """

    def one(x):
        sizes = [n if n % mesh().size == 0 else 0 for n in x.shape]
        if x.size < LEAST_SPREAD or not any(sizes):
            return None
        return Spread(sizes.index(max(sizes)))

    return jax.tree.map(one, shapes)


def gather(tree: Any, axes: Any, axis_name: str | None) -> Any:
    """Within a program: all of what is `Spread`, on every device."""

    def one(axis, part):
        if axis is None:
            return part
        return lax.all_gather(part, axis_name, axis=axis.dim, tiled=True)

    return jax.tree.map(one, axes, tree, is_leaf=_is_none)


def mean(tree: Any, axes: Any, axis_name: str | None) -> Any:
    """Within a program: the mean over devices, of which each keeps what `axes` says.

    Counters and flags (integers, booleans) are left as they are.
    """
    if axis_name is None:
        return tree

    def mean_of(x):
        return lax.pmean(x, axis_name) if jnp.issubdtype(x.dtype, jnp.inexact) else x

    def one(axis, x):
        if axis is None:
            return jax.tree.map(mean_of, x)
        total = lax.psum_scatter(x, axis_name, scatter_dimension=axis.dim, tiled=True)
        return total / lax.axis_size(axis_name)

    return jax.tree.map(one, axes, tree, is_leaf=_is_none)


def own_part(tree: Any, axes: Any, axis_name: str | None) -> Any:
    """Within a program: of whole arrays, the part of this device that `axes` names."""

    def one(axis, x):
        if axis is None:
            return x
        size = x.shape[axis.dim] // lax.axis_size(axis_name)
        start = lax.axis_index(axis_name) * size
        return lax.dynamic_slice_in_dim(x, start, size, axis.dim)

    return jax.tree.map(one, axes, tree, is_leaf=_is_none)


def norm(tree: Any, axes: Any, axis_name: str | None) -> jax.Array:
    """Within a program: L2, of all entries and of all devices' parts."""
    of_all, of_one = [], []

    def sort(axis, part):
        (of_all if axis is None else of_one).extend(jax.tree.leaves(part))

    jax.tree.map(sort, axes, tree, is_leaf=_is_none)
    square = sum(jnp.sum(x**2) for x in of_all)
    if of_one:
        square += lax.psum(sum(jnp.sum(x**2) for x in of_one), axis_name)
    return jnp.sqrt(square)


def assembled(tree: Any, axes: Any) -> Any:
    """The tree with nothing `Spread`."""
    return _on_all()(tree) if jax.tree.leaves(axes) else tree


@functools.cache
def _on_all():
    return jax.jit(lambda tree: tree, out_shardings=_sharding(None))


def make(fn: Callable, *args, axes: Any) -> Any:
    """fn(*args), made where `spmd` programs take it, every part on its device.

    Without this the second call would see differently placed inputs and be
    traced and compiled again.
    """
    shardings = jax.tree.map(_sharding, axes, is_leaf=_is_none)
    return jax.jit(fn, out_shardings=shardings)(*args)


def place_like(tree: Any, like: Any) -> Any:
    """Puts a host's whole arrays where the arrays of `like`, of their shapes, are."""

    def put(x, array):
        x = np.asarray(x, array.dtype)
        return jax.make_array_from_callback(x.shape, array.sharding, x.__getitem__)

    return jax.tree.map(put, tree, like)


def place(tree: Any, axes: Any = None) -> Any:
    """Puts a host's tree where `spmd` programs take it and leave it.

    Leaves with axis 0 are [D, ...], D over all processes, of which each process
    gives all and keeps its own.
    """

    def put(axis, part):
        sharding = _sharding(axis)
        return jax.tree.map(
            lambda x: jax.make_array_from_callback(
                np.shape(x), sharding, functools.partial(_slice, x)
            ),
            part,
        )

    return jax.tree.map(put, axes, tree, is_leaf=_is_none)


def split(batch: Any) -> Any:
    """[B, ...] -> [D, B/D, ...] for `place(..., axes=0)`.

    Raises ValueError if B does not divide over the D devices.
    """
    num_devices = jax.device_count()

    def one(x):
        check_divides("batch", len(x))
        return x.reshape(num_devices, len(x) // num_devices, *x.shape[1:])

    return jax.tree.map(one, batch)


def check_divides(what: str, size: int) -> None:
    """Raises ValueError if `size` does not divide over all devices."""
    num_devices, num_processes = jax.device_count(), jax.process_count()
    if size % num_devices:
        raise ValueError(
            f"a {what} of {size} does not divide over {num_devices} devices"
            f" ({num_processes} processes): choose a multiple of {num_devices}"
        )


@functools.cache
def mesh() -> jax.sharding.Mesh:
    """All devices of all processes in one line."""
    return jax.sharding.Mesh(np.array(jax.devices()), (AXIS,))


def _rejoined(tree, axes):
    """What pmap gives to each of several processes, its own part, as one of all."""

    def rejoin(axis, x):
        sharding = _sharding(axis)
        shape = x.shape if axis is None else (jax.device_count(), *x.shape[1:])
        parts = [shard.data for shard in x.addressable_shards]
        return jax.make_array_from_single_device_arrays(shape, sharding, parts)

    def each(axis, part):
        return jax.tree.map(functools.partial(rejoin, axis), part)

    return jax.tree.map(each, axes, tree, is_leaf=_is_none)


def _each(fn, axes, tree):
    def apply(axis, part):
        return jax.tree.map(fn, part) if axis == 0 else part

    return jax.tree.map(apply, axes, tree, is_leaf=_is_none)


def _spec(axis):
    if axis is None:
        return jax.P()
    return jax.P(*[None] * axis.dim, AXIS) if isinstance(axis, Spread) else jax.P(AXIS)


def _sharding(axis):
    return jax.NamedSharding(mesh(), _spec(axis))


def _is_none(axis):
    return axis is None


def _slice(x, index):
    return x[index]
