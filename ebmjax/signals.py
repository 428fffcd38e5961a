"""Signals that ask a program to stop: it saves first."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator

from ebmjax import processes

EX_TEMPFAIL = 75  # of sysexits.h: try again later
SIGHUP = getattr(signal, "SIGHUP", None)  # not on Windows


class StopRequests:
    """The signals received so far; true once there is one."""

    def __init__(self):
        self.received: list[int] = []

    def __bool__(self) -> bool:
        return bool(self.received)

    @property
    def number(self) -> int:
        """The last signal; SIGTERM if only another process received one."""
        return self.received[-1] if self.received else signal.SIGTERM


@contextlib.contextmanager
def stop_requests() -> Iterator[StopRequests]:
    """Within the block SIGTERM, SIGHUP and the first SIGINT are recorded, not acted on.

    A second Ctrl-C raises KeyboardInterrupt. Several processes are all asked to stop:
    see `processes.agreed_to_stop`. Outside the main thread, where Python allows no
    handlers, nothing is recorded.
    """
    requests = StopRequests()
    if threading.current_thread() is not threading.main_thread():
        yield requests
        return
    terminals = [x for x in (sys.stdout, sys.stderr) if _is_terminal(x)]

    def record(number, _):
        requests.received.append(number)
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        elif number == SIGHUP:
            _discard(terminals)
        if processes.several():
            processes.request_stop()

    before = {number: signal.signal(number, record) for number in _handled()}
    try:
        yield requests
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def exit_code(number: int) -> int:
    """Of a program that stopped and saved: 130 after Ctrl-C, else 75, "try again"."""
    return 128 + signal.SIGINT if number == signal.SIGINT else EX_TEMPFAIL


def _handled():
    numbers = [signal.SIGINT]
    if not processes.several():  # else jax.distributed has a handler for SIGTERM
        numbers.append(signal.SIGTERM)
    if SIGHUP is not None and signal.getsignal(SIGHUP) != signal.SIG_IGN:  # by nohup
        numbers.append(SIGHUP)
    return numbers


def _is_terminal(stream):
    try:
        return os.isatty(stream.fileno())
    except (AttributeError, OSError, ValueError):  # replaced, or closed
        return False


def _discard(streams):
    """Sends output to the null device: after a hang-up, writing to the terminal fails,
    and what is to be saved must not fail with it."""
    null = os.open(os.devnull, os.O_WRONLY)
    for stream in streams:
        os.dup2(null, stream.fileno())
    os.close(null)
