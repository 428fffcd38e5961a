"""Trained models written as files, each by what the ending of its path says."""

import logging
import os
import pathlib
import re
from typing import Any

import jax
import numpy as np

import ebmjax
from ebmjax import config, portable, rundir, runs
from ebmjax.eval import evaluate as evaluation
from ebmjax.eval import result
from ebmjax.eval.result import to_json
from ebmjax.export import card
from ebmjax.export.program import to_jax

PROGRAM, WEIGHTS = ".jaxexport", ".safetensors"
QUANTILES = (0.01, 0.05, 0.5, 0.95, 0.99)
NUM_CHAINS = 400  # samples of the replay buffer in a portable folder
NUM_MEASURED = 5_000  # examples whose log p(x) gives the quantiles


def save(run: runs.Run, to: str | os.PathLike, **options: Any) -> None:
    """Writes what the ending of `to` says: ``.jaxexport`` by `to_jax`,
    ``.safetensors`` by `to_safetensors`, ``/`` or no ending by `to_folder`, which takes
    the `options`.

    Raises ValueError for another ending.
    """
    text = os.fspath(to)
    suffix = pathlib.PurePath(text).suffix
    is_folder = text.endswith("/") or not suffix or os.path.isdir(text)
    if not is_folder and suffix not in (PROGRAM, WEIGHTS):
        raise ValueError(
            f"{text} ends in {suffix!r}; expected {PROGRAM}, {WEIGHTS}, or a / at the"
            " end for a folder"
        )
    if is_folder:
        to_folder(run, text, **options)
    elif suffix == PROGRAM:
        to_jax(run, text, log_density_quantiles(run))
    else:
        to_safetensors(run, text)


# A folder


def to_folder(
    run: runs.Run,
    folder: str | os.PathLike,
    *,
    address: str | None = None,
    num_chains: int = NUM_CHAINS,
    note: str = "",
) -> None:
    """Writes a portable folder, which `ebmjax.load` reads.

    `address` is what the model card tells to load, the folder by default; `note` goes
    into the card, such as a remark on the data. Of the replay buffer the folder holds
    `num_chains` samples, evenly from all classes if it is class-conditional. Paths of
    this machine are shortened to their last part. Raises ValueError if the folder
    holds a run, OSError if it cannot be written.
    """
    c = _portable_config(run)
    evaluated = result.read(run.workdir)
    evaluated = _without_folders(evaluated) if evaluated else {}
    numbers = evaluated | {"run": _without_folders(evaluation.describe(run))}
    about = metadata(run)
    files = {
        rundir.CONFIG: config.to_json(c),
        portable.WEIGHTS: portable.weights_to_bytes(variables(run), about),
    }
    if evaluated:
        files[portable.EVAL] = to_json(numbers)
    if run.buffer is not None and num_chains:
        samples = _samples(run, num_chains)
        files[portable.CHAINS] = portable.chains_to_bytes(samples, run.num_blocks)
        if result.has_images(run):
            files[portable.PICTURE] = _picture(run, samples)
    address = address or rundir.folder(folder).name
    files[portable.CARD] = card.write(run, about, numbers, files, address, note)
    portable.write(folder, files)


def metadata(run: runs.Run) -> dict[str, Any]:
    """What a file of weights says about itself: the keys of `portable.KEYS`."""
    assert run.facts is not None  # those of a trained run
    facts = run.facts._asdict()
    return {
        "version": ebmjax.__version__,
        "step": run.step,
        "ema": run.ema,
        "recoveries": run.recoveries,
        "skipped": run.skipped,
        "facts": facts | {"own": list(facts["own"])},
        "log_density": log_density_quantiles(run),
    }


def variables(run: runs.Run) -> dict[str, Any]:
    """{"params": ..., other collections of the network} as NumPy arrays."""
    params, model_state = jax.device_get(run.model.variables)
    return {"params": params, **model_state}


