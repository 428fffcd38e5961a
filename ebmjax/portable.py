"""A trained model in a folder of plain files, to be copied, shared and shipped.

    config.json         the config of the run, without the directories of its machine
    model.safetensors   the variables; what else `runs.load` needs is in the metadata
    chains.npz          samples of the replay buffer, if the run has one
    eval.json           the numbers of the evaluation, if there was one
    README.md           the model card, and samples.png for it
    SHA256SUMS          of the first three, as `sha256sum -c` takes it

The first three are what `load` reads, and verifies, as data; the rest is for people,
who may edit the card or evaluate again. `ebmjax.export` writes such folders.
"""

import hashlib
import io
import json
import os
import zipfile
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import safetensors
import safetensors.numpy
from flax import traverse_util

from ebmjax import rundir

WEIGHTS, CHAINS, EVAL = "model.safetensors", "chains.npz", "eval.json"
CARD, PICTURE, SUMS = "README.md", "samples.png", "SHA256SUMS"
FILES = (rundir.CONFIG, WEIGHTS, CHAINS, EVAL, CARD, PICTURE, SUMS)
READ = (rundir.CONFIG, WEIGHTS, CHAINS)  # by `load`
METADATA = "ebmjax"  # the key in the header of a safetensors file
# What a run needs beside its config and arrays; see `ebmjax.export.metadata`.
KEYS = ("version", "step", "ema", "recoveries", "skipped", "facts", "log_density")


class Model(NamedTuple):
    """What a portable folder holds beside its config."""

    params: dict[str, Any]
    model_state: dict[str, Any]
    metadata: dict[str, Any]  # `KEYS`
    chains: np.ndarray | None  # uint8 images, or float32 vectors as the network's input


def is_portable(workdir: str | os.PathLike) -> bool:
    """Whether a folder holds a portable model, and not a run that may be resumed."""
    path = rundir.folder(workdir)
    return (path / WEIGHTS).exists() and not rundir.has_checkpoint(path)


def write(workdir: str | os.PathLike, files: Mapping[str, bytes | str]) -> None:
    """Makes a portable folder of `files`, replacing the one that is there.

    Raises ValueError if the folder holds a run.
    """
    path = rundir.folder(workdir)
    if (path / rundir.CONFIG).exists() and not is_portable(path):
        raise ValueError(f"{workdir} holds a run; choose another folder")
    rundir.check_writable(path)
    files = {k: v.encode() if isinstance(v, str) else v for k, v in files.items()}
    for name in set(FILES) - set(files):
        (path / name).unlink(missing_ok=True)
    for name, content in files.items():
        rundir.write(path / name, content)
    sums = (f"{_digest(files[x])}  {x}\n" for x in READ if x in files)
    rundir.write(path / SUMS, "".join(sums))


def read(workdir: str | os.PathLike) -> Model:
    """The model in a portable folder, after the verification of its files.

    Raises ValueError for a damaged file, and for one with another checksum.
    """
    path = rundir.folder(workdir)
    verify(path)
    variables, metadata = read_weights(path / WEIGHTS)
    params = variables.pop("params", {})
    chains = _read_chains(path / CHAINS) if (path / CHAINS).exists() else None
    return Model(params, variables, metadata, chains)


# Checksums


def verify(workdir: str | os.PathLike) -> None:
    """Raises ValueError unless `READ` has the files that the folder's list of checksums
    names, and these have those checksums."""
    path = rundir.folder(workdir)
    if not (path / SUMS).exists():
        raise ValueError(f"{workdir} is not a portable model: it has no {SUMS}")
    words = (path / SUMS).read_text().split()
    sums = dict(zip(words[1::2], words[::2], strict=False))
    for name in READ:
        file = path / name
        found = _digest(file.read_bytes()) if file.exists() else None
        if found != sums.get(name):
            raise ValueError(
                f"{file} does not have the checksum that {SUMS} lists: it is missing,"
                " damaged or was changed; copy or download the folder again"
            )


def _digest(content):
    return hashlib.sha256(content).hexdigest()


# Weights


def weights_to_bytes(variables: Mapping[str, Any], metadata: dict[str, Any]) -> bytes:
    """A safetensors file of {"params": ..., other collections}, nested dictionaries of
    arrays, with JSON `metadata`. A tensor is named by its path, "params/conv1/kernel".

    Raises ValueError for variables in other containers than dictionaries.
    """
    flat = traverse_util.flatten_dict(dict(variables), sep="/")
    arrays = {}
    for name, value in flat.items():
        array = np.asarray(value)
        if array.dtype == object or isinstance(value, list | tuple):
            raise ValueError(
                f"variable {name} is a {type(value).__name__}; expected an array"
            )
        arrays[name] = np.ascontiguousarray(array).reshape(array.shape)
    return safetensors.numpy.save(arrays, {METADATA: json.dumps(metadata)})


def read_weights(path: str | os.PathLike) -> tuple[dict[str, Any], dict[str, Any]]:
    """The variables and the metadata in a safetensors file of `weights_to_bytes`.

    Raises FileNotFoundError, and ValueError for any other file.
    """
    content = rundir.expand(path).read_bytes()
    try:
        flat = safetensors.numpy.load(content)
        length = int.from_bytes(content[:8], "little")
        header = json.loads(content[8 : 8 + length])
        metadata = json.loads(header["__metadata__"][METADATA])
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path} is not a safetensors file: {error}") from error
    except KeyError as error:
        raise ValueError(f"{path} was not written by ebmjax: no {error}") from error
    if missing := set(KEYS) - set(metadata):
        raise ValueError(
            f"{path} was written by another version of ebmjax: its metadata has no"
            f" {', '.join(sorted(missing))}"
        )
    return traverse_util.unflatten_dict(flat, sep="/"), metadata


# Chains


def chains_to_bytes(samples: np.ndarray, num_blocks: int) -> bytes:
    """An .npz of samples [N, ...] in blocks, with labels [N] if blocks are classes."""
    arrays: dict[str, Any] = {"samples": samples}
    if num_blocks > 1:
        labels = np.arange(num_blocks, dtype=np.int32)
        arrays["labels"] = labels.repeat(len(samples) // num_blocks)
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


def _read_chains(path):
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as arrays:
            return arrays["samples"]
    except (ValueError, KeyError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
