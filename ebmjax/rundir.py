"""A run directory: its path, its files, its lock and its config.

It is a local path or in a bucket, gs://bucket/run, which is read and written through
gcsfs. A file in a bucket appears whole or not at all, but it cannot be appended to,
nor locked.
"""

import contextlib
import importlib.util
import logging
import os
import uuid
from collections.abc import Iterator

import filelock
import jax
from etils import epath

from ebmjax import config
from ebmjax.config import Config

BUCKET = "gs://"
CONFIG = "config.json"
CHECKPOINTS = "checkpoints"
LOCK = ".lock"

# Paths


def expand(path: str | os.PathLike) -> epath.Path:
    """A user's path, absolute and with `~` expanded; a bucket's as it is.

    Raises ValueError if the path is empty or names the home of an unknown user.
    """
    text = os.fspath(path)
    if not text:
        raise ValueError("the path is empty")
    if in_bucket(text):
        # With TensorFlow installed, etils would import it, which takes seconds.
        os.environ.setdefault("EPATH_USE_TF", "false")
        return epath.Path(text)  # `resolve` would make it the local folder ./gs:
    expanded = os.path.expanduser(text)
    if expanded.startswith("~"):
        user = expanded.split(os.sep)[0]
        raise ValueError(
            f"{text}: {user} has no home directory; write ./{text} for a local folder"
            " of that name"
        )
    return epath.Path(os.path.abspath(expanded))


def folder(workdir: str | os.PathLike) -> epath.Path:
    """The run directory as an absolute path.

    Raises ValueError for a path in which checkpoints cannot be stored, and for a
    bucket if gcsfs is not installed.
    """
    text = os.fspath(workdir)
    scheme, separator, _ = text.partition("://")
    if separator and not in_bucket(text):
        raise ValueError(
            f"{text}: a run directory is a local path or in {BUCKET}, the storage that"
            f" orbax supports; mount {scheme}:// as a local folder"
        )
    if not in_bucket(text):
        path = expand(text)
        if os.sep == "/" and "\\" in os.fspath(path):
            raise ValueError(
                f"{path}: a run directory's path must not contain a backslash, which"
                " tensorstore reads as '/'; choose another --workdir"
            )
        return path
    if any(character in text for character in "*?["):
        raise ValueError(
            f"{text}: a run directory in a bucket must not contain any of * ? [, which"
            " gcsfs reads as a pattern; choose another --workdir"
        )
    if importlib.util.find_spec("gcsfs") is None:
        raise ValueError(
            f"{text}: a run directory in {BUCKET} needs gcsfs; install it with pip"
            " install 'ebmjax[gcs]', or mount the bucket as a folder (gcsfuse)"
        )
    return expand(text)


def in_bucket(path: str | os.PathLike) -> bool:
    return os.fspath(path).startswith(BUCKET)


# Files


def write(path: epath.Path, content: str | bytes) -> None:
    """Replaces a file atomically: a reader sees the old content or the new.

    Processes may write the same file at the same time; the last one wins.
    """
    content = content.encode() if isinstance(content, str) else content
    if in_bucket(path):
        path.write_bytes(content)
        return
    new = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        new.write_bytes(content)
        new.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            new.unlink()
        raise


def append(path: epath.Path, text: str) -> None:
    """Appends to a file, which in a bucket is written anew."""
    if in_bucket(path):
        write(path, (path.read_text() if path.exists() else "") + text)
        return
    with path.open("a") as file:
        file.write(text)


def check_writable(workdir: str | os.PathLike) -> None:
    """Creates the run directory if need be and writes a small file for a moment.

    Raises OSError if that fails. A bucket is not tried: whether objects may be
    written there shows at the first one.
    """
    path = folder(workdir)
    if in_bucket(path):
        return
    probe = path / f".writable.{uuid.uuid4().hex}"
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise OSError(
            f"{path} cannot be written ({error.strerror or error}); make it writable,"
            " or choose another --workdir"
        ) from error


# The lock and the config


@contextlib.contextmanager
def lock(path: str | os.PathLike, *, timeout: float = 0.0) -> Iterator[None]:
    """Holds an exclusive lock, by the file `path`, between processes of all hosts that
    share it.

    Raises TimeoutError if it is held elsewhere for longer than `timeout` seconds. In a
    bucket there are no locks: nothing is held there.
    """
    if in_bucket(path):
        yield
        return
    held = filelock.FileLock(os.fspath(path), timeout=timeout)
    try:
        held.acquire()
    except filelock.Timeout as error:
        raise TimeoutError(f"{path} is locked by another program") from error
    try:
        yield
    finally:
        held.release()


def read_config(workdir: str | os.PathLike) -> Config:
    """The config of the run in `workdir`.

    Raises FileNotFoundError if there is no run, ValueError for a damaged file.
    """
    path = folder(workdir) / CONFIG
    if not path.exists():
        raise FileNotFoundError(f"{workdir} is not a run directory: it has no {CONFIG}")
    try:
        return config.from_json(path.read_text())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        reason = error.args[0] if isinstance(error, KeyError) else error
        raise ValueError(f"{path} cannot be read: {reason}") from error


@contextlib.contextmanager
def lock_workdir(workdir: str | os.PathLike, c: Config) -> Iterator[dict]:
    """Makes `workdir` the directory of the run `c`, for one program at a time.

    Gives {key: (old, new)} of the keys that differ from those of the run that it holds.

    Raises ValueError if another program is training in it, which a bucket cannot
    tell, or if it holds a run whose `config.FIXED` keys differ from `c`; OSError if
    it cannot be written.
    """
    path = folder(workdir)
    is_first_process = jax.process_index() == 0
    changes = {}
    with contextlib.ExitStack() as stack:
        if is_first_process:
            check_writable(workdir)
            try:
                stack.enter_context(lock(path / LOCK))
            except TimeoutError as error:
                raise ValueError(
                    f"another program is training in {workdir}; wait until it has"
                    " ended, or choose another --workdir"
                ) from error
        if has_checkpoint(path) and (path / CONFIG).exists():
            changes = config.changes(read_config(workdir), c)
            _check_changes(workdir, changes)
        if is_first_process:
            write(path / CONFIG, config.to_json(c))
        yield changes


def has_checkpoint(path: epath.Path) -> bool:
    """Is there one in this run directory?  A first start may fail before that."""
    checkpoints = path / CHECKPOINTS
    return checkpoints.exists() and any(
        entry.name.isdigit() for entry in checkpoints.iterdir()
    )


def _check_changes(workdir, changes):
    for key, (before, now) in changes.items():
        if config.is_fixed(key):
            raise ValueError(
                f"{workdir} holds a run with config.{key}={before!r}, not {now!r};"
                " choose another --workdir"
            )
        logging.info("config.%s changes from %r to %r", key, before, now)
