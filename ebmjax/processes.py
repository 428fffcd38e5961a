"""The processes of a job on several hosts: how they start, agree and end together."""

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
_calls = itertools.count()  # of `barrier`: each needs a name of its own


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


def exit_immediately(code: int) -> None:
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


def on_every_process(read: Callable[[], Any]) -> Any:
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


def barrier(timeout: int = 30) -> bool:
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


def restore_sigterm() -> None:
    """From now on SIGTERM ends the program: nobody asks `agreed_to_stop` again."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def request_stop() -> None:
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
