"""Models by address: folders, models that come with ebmjax, and the Hugging Face Hub.

ebmjax://NAME is a folder of the package, hf://USER/NAME a repository of the Hub, which
is downloaded at its first use. Both hold the plain files of `portable`, and nothing in
them is executed.
"""

import os
import pathlib
from collections.abc import Iterable
from typing import NamedTuple

from ebmjax import portable

SHIPPED = "ebmjax://"
HUB = "hf://"
# Every subfolder that holds a model has an address.
PRETRAINED = pathlib.Path(__file__).parent / "pretrained"


class Location(NamedTuple):
    folder: str  # where the files of a model lie
    workdir: str  # where the results of an evaluation go


def locate(address: str | os.PathLike) -> Location:
    """Where the files of a model lie, after a download for hf://USER/NAME[@REVISION].

    Results are written into a run directory or a local folder itself, and for the two
    kinds of addresses into runs/ below the working directory. Raises ValueError for an
    unknown ebmjax://NAME, ImportError without `huggingface_hub`, OSError if a download
    fails.
    """
    address = os.fspath(address)
    if address.startswith(SHIPPED):
        name = address.removeprefix(SHIPPED)
        return Location(_shipped_folder(name), f"runs/ebmjax/{name}")
    if address.startswith(HUB):
        name = address.removeprefix(HUB)
        return Location(_download(name), f"runs/hf/{name}")
    return Location(address, address)


def shipped() -> list[str]:
    """The names of the models that come with ebmjax, for ebmjax://NAME."""
    return sorted(path.parent.name for path in PRETRAINED.glob(f"*/{portable.WEIGHTS}"))


def _shipped_folder(name):
    if name not in shipped():
        names = ", ".join(shipped()) or "none in this version"
        raise ValueError(
            f"{SHIPPED}{name} is not a model of ebmjax; available are: {names}"
        )
    return str(PRETRAINED / name)


def client():
    """The module `huggingface_hub`. Raises ImportError, saying what to install."""
    try:
        import huggingface_hub
    except ImportError as error:
        raise ImportError(
            f"{HUB} needs huggingface_hub; install it with pip install 'ebmjax[hf]'"
        ) from error
    return huggingface_hub


def _download(name):
    """The folder of a downloaded repository "USER/NAME" or "USER/NAME@REVISION"."""
    hub = client()
    repository, _, revision = name.partition("@")
    check_repository(repository)
    try:
        return hub.snapshot_download(
            repository, revision=revision or None, allow_patterns=list(portable.FILES)
        )
    except Exception as error:  # networks, caches and HTTP lie below this
        raise OSError(f"{HUB}{name} cannot be loaded: {_reason(error)}") from error


def push(
    folder: str | os.PathLike,
    repository: str,
    *,
    private: bool = False,
    message: str = "Upload an ebmjax model",
) -> str:
    """Uploads a portable folder to "USER/NAME", created if need be. -> its address.

    Raises ValueError if the folder holds no portable model or the name has another
    form, ImportError without `huggingface_hub`, OSError if the upload fails.
    """
    check_repository(repository)
    portable.verify(folder)
    hub = client()
    try:
        api = hub.HfApi()
        api.create_repo(repository, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=repository,
            folder_path=os.fspath(folder),
            allow_patterns=list(portable.FILES),
            # What an earlier upload had and this one has not.
            delete_patterns=_absent(folder, portable.FILES),
            commit_message=message,
        )
    except Exception as error:
        raise OSError(
            f"{folder} cannot be uploaded to {repository}: {_reason(error)}"
        ) from error
    return f"{HUB}{repository}"


def check_repository(name: str) -> None:
    """Raises ValueError unless `name` has the form USER/NAME."""
    user, _, repository = name.partition("/")
    if not user or not repository or "/" in repository:
        raise ValueError(
            f"{name!r} is not the name of a repository: expected USER/NAME"
        )


def _absent(folder: str | os.PathLike, names: Iterable[str]):
    return [name for name in names if not (pathlib.Path(folder) / name).exists()]


def _reason(error):
    """Two lines of the message: the Hub's say in the second what is missing."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:2]) or type(error).__name__
