"""The only module that knows how work is spread over devices.

A program is written for one device, with an `axis_name` for what it must ask
the others. Its arguments either differ from device to device (axes 0: a leading
axis [D], one slice each) or are the same everywhere (None: no device axis).
"""

import functools
import os
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

AXIS = "device"
METHODS = ("shard_map", "pmap")


def spmd(
    fn: Callable,
    *,
    in_axes: tuple,
    out_axes: Any,
    method: str = "shard_map",
    donate: tuple[int, ...] = (),
) -> Callable:
    """Compiles `fn(*args, axis_name)` to run on every device of every process.

    `in_axes` (one entry an argument) and `out_axes` are 0, None, or trees of
    them, prefixes of what they describe. Outputs with None must be equal on all
    devices. `jax.pmap` and `jax.shard_map` compile to the same program here;
    pmap is the older name, in maintenance since jax 0.8.
    """
    fn = functools.partial(fn, axis_name=AXIS)
    if method == "pmap":
        return jax.pmap(
            fn,
            axis_name=AXIS,
            in_axes=in_axes,
            out_axes=out_axes,
            donate_argnums=donate,
        )

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


def place(tree: Any, axes: Any = None) -> Any:
    """Puts a host's tree where `spmd` programs take it and leave it.

    Without this the second call would see differently placed inputs and be
    traced and compiled again. Leaves with axis 0 are [D, ...], D over all
    processes, of which each process gives all and keeps its own.
    """

    def put(axis, part):
        sharding = jax.NamedSharding(mesh(), _spec(axis))
        return jax.tree.map(
            lambda x: jax.make_array_from_callback(
                np.shape(x), sharding, functools.partial(_slice, x)
            ),
            part,
        )

    return jax.tree.map(put, axes, tree, is_leaf=_is_none)


def shardings(tree: Any, axes: Any = None) -> Any:
    """The sharding of every leaf that `place` would place."""

    def of(axis, part):
        return jax.tree.map(lambda _: jax.NamedSharding(mesh(), _spec(axis)), part)

    return jax.tree.map(of, axes, tree, is_leaf=_is_none)


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


def start(*, cpu_devices: int = 0, batch_size: int = 1) -> None:
    """Fixes the number of devices that a CPU counts as; call it before all else.

    One device uses two cores badly, two use them well. 0 is one a core, at most
    8, and as many as `batch_size` divides over. Accelerators are not concerned.
    """
    cores = min(len(os.sched_getaffinity(0)), 8)
    fitting = [n for n in range(1, cores + 1) if batch_size % n == 0]
    jax.config.update("jax_num_cpu_devices", cpu_devices or fitting[-1])


def agreed_to_stop(step: int, signalled: bool) -> bool:
    """Has a process been told to stop?  The same answer in all of them."""
    if jax.process_count() == 1:
        return signalled
    return multihost_utils.reached_preemption_sync_point(step)


@functools.cache
def mesh() -> jax.sharding.Mesh:
    """All devices of all processes in one line."""
    return jax.sharding.Mesh(np.array(jax.devices()), (AXIS,))


def _each(fn, axes, tree):
    def apply(axis, part):
        return part if axis is None else jax.tree.map(fn, part)

    return jax.tree.map(apply, axes, tree, is_leaf=_is_none)


def _spec(axis):
    return jax.P() if axis is None else jax.P(AXIS)


def _is_none(axis):
    return axis is None


def _slice(x, index):
    return x[index]
