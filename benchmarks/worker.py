"""A process that takes its turn: it says what it did and how long that took."""

import json
import resource
import sys
import time
from collections.abc import Callable


def serve(run: Callable[[int], None], **ready) -> None:
    """Answers each line "N" of standard input with the times of N steps.

    `run(N)` must not return before the work is done. `ready` is said first.
    """
    _say(ready)
    for line in sys.stdin:
        wall, cpu = time.perf_counter(), cpu_seconds()
        run(int(line))
        _say(
            {
                "wall": (time.perf_counter() - wall) / int(line),
                "cpu": (cpu_seconds() - cpu) / int(line),
                "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            }
        )


def cpu_seconds() -> float:
    """User and system seconds of all threads."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _say(message):
    print(json.dumps(message), flush=True)
