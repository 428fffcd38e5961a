"""Programs that are asked to stop."""

import os
import pty
import signal
import subprocess
import sys
import threading

import programs
import pytest

from ebmjax import signals

WAITING = """
import os, signal, sys, time
from ebmjax import signals
before = [signal.getsignal(x) for x in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
with signals.stop_requests() as requests:
    print("ready", flush=True)
    limit = time.monotonic() + 30
    while not requests and time.monotonic() < limit:
        time.sleep(0.01)
    for _ in range(2):  # as a training would that goes on to its checkpoint
        print("saving", flush=True)
        print("saving", file=sys.stderr, flush=True)
    if sys.argv[1:] == ["slowly"]:
        time.sleep(30)
after = [signal.getsignal(x) for x in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
sys.exit(signals.exit_code(requests.number) if requests and before == after else 1)
"""


@pytest.fixture
def waiting():
    """Starts programs that stop when they are asked to."""
    started = []

    def start(*args, **kwargs):
        command = [*kwargs.pop("by", ()), sys.executable, "-c", WAITING, *args]
        kwargs = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE) | kwargs
        started.append(subprocess.Popen(command, cwd=programs.ROOT, **kwargs))
        return started[-1]

    yield start
    for program in started:
        program.kill()
        program.communicate()  # closes its pipes


@pytest.mark.parametrize(
    "number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 75), (signal.SIGHUP, 75)]
)
def test_a_signal_is_recorded_and_told_by_the_exit_code(waiting, number, code):
    program = waiting()
    assert program.stdout.readline() == b"ready\n"
    program.send_signal(number)
    assert program.wait(timeout=20) == code
    assert program.stdout.read() == b"saving\n" * 2


def test_a_second_interrupt_is_not_held_back(waiting):
    program = waiting("slowly")
    assert program.stdout.readline() == b"ready\n"
    program.send_signal(signal.SIGINT)
    assert program.stdout.readline() == b"saving\n"
    program.send_signal(signal.SIGINT)
    assert program.wait(timeout=20) == -signal.SIGINT
    assert b"KeyboardInterrupt" in program.stderr.read()


def test_a_terminal_that_hangs_up_does_not_keep_a_program_from_saving(waiting):
    terminal, end = pty.openpty()
    ends = dict(stdin=end, stdout=end, stderr=end, start_new_session=True)
    setsid = "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY);"
    setsid += "os.execv(sys.argv[1], sys.argv[1:])"
    program = waiting(by=[sys.executable, "-c", setsid], **ends)
    os.close(end)
    with open(terminal, "rb", buffering=0) as screen:
        assert screen.readline() == b"ready\r\n"
    # Closed, like a connection that is lost: the system sends SIGHUP.
    assert program.wait(timeout=20) == 75


def test_nohup_is_respected(waiting):
    program = waiting(by=["nohup"])
    assert program.stdout.readline() == b"ready\n"
    program.send_signal(signal.SIGHUP)
    with pytest.raises(subprocess.TimeoutExpired):
        program.wait(timeout=0.5)
    program.send_signal(signal.SIGTERM)
    assert program.wait(timeout=20) == 75


def test_without_a_signal_here_another_process_had_one():
    requests = signals.StopRequests()
    assert not requests and requests.number == signal.SIGTERM
    requests.received += [signal.SIGTERM, signal.SIGINT]
    assert requests and requests.number == signal.SIGINT


def test_threads_record_nothing():
    recorded = []

    def record():
        with signals.stop_requests() as requests:
            recorded.append(bool(requests))

    thread = threading.Thread(target=record)
    thread.start()
    thread.join()
    assert recorded == [False]