def log_density_quantiles(run: runs.Run) -> dict[str, Any] | None:
    """Quantiles of log p(x) + log Z over validation data, to recognise unusual inputs.

    {"split", "num", "quantiles": {"0.01": nats, ...}}. Without a validation set these
    are of training data. Those of a portable folder are stored; None where there are
    neither these nor the data.
    """
    if run.quantiles is not None:
        return run.quantiles
    try:
        splits = run.splits()
    except (OSError, ValueError, ImportError) as error:
        logging.warning("no quantiles of log p(x) without the data: %s", error)
        return None
    name = "validation" if len(splits.valid.label) else "training"
    x = splits.valid.image if name == "validation" else splits.train.image
    x = x[:NUM_MEASURED]
    values = np.quantile(run.log_density(x), QUANTILES)
    return {
        "split": name,
        "num": len(x),
        "quantiles": dict(zip(map(str, QUANTILES), values.tolist(), strict=True)),
    }


def _samples(run, num):
    """At most `num` of the replay buffer, as many from each block, in their order."""
    blocks = run.buffer.reshape(run.num_blocks, -1, *run.image_shape)
    each = max(1, num // run.num_blocks)
    slots = np.linspace(0, blocks.shape[1] - 1, min(each, blocks.shape[1]))
    samples = blocks[:, np.round(slots).astype(int)]
    samples = samples.reshape(-1, *run.image_shape)
    if result.has_images(run):
        return result.to_uint8(samples)
    return samples.astype(np.float32)


def _picture(run, samples):
    """A PNG of 100 samples, of class-conditional ones with a column for each class."""
    if run.num_blocks == 1:
        return result.picture(samples[:100], result.COLUMNS)
    blocks = samples.reshape(run.num_blocks, -1, *samples.shape[1:])
    blocks = blocks[: result.COLUMNS, : result.COLUMNS]
    return result.picture(
        blocks.swapaxes(0, 1).reshape(-1, *samples.shape[1:]), len(blocks)
    )


# Names without the directories of a machine

DIRECTORIES = re.compile(r"(?<![\w./])(?:~|\.{1,2})?/(?:[^/\s'\",;()]+/)+")
PATHS = """
    data.name data.outliers eval.ood.sets eval.ood.near eval.ood.far eval.shift.folder
    eval.samples.extractor
""".split()


def _portable_config(run):
    c = run.config.copy_and_resolve_references()
    c.data.data_dir = ""
    c.eval.ema = run.ema
    values = config.flatten(c)
    for key in PATHS:
        value = values[key]
        names = tuple(map(_name, value)) if isinstance(value, tuple) else _name(value)
        config.assign(c, key, names)
    return c


def _name(path):
    """The name of a data set, of a path its last part: photos.npz or ./photos."""
    kind = next((x for x in ("hf:", "inception:") if path.startswith(x)), "")
    path = path.removeprefix(kind)
    if not path.startswith(("/", "~", ".")):
        return kind + path
    last = path.rstrip("/").rpartition("/")[2]
    return kind + (last if ".npz" in last else f"./{last}")


def _without_folders(value: Any) -> Any:
    """JSON values, with paths in their texts shortened to the last part."""
    if isinstance(value, dict):
        return {_without_folders(k): _without_folders(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_without_folders(x) for x in value]
    return DIRECTORIES.sub("", value) if isinstance(value, str) else value


# Weights


def to_safetensors(run: runs.Run, path: str | os.PathLike) -> None:
    """Writes the variables of a run, with `metadata` as JSON in the header."""
    content = portable.weights_to_bytes(variables(run), metadata(run))
    rundir.write(rundir.expand(path), content)


def load_safetensors(path: str | os.PathLike) -> tuple[dict[str, Any], dict[str, Any]]:
    """(variables, metadata) of a file that `to_safetensors` wrote.

    ``module.apply(variables, x)`` are the logits of a Flax module like that of
    training. Raises FileNotFoundError, and ValueError for any other file.
    """
    return portable.read_weights(path)
