"""What an evaluation task returns, and eval.json, which keeps the results of all."""

import io
import json
import math
import types
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from ebmjax import augment, pictures, rundir

FILE, FOLDER, REPORT = "eval.json", "eval", "report.html"
COLUMNS = 10  # of a picture of many images


class Result(NamedTuple):
    numbers: dict[str, Any]  # JSON values; NumPy and JAX arrays are converted
    files: Mapping[str, bytes] = types.MappingProxyType({})  # by names in eval/


def skipped(reason: str) -> Result:
    """The result of a task that does not apply to this run, and why."""
    return Result({"skipped": reason})


class Progress:
    """Shows what a task is doing, on a progress bar or nowhere.

    `progress("test images")` shows the text and returns what `Run.map` takes as its
    `progress`: a wrapper of the iteration over batches.
    """

    def __init__(self, bar=None, task: str = ""):
        self._bar, self._task = bar, task

    def __call__(self, text: str) -> Callable[[Iterable], Iterator]:
        if self._bar is not None:
            self._bar.set_description(f"{self._task}: {text}")
        return self._batches

    def _batches(self, batches):
        for i in batches:
            if self._bar is not None:
                self._bar.set_postfix_str(f"batch {i + 1} of {len(batches)}")
            yield i
        if self._bar is not None:
            self._bar.set_postfix_str("")


# --- what tasks share ----------------------------------------------------------


def key(run, purpose: str) -> jax.Array:
    """A random key of the run's seed for this purpose, and for no other."""
    return jax.random.fold_in(
        jax.random.key(run.config.seed), zlib.crc32(purpose.encode())
    )


def has_images(run) -> bool:
    """Whether the examples are images [H, W, C], not vectors [D]."""
    return len(run.image_shape) == 3


def finite_logits(run, x: np.ndarray) -> np.ndarray:
    """`run.logits(x)`. Raises ValueError if any is NaN or infinite: no number that
    is computed from such logits means anything."""
    logits = run.logits(x)
    bad = int(np.sum(~np.isfinite(logits).all(axis=-1)))
    if bad:
        raise ValueError(
            f"the logits of {bad} of {len(x)} examples are not finite: the checkpoint"
            f" of step {run.step} has diverged; evaluate an earlier one"
            " (--eval.checkpoint)"
        )
    return logits


def to_uint8(x) -> np.ndarray:
    """[-1, 1], clipped -> uint8, on the host."""
    return np.asarray(augment.to_uint8(x))


def picture(x: np.ndarray, columns: int) -> bytes:
    """[N, H, W, C] in [-1, 1] or uint8, row by row -> PNG of small images."""
    grid = pictures.grid(np.asarray(x), columns)
    return pictures.png(grid, height=20 * grid.shape[0] // x.shape[1])


def npz(arrays: dict[str, np.ndarray]) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


# --- eval.json -----------------------------------------------------------------


def read(workdir: str) -> dict[str, Any]:
    """eval.json: {"run": ..., task: numbers, ...}; {} where there is none.

    Raises ValueError for a damaged one.
    """
    path = rundir.folder(workdir) / FILE
    if not path.exists():
        return {}
    try:
        results = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}): delete it") from error
    entries = results.values() if isinstance(results, dict) else [None]
    if not all(isinstance(entry, dict) for entry in entries):
        raise ValueError(f"{path} is not an object of objects: delete it")
    return results


def to_json(results: dict) -> str:
    """Strict JSON: what is not finite becomes null."""
    return json.dumps(_plain(results), indent=1, allow_nan=False) + "\n"


def _plain(value):
    """Dicts, lists, numbers and strings of Python's own; NaN and inf are None."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, np.ndarray | np.generic | jax.Array):
        return _plain(np.asarray(value).tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def numbers_of(results: dict, task: str) -> dict | None:
    """The numbers of a task; None if it is missing, failed or was skipped."""
    numbers = results.get(task)
    if not numbers or _error(numbers) or "skipped" in numbers:
        return None
    return numbers


def failures(results: dict, tasks: Iterable[str] | None = None) -> dict[str, str]:
    """{task, or "task: item" of it: why it failed}, in all or in some `tasks`.

    A task whose last evaluation failed counts, even if it has kept older numbers; and
    "saving" does, where the results could not be written.
    """
    failed = {}
    for name in results if tasks is None else tasks:
        failed |= dict(_failures(name, results.get(name, {})))
    if reason := results.get("run", {}).get("not_saved"):
        failed["saving"] = reason
    return failed


def _failures(name, numbers):
    if error := _error(numbers) or _error(numbers.get("last_error", {})):
        yield name, error
    for group in numbers.values():
        for item, value in group.items() if isinstance(group, dict) else ():
            if error := isinstance(value, dict) and _error(value):
                yield f"{name}: {item}", error


def _error(numbers):
    """The reason of a failure: a text, for a number called so may be a result."""
    error = numbers.get("error")
    return error if isinstance(error, str) else None


def merge(old: dict, new: dict) -> dict:
    """The entry of a task after an evaluation: `new`, but nothing good is lost.

    If `new` is an error, the numbers of `old` stay, with `new` as their
    "last_error". An item of `new` that is an error (an OOD set) keeps what `old` had
    there as its "previous".
    """
    if _error(new):
        good = not _error(old) and "skipped" not in old and old
        return old | {"last_error": new} if good else new
    return {
        group: {item: _with_previous(old, group, item, x) for item, x in items.items()}
        if isinstance(items, dict)
        else items
        for group, items in new.items()
    }


def _with_previous(old, group, item, value):
    if not isinstance(value, dict) or not _error(value):
        return value
    before = old.get(group)
    before = before.get(item) if isinstance(before, dict) else None
    if not isinstance(before, dict):
        return value
    if _error(before):
        before = before.get("previous")
    elif "step" not in before:
        before = before | {"step": old.get("step"), "settings": old.get("settings")}
    return value | {"previous": before} if before else value
