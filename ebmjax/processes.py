"""The processes of a job on several hosts: joining, agreeing and ending together."""

import itertools
import os
import signal
import sys
import threading
import zlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

NUM_PROCESSES, PROCESS_ID = "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"
MAX_CPU_DEVICES = 8
_calls = itertools.count()  # of `barrier`: each needs a name of its own


def start(
    *,
    cpu_devices: int = 0,
    sizes: tuple[int, ...] = (),
    distributed: bool | None = None,
    timeout: int = 300,
) -> None:
    """Joins the other processes if there are any, and sets the number of CPU devices.

    Call it before any computation. The CPU counts as `cpu_devices` devices. 0 means one
    for each of several processes; else one a core, up to `MAX_CPU_DEVICES`, but only as
    many as divide all `sizes`: one device makes poor use of two cores. Accelerators are
    not affected. `distributed` None joins if `multi_process_variable` finds one.
    Raises ValueError if what the launcher says about the processes is incomplete. Ends
    the program if the others do not join within `timeout` seconds.
    """
    cores = min(_num_cores(), MAX_CPU_DEVICES)
    variable = multi_process_variable() if distributed is None else None
    if distributed or variable:
        _join(timeout, variable or "--distributed")
        cores = 1
    counts = range(1, cores + 1)
    fitting = [n for n in counts if all(size % n == 0 for size in sizes)]
    jax.config.update("jax_num_cpu_devices", cpu_devices or fitting[-1])


def _num_cores():
    """Those that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # Linux
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def multi_process_variable() -> str | None:
    """The setting by which SLURM, Open MPI, GKE or a user started several processes,
    for instance "JAX_NUM_PROCESSES=2"; None for one process.

    A TPU pod without GKE has no such variable. Raises ValueError if it is not a number.
    """
    for name in (NUM_PROCESSES, "SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE"):
        text = os.environ.get(name) or "1"
        try:
            several = int(text) > 1
        except ValueError as error:
            raise ValueError(
                f"{name} is {text!r}, expected a number of processes; correct it, or"
                " use this process alone with --nodistributed"
            ) from error
        if several:
            return f"{name}={text}"
    hosts = os.environ.get("TPU_WORKER_HOSTNAMES", "")
    return f"TPU_WORKER_HOSTNAMES={hosts}" if "," in hosts else None


def _join(timeout, origin):
    """Initialises jax.distributed from JAX_* variables and what JAX detects.

    `origin` is the variable or flag that asks for it.
    """
    count, index = (os.environ.get(x) for x in (NUM_PROCESSES, PROCESS_ID))
    # At its own timeout jax.distributed ends the program with a C++ trace.
    watch = threading.Timer(timeout, _exit_without_others, [timeout, origin])
    watch.daemon = True
    watch.start()
    try:
        jax.distributed.initialize(
            num_processes=count and int(count),
            process_id=index and int(index),
            initialization_timeout=timeout + 60,
        )
    except (ValueError, LookupError) as error:
        raise ValueError(
            f"{origin} asks for several processes, but JAX cannot join them"
            f" ({str(error).rstrip('.')}); start them under SLURM, Open MPI, GKE or on"
            " a TPU pod, or set JAX_COORDINATOR_ADDRESS (host:port of process 0),"
            f" {NUM_PROCESSES} and {PROCESS_ID} (from 0) for each; to use this process"
            " alone, add --nodistributed"
        ) from error
    finally:
        watch.cancel()


def _exit_without_others(timeout, origin):
    address = os.environ.get("JAX_COORDINATOR_ADDRESS") or "that of process 0"
    print(
        f"error: the other processes did not join within {timeout} s (--join_timeout);"
        f" {origin} asks for them: check that all of them were started and that their"
        f" hosts reach {address}, or add --nodistributed to use this process alone",
        file=sys.stderr,
        flush=True,
    )
    os._exit(1)


def several() -> bool:
    """Is this one of several processes?"""
    return jax.distributed.is_initialized()


def index() -> int:
    """The index of this process; process 0 writes and prints."""
    return jax.process_index()


def exit_immediately(code: int) -> None:
    """Ends this process without waiting for the others, as one must that failed.

    At a normal exit jax.distributed waits for all processes, which wait for this one in
    the middle of a computation.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def all_agree(ok: bool) -> bool:
    """Is `ok` true in all processes?  Each of them must call this."""
    if not several():
        return ok
    return bool(multihost_utils.process_allgather(np.array(ok)).all())


def on_every_process(read: Callable[[], Any]) -> Any:
    """`read()`, if it succeeds in every process; else an error in all of them.

    An error in one process alone would leave the others waiting for it in their next
    computation. `read` must not communicate itself. Raises what `read` raises if it
    fails everywhere, else ValueError with the first failing process and its reason.
    """
    if not several():
        return read()
    failure, reason = None, np.zeros(500, np.uint8)
    try:
        result = read()
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
    return result


def barrier(timeout: int = 30) -> bool:
    """Waits for all processes to call this; False after `timeout` seconds.

    Unlike the other functions here it may be called while some processes wait in the
    middle of a computation: it uses the connections of jax.distributed.
    """
    if not several():
        return True
    from orbax.checkpoint import multihost

    try:
        multihost.get_barrier_sync_fn()(
            key=f"ebmjax_barrier_{next(_calls)}", timeout_ms=1000 * timeout
        )
    except Exception:  # which one is not documented
        return False
    return True


def check_same(what: str, content: bytes) -> None:
    """Raises ValueError unless all processes have the same `content`."""
    if several():
        sums = multihost_utils.process_allgather(np.uint32(zlib.crc32(content)))
        if len(set(sums.tolist())) > 1:
            different = np.flatnonzero(sums != sums[0]).tolist()
            raise ValueError(
                f"{what} of processes {different} is not that of process 0"
            )


def restore_sigterm() -> None:
    """Lets SIGTERM end the program again, once `agreed_to_stop` is no longer called."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def request_stop() -> None:
    """Makes `agreed_to_stop` true, some steps later, in all of several processes."""
    os.kill(os.getpid(), signal.SIGTERM)


def agreed_to_stop(step: int, signalled: bool) -> bool:
    """Should training stop after this step?  The same answer in all processes.

    A single process stops if it is `signalled`. Of several processes jax.distributed
    handles SIGTERM and agrees on a step that none of them has passed: call this with
    every `step`.
    """
    if not several():
        return signalled
    return multihost_utils.reached_preemption_sync_point(step)
