"""What the command-line programs share: flags, errors in one sentence, set-up."""

import ctypes
import functools
import logging
import os
import pathlib
import signal
import sys
from collections.abc import Callable

from absl import flags
from absl import logging as absl_logging

FAULTS = (ValueError, KeyError, AttributeError, TypeError, OSError, RuntimeError)
FAULTS += (ImportError, NotImplementedError)


def parse(argv: list[str]) -> list[str]:
    """absl's parser, but what is wrong with a config is told in one sentence."""
    try:
        return flags.FLAGS(argv)
    except (flags.Error, *FAULTS) as error:
        # What a config file raises comes wrapped, its traceback in the message.
        while "Traceback" in str(error) and (error.__cause__ or error.__context__):
            error = error.__cause__ or error.__context__
        sys.exit(f"error: {_sentence(error)}")


def one_sentence(main: Callable) -> Callable:
    """`main`, ending in one sentence where it fails; --v=1 shows the place too."""

    @functools.wraps(main)
    def wrapped(argv):
        talkative = flags.FLAGS["v"].value > 0
        logging.basicConfig(level=logging.INFO, format="%(message)s")
        absl_logging.set_verbosity("info" if talkative else "error")
        try:
            main(argv)
        except FAULTS as error:
            if talkative:
                raise
            sys.exit(f"error: {_sentence(error)}")

    return wrapped


def _sentence(error):
    if isinstance(error, AttributeError):  # ml_collections', around a KeyError
        return "config has no key " + str(error).strip("'").replace("\\'", "'").replace(
            "\\n", ": "
        )
    text = error.args[0] if isinstance(error, KeyError) and error.args else error
    told = isinstance(error, ValueError | KeyError | FileNotFoundError | flags.Error)
    return ("" if told else f"{type(error).__name__}: ") + " ".join(str(text).split())


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
        # it back to the kernel each time, page by page.
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(-3, 2**31 - 1)  # M_MMAP_THRESHOLD
        libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD
