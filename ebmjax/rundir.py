"""The files of a run directory, which is a local path or in a bucket: gs://bucket/run.

A bucket is read and written through gcsfs. What is put there appears whole or not at
all, but it cannot be appended to, nor locked.
"""

import importlib.util
import os

from etils import epath

BUCKET = "gs://"


def folder(workdir: str | os.PathLike) -> epath.Path:
    """The run directory, absolute.

    Raises ValueError for a bucket that cannot hold a run, or not without a package
    that is not there.
    """
    scheme, separator, _ = os.fspath(workdir).partition("://")
    if not separator:
        return epath.Path(workdir).resolve()
    if scheme + separator != BUCKET:
        raise ValueError(
            f"{workdir}: a run is kept in a local path or in {BUCKET}, for orbax writes"
            f" checkpoints nowhere else; mount what is in {scheme}:// as a folder"
        )
    if importlib.util.find_spec("gcsfs") is None:
        raise ValueError(
            f"{workdir}: a run in {BUCKET} needs gcsfs: pip install 'ebmjax[gcs]'; or"
            " mount the bucket as a folder (gcsfuse)"
        )
    # Where TensorFlow is installed, etils would go through it, which takes long.
    os.environ.setdefault("EPATH_USE_TF", "false")
    return epath.Path(workdir)  # resolved, it would be the local folder ./gs:


def in_bucket(path: str | os.PathLike) -> bool:
    return os.fspath(path).startswith(BUCKET)


def write(path: epath.Path, content: str | bytes) -> None:
    """Whoever reads `path` sees the old content or the new, never a part."""
    content = content.encode() if isinstance(content, str) else content
    if in_bucket(path):
        path.write_bytes(content)
        return
    new = path.with_name(path.name + ".new")
    new.write_bytes(content)
    new.replace(path)


def append(path: epath.Path, text: str) -> None:
    """Adds to a file, which in a bucket is written anew."""
    if in_bucket(path):
        write(path, (path.read_text() if path.exists() else "") + text)
        return
    with path.open("a") as file:
        file.write(text)
