"""The only module that knows how work is spread over devices.

A program is written for one device, with an `axis_name` for what it must ask
the others. Its arguments either differ from device to device (axes 0: a leading
axis [D], one slice each), or are the same everywhere (None: no device axis), or
are arrays of which every device holds a part (`Spread`).
"""

import dataclasses
import functools
import itertools
import os
import signal
import sys
import threading
import zlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import multihost_utils

AXIS = "device"
METHODS = ("shard_map", "pmap")
NUM_PROCESSES, PROCESS_ID = "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"
LEAST_SPREAD = 4096  # entries; a smaller array is not worth the messages
_calls = itertools.count()  # of `all_come`: each needs a name of its own


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
        if not several():
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


def gather(tree: Any, axes: Any, axis_name: str) -> Any:
    """Within a program: all of what is `Spread`, on every device."""

    def one(axis, part):
        if axis is None:
            return part
        return lax.all_gather(part, axis_name, axis=axis.dim, tiled=True)

    return jax.tree.map(one, axes, tree, is_leaf=_is_none)


def mean(tree: Any, axes: Any, axis_name: str) -> Any:
    """Within a program: the mean over devices, of which each keeps what `axes` says."""

    def one(axis, x):
        if axis is None:
            return lax.pmean(x, axis_name)
        total = lax.psum_scatter(x, axis_name, scatter_dimension=axis.dim, tiled=True)
        return total / lax.axis_size(axis_name)

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


def start(
    *,
    cpu_devices: int = 0,
    sizes: tuple[int, ...] = (),
    distributed: bool | None = None,
    timeout: int = 300,
) -> None:
    """Joins the other processes if there are any, and fixes what a CPU counts as.

    Call it before all else. A CPU is `cpu_devices` devices; 0 is one where there
    are several processes, else one a core, at most 8, and as many as all of `sizes`
    divide over: one device uses two cores badly, two use them well. Accelerators
    are not concerned. `distributed` None joins where `launched_with_others`.
    Raises RuntimeError if the others are not there within `timeout` seconds.
    """
    cores = min(len(os.sched_getaffinity(0)), 8)
    if launched_with_others() if distributed is None else distributed:
        _join(timeout)
        cores = 1
    counts = range(1, cores + 1)
    fitting = [n for n in counts if all(size % n == 0 for size in sizes)]
    jax.config.update("jax_num_cpu_devices", cpu_devices or fitting[-1])


def launched_with_others() -> bool:
    """Has SLURM, Open MPI, GKE or a user's JAX_NUM_PROCESSES started several of us?

    A TPU pod without GKE does not say so by the environment.
    """
    counts = (NUM_PROCESSES, "SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")
    hosts = os.environ.get("TPU_WORKER_HOSTNAMES", "")
    return "," in hosts or any(int(os.environ.get(x) or 1) > 1 for x in counts)


def _join(timeout):
    """jax.distributed, from JAX_* variables and what JAX finds out by itself."""
    count, index = (os.environ.get(x) for x in (NUM_PROCESSES, PROCESS_ID))
    # Where it waits in vain, jax.distributed ends the program with a C++ trace.
    watch = threading.Timer(timeout, _leave_alone, [timeout])
    watch.daemon = True
    watch.start()
    try:
        jax.distributed.initialize(
            num_processes=count and int(count),
            process_id=index and int(index),
            initialization_timeout=timeout + 60,
        )
    except ValueError as error:
        raise ValueError(
            f"--distributed: {error} Start under SLURM, Open MPI, GKE or on a TPU pod,"
            f" or set JAX_COORDINATOR_ADDRESS (host:port of process 0),"
            f" {NUM_PROCESSES} and {PROCESS_ID} (from 0) for each process"
        ) from error
    finally:
        watch.cancel()


def _leave_alone(timeout):
    print(
        f"error: the other processes did not join within {timeout} s (--join_timeout):"
        " see whether all of them were started, and whether their hosts reach"
        f" {os.environ.get('JAX_COORDINATOR_ADDRESS') or 'that of process 0'}",
        file=sys.stderr,
        flush=True,
    )
    os._exit(1)


def several() -> bool:
    """Is this one of several processes?"""
    return jax.distributed.is_initialized()


def index() -> int:
    """This process's number; 0 writes and prints."""
    return jax.process_index()


def leave(code: int) -> None:
    """Ends this process at once, as one that failed must among several.

    At a normal exit jax.distributed waits for all the others, which wait for this
    one in the middle of their work.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def all_agree(ok: bool) -> bool:
    """Do all processes say so?"""
    if not several():
        return ok
    return bool(multihost_utils.process_allgather(np.array(ok)).all())


def everywhere(read: Callable[[], Any]) -> Any:
    """`read()`, where every process can; else an error in all of them.

    What one lacks is missed here, by all, and not while the others wait for it in the
    middle of a computation. `read` itself must not ask the others anything.
    """
    if not several():
        return read()
    failure, reason = None, np.zeros(500, np.uint8)
    try:
        found = read()
    except Exception as error:
        failure = error
        text = f"{type(error).__name__}: {error}".encode()[: len(reason)]
        reason[: len(text)] = np.frombuffer(text, np.uint8)
    reasons = multihost_utils.process_allgather(reason)
    failed = np.flatnonzero(reasons.any(axis=1)).tolist()
    if len(failed) == len(reasons):
        raise failure
    if failed:
        text = bytes(reasons[failed[0]]).rstrip(b"\0").decode(errors="replace")
        raise ValueError(f"process {failed[0]} of {len(reasons)}: {text}")
    return found


def all_come(timeout: int = 30) -> bool:
    """Do all processes call this within `timeout` seconds?

    Unlike the others here it can be asked where some may be waiting in the middle of
    a computation: it goes by jax.distributed's own connections.
    """
    if not several():
        return True
    from orbax.checkpoint import multihost

    try:
        multihost.get_barrier_sync_fn()(
            key=f"all_come_{next(_calls)}", timeout_ms=1000 * timeout
        )
    except Exception:  # which one is not documented
        return False
    return True


def check_same(what: str, content: bytes) -> None:
    """Raises ValueError unless all processes have the same `content`."""
    if several():
        sums = multihost_utils.process_allgather(np.uint32(zlib.crc32(content)))
        if len(set(sums.tolist())) > 1:
            odd = np.flatnonzero(sums != sums[0]).tolist()
            raise ValueError(f"{what} of processes {odd} is not that of process 0")


def let_sigterm_end() -> None:
    """From now on SIGTERM ends the program: nobody asks `agreed_to_stop` again."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def tell_to_stop() -> None:
    """Makes `agreed_to_stop` come true, some steps later, in all of several."""
    os.kill(os.getpid(), signal.SIGTERM)


def agreed_to_stop(step: int, signalled: bool) -> bool:
    """Has a process been told to stop?  The same answer in all of them.

    Among several, jax.distributed listens to SIGTERM and finds the step that none
    of them has passed: `step` must come here one by one.
    """
    if not several():
        return signalled
    return multihost_utils.reached_preemption_sync_point(step)


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
