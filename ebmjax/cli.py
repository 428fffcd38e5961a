"""What the command-line programs share: flags, errors in one sentence, set-up."""

import ctypes
import functools
import logging
import os
import pathlib
import re
import sys
import traceback
from collections.abc import Callable
from typing import Any

from absl import flags
from absl import logging as absl_logging

from ebmjax import config
from ebmjax.config import Config
from ebmjax.config_file import OVERRIDE, sentence
from ebmjax.config_file import load_config as load_config
from ebmjax.config_file import override as override
from ebmjax.config_file import recipe_of as recipe_of
from ebmjax.config_file import unexpected as unexpected

# Mistakes of the user and failures of the machine end in one sentence; any other
# exception is a defect of the program and ends it with a traceback.
USER_ERRORS = (ValueError, OSError, RuntimeError, ImportError)


def parse(argv: list[str]) -> list[str]:
    """absl's parser of flags, which ends the program in one sentence on an error.

    Overrides of the config, --config.key=value, are no flags: they follow the
    positional arguments in what is returned, for `load_config`.
    """
    rest, overrides = _split_overrides(argv)
    try:
        return flags.FLAGS(rest) + overrides
    except flags.UnrecognizedFlagError as error:
        near = config.nearest(error.flagname, flags.FLAGS)
        sys.exit(f"error: {unexpected(f'--{error.flagname}')}{near}")
    except flags.Error as error:
        sys.exit(f"error: {' '.join(str(error).split())}")


def _split_overrides(argv):
    """All other arguments, and the overrides in the form --config.key=value."""
    rest, overrides, arguments = [], [], iter(argv)
    for argument in arguments:
        match = OVERRIDE.fullmatch(argument)
        if match is None:
            rest.append(argument)
            continue
        negated, key, text = match.groups()
        if text is None and (negated or isinstance(_default(key), bool)):
            text = "false" if negated else "true"
        elif text is None:  # --config.key value
            text = next(arguments, "")
        overrides.append(f"--config.{key}={text}")
    return rest, overrides


def _default(key):
    return config.KEYS[key].default if key in config.KEYS else None


def report_errors(main: Callable) -> Callable:
    """`main`, whose `USER_ERRORS` end the program in one sentence and with exit code 1.

    With --v=1 they show their traceback.
    """

    @functools.wraps(main)
    def wrapped(argv):
        verbose = flags.FLAGS["v"].value > 0
        configure_logging(verbose)
        try:
            main(argv)
        except (Exception, KeyboardInterrupt) as error:
            if verbose or not isinstance(error, USER_ERRORS):
                _exit_if_distributed(traceback.format_exc())
                raise
            _exit_if_distributed(f"error: {sentence(error)}")
            sys.exit(f"error: {sentence(error)}")

    return wrapped


def configure_logging(verbose: bool) -> None:
    """Logs to stderr: the messages of ebmjax, and errors of the libraries.

    If `verbose`, those of ebmjax from DEBUG on and those of libraries from INFO on.
    """
    absl_logging.set_verbosity("info" if verbose else "error")
    # absl has put a handler of its own there, for what is logged through absl.
    level = logging.DEBUG if verbose else logging.INFO
    logging.basicConfig(level=level, format="%(message)s", force=True)

    def is_wanted(record):
        if record.name == "root":  # ebmjax
            return True
        if verbose:
            return record.levelno >= logging.INFO
        # What matters to ebmjax is raised there too; asyncio repeats it.
        record.exc_info = None
        return record.levelno >= logging.ERROR and record.name != "asyncio"

    (handler,) = logging.getLogger().handlers
    handler.addFilter(is_wanted)
    if not verbose:  # after a write that failed, threads of orbax fail as well
        sys.unraisablehook = lambda unraisable: None


def _exit_if_distributed(text):
    """Ends this process at once if it is one of several, which would wait for it."""
    # Unless it has been imported there are no others, and to import it takes seconds.
    processes = sys.modules.get("ebmjax.processes")
    if processes is None or not processes.several():
        return
    print(
        f"{text.rstrip()}\nThis was process {processes.index()} of several. If another"
        " one failed first, its output says why. Start all of them again to resume from"
        " the last checkpoint.",
        file=sys.stderr,
    )
    processes.exit_immediately(1)


def load_run(
    workdir: str,
    *,
    data_dir: str | None = None,
    config: str | None = None,
    **which: Any,
) -> Any:
    """`runs.load` for a program: `data_dir` is a path as typed, and `config` the config
    file whose get_recipe(c) the run was trained with."""
    from ebmjax import hub, rundir, runs

    location = hub.locate(workdir)
    c = rundir.read_config(location.folder)
    if data_dir:
        c.data.data_dir = str(rundir.expand(data_dir))
    recipe = recipe_of(config, c) if config else None
    return runs.load_with_config(location, c, recipe=recipe, **which)


def default_workdir(config: str) -> str:
    """configs/jem_cifar10.py:small -> runs/jem_cifar10-small."""
    if config.endswith(".json"):
        raise ValueError(f"--workdir is missing: --config={config} does not name a run")
    name, variant = re.fullmatch(r"(?:.*/)?(.*?)(?:\.py)?(?::(.*))?", config).groups()
    return f"runs/{name}-{variant}" if variant else f"runs/{name}"


def echo(text: str) -> None:
    """Prints `text`, with "?" for characters that the encoding of stdout lacks."""
    encoding = sys.stdout.encoding or "utf-8"
    print(text.encode(encoding, "replace").decode(encoding))


def launch_flags() -> None:
    """Defines the flags that `start` reads."""
    flags.DEFINE_bool(
        "distributed",
        None,
        "join the processes of all hosts; detected under SLURM, Open MPI, GKE and with"
        " JAX_NUM_PROCESSES, required on a TPU pod",
    )
    flags.DEFINE_integer(
        "join_timeout", 300, "seconds to wait for the other processes", lower_bound=1
    )


def start(settings: Config, *, sizes: tuple[int, ...] = ()) -> None:
    """Sets up devices, processes, precision and the compilation cache.

    `settings` is `config.parallel`; `sizes` must divide over the devices. Call it
    before any other work with JAX.
    """
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


def set_up_jax() -> None:
    """Sets up the compilation cache, and an allocator that keeps freed memory."""
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
