"""What the command-line programs share: flags, errors in one sentence, set-up."""

import ctypes
import functools
import logging
import os
import pathlib
import signal
import sys
import traceback
from collections.abc import Callable

import ml_collections
from absl import flags
from absl import logging as absl_logging

# A user's mistakes and the machine's; what else is raised is ours, with traceback.
FAULTS = (ValueError, KeyError, OSError, RuntimeError, ImportError)


def parse(argv: list[str]) -> list[str]:
    """absl's parser, but what is wrong with a config is told in one sentence."""
    try:
        return flags.FLAGS(argv)
    except (flags.Error, AttributeError, TypeError, *FAULTS) as error:
        # What a config file raises comes wrapped, its traceback in the message.
        while "Traceback" in str(error) and (error.__cause__ or error.__context__):
            error = error.__cause__ or error.__context__
        sys.exit(f"error: {_sentence(error)}")


def one_sentence(main: Callable) -> Callable:
    """`main`, ending in one sentence where it fails; --v=1 shows the place too."""

    @functools.wraps(main)
    def wrapped(argv):
        talkative = flags.FLAGS["v"].value > 0
        _show_log(talkative)
        try:
            main(argv)
        except (Exception, KeyboardInterrupt) as error:
            if talkative or not isinstance(error, FAULTS):
                _end_among_several(traceback.format_exc())
                raise
            _end_among_several(f"error: {_sentence(error)}")
            sys.exit(f"error: {_sentence(error)}")

    return wrapped


def _show_log(talkative):
    """What ebmjax logs goes to stderr, of the libraries only what is serious."""
    absl_logging.set_verbosity("info" if talkative else "error")
    # absl has put a handler of its own there, for what is logged through absl.
    logging.basicConfig(level=logging.INFO, format="%(message)s", force=True)

    def is_wanted(record):
        if record.name == "root":
            return True
        record.exc_info = None  # if it matters to us, it is raised here too
        return record.levelno >= logging.ERROR and record.name != "asyncio"

    if not talkative:
        (handler,) = logging.getLogger().handlers
        handler.addFilter(is_wanted)
        sys.unraisablehook = _without_echoes


def _without_echoes(unraisable):
    """After the first write that failed, which is told, others of orbax's fail."""
    if str(unraisable.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(unraisable)


def _end_among_several(text):
    """Ends the program here if it is one of several processes."""
    processes = sys.modules.get("ebmjax.processes")
    if processes is None or not processes.several():
        return
    print(
        f"{text.rstrip()}\nThis was process {processes.index()} of several. If another"
        " one failed first, its output says why. Start all of them again: they go on"
        " from the last checkpoint.",
        file=sys.stderr,
    )
    processes.exit_immediately(1)


def _sentence(error):
    if isinstance(error, AttributeError):  # ml_collections', around a KeyError
        return "config has no key " + str(error).strip("'").replace("\\'", "'").replace(
            "\\n", ": "
        )
    text = error.args[0] if isinstance(error, KeyError) and error.args else error
    told = isinstance(error, ValueError | KeyError | FileNotFoundError | flags.Error)
    return ("" if told else f"{type(error).__name__}: ") + " ".join(str(text).split())


def launch_flags() -> None:
    """Defines what `start` reads."""
    flags.DEFINE_bool(
        "distributed",
        None,
        "join the processes of all hosts; found out under SLURM, Open MPI, GKE and by"
        " JAX_NUM_PROCESSES, to be said on a TPU pod",
    )
    flags.DEFINE_integer(
        "join_timeout", 300, "seconds to wait for the other processes", lower_bound=1
    )


def start(settings: ml_collections.ConfigDict, *, sizes: tuple[int, ...] = ()) -> None:
    """Devices, other processes, precision and compilation cache, as `config.parallel`
    has them; before all other work with JAX. `sizes` must divide over the devices."""
    import jax

    from ebmjax import processes

    jax.config.update("jax_default_matmul_precision", settings.matmul_precision)
    processes.start(
        cpu_devices=settings.cpu_devices,
        sizes=sizes,
        distributed=flags.FLAGS["distributed"].value,
        timeout=flags.FLAGS.join_timeout,
    )
    set_up_jax()


def exit_code(number: int) -> int:
    """After an interruption: 130 for Ctrl-C, else 75 (EX_TEMPFAIL, "start again")."""
    return 130 if number == signal.SIGINT else 75


def set_up_jax() -> None:
    """The compilation cache, and an allocator that keeps what it has."""
    import jax

    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
        folder = pathlib.Path(home).expanduser() / "ebmjax"
        jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    if sys.platform == "linux":
        # XLA on a CPU asks for its whole workspace at every call, and glibc gives
        # it back to the kernel each time, page by page. What has gigabytes may be
        # given back: holes of its size are soon broken, and the heap would grow.
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(-3, 2**30)  # M_MMAP_THRESHOLD: smaller blocks are the heap's,
        libc.mallopt(-1, -1)  # M_TRIM_THRESHOLD: which keeps what it has
        libc.mallopt(-8, 1)  # M_ARENA_MAX: a thread's own arena ignores the others
