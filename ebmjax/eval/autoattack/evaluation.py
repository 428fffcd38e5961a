"""AutoAttack on a run, resumable after every batch.

What has been done is kept in files of the run's eval/ folder until the whole task is
finished. A file is ignored where anything that the result depends on has changed.
"""

import functools
import io
import json
import logging
import time
import zlib

import jax
import numpy as np

from ebmjax import processes, rundir
from ebmjax.eval import judge, robustness
from ebmjax.eval.autoattack import apgd, driver, square
from ebmjax.eval.result import FOLDER, key, npz

VERSION = "standard"
SETTINGS = {
    "version": VERSION,
    "attacks": list(driver.VERSIONS[VERSION]),
    "num_steps": apgd.NUM_STEPS,
    "num_targets": driver.NUM_TARGETS,
    "num_queries": square.NUM_QUERIES,
}
PREFIX = "autoattack_state_"


def settings(num_classes: int) -> dict:
    """Those that stand beside the numbers: few classes are fewer targets."""
    return SETTINGS | {"num_targets": min(driver.NUM_TARGETS, num_classes - 1)}


def autoattack(target: robustness.Target, norm: str) -> list[dict]:
    """The accuracy at each eps: rows as in `robustness`, with more about each."""
    c = target.run.config.eval.attacks
    eps_list = robustness.with_texts(c[f"autoattack_eps_{norm}"], norm)
    return [_row(target, norm, eps, text) for eps, text in eps_list]


def _row(target, norm, eps, text):
    run, c = target.run, target.run.config.eval.attacks
    title, started = f"AutoAttack {norm} {text}", time.monotonic()
    random_key = key(run, title)
    on_batch = functools.partial(_on_batch, run)
    logits, reasons = driver.clean_logits(
        random_key, on_batch, target.x, c.batch_size, version=VERSION
    )
    store = _Store(target, norm, text, logits)
    state, before = store.read(driver.initial_state(logits, target.labels))
    for after, _, _ in driver.run(
        random_key,
        on_batch,
        state,
        target.x,
        target.labels,
        norm=norm,
        eps=2 * eps,
        logits=logits,
        batch_size=c.batch_size,
        progress=lambda attack: target.progress(f"{title}: {attack}"),
    ):
        state = after
        store.write(state, before + time.monotonic() - started)
    steps = driver.steps(VERSION, logits.shape[-1])
    reasons += driver.doubts(state, steps)
    for reason in reasons:
        logging.warning("%s: %s", title, reason)
    accuracies = driver.accuracies(state, steps)
    row = {"eps": eps, "eps_text": text, "accuracy": list(accuracies.values())[-1]}
    seconds = round(before + time.monotonic() - started, 1)
    row |= {"accuracies": accuracies, "seconds": seconds, "warnings": reasons}
    return _with_judge(target, norm, row) if c.judge else row


def _on_batch(run, fn, *arrays):
    return run.map(_of_model(fn), *arrays, batch_size=len(arrays[0]))


@functools.cache
def _of_model(fn):
    return lambda model, key, *arrays: fn(model.logits, *arrays)


def _with_judge(target, norm, row):
    """The row with "judge", or with the reason why there is none as a warning: what
    took hours is not lost where the official code fails, as for small images."""
    try:
        return row | {"judge": _judged(target, norm, row)}
    except Exception as error:
        reason = f"pyautoattack failed: {type(error).__name__}: {error}"
        logging.warning("AutoAttack %s %s: %s", norm, row["eps_text"], reason)
        return row | {"warnings": [*row["warnings"], reason]}


def _judged(target, norm, row):
    """The official numbers, and whether ours are no more than one image higher."""
    target.progress(f"{norm} {row['eps_text']}: pyautoattack on the same images")
    official = judge.official_autoattack(
        target.run.model,
        target.x,
        target.labels,
        norm=norm,
        eps=row["eps"],
        batch_size=target.run.config.eval.attacks.batch_size,
        seed=target.run.config.seed,
    )
    num_more = (row["accuracy"] - official["accuracy"]) * len(target.labels)
    return official | {"confirmed": round(num_more) <= 1}


# --- what has been done --------------------------------------------------------


class _Store:
    """The file of one norm and eps."""

    def __init__(self, target, norm, text, logits):
        name = f"{PREFIX}{norm}_{text.replace('/', '_')}.npz"
        self._path = rundir.folder(target.run.workdir) / FOLDER / name
        settings = _depends_on(target, norm, text, logits)
        self._settings = json.dumps(settings, sort_keys=True)

    def read(self, initial: driver.State) -> tuple[driver.State, float]:
        """The state, and the seconds that were spent on it; the same in all processes,
        and the initial one unless all of them read the same file."""
        content = self._content()
        try:
            processes.check_same("the state of AutoAttack", content)
        except ValueError:
            content = b""
        if not content:
            return initial, 0.0
        logging.info("AutoAttack goes on from %s", self._path)
        with np.load(io.BytesIO(content)) as file:
            state = driver.State(*(file[name] for name in driver.State._fields))
            return state, float(file["seconds"])

    def _content(self):
        """The file if it is of these settings, else nothing."""
        try:
            content = self._path.read_bytes()
            with np.load(io.BytesIO(content)) as file:
                return content if str(file["settings"]) == self._settings else b""
        except Exception:  # missing, or damaged in one of many ways
            return b""

    def write(self, state: driver.State, seconds: float) -> None:
        if jax.process_index() > 0:
            return
        rest = {"seconds": np.array(seconds), "settings": np.array(self._settings)}
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            rundir.write(self._path, npz(state._asdict() | rest))
        except OSError as error:
            logging.warning("%s cannot be written: %s", self._path, error)


def _depends_on(target, norm, text, logits):
    run = target.run
    return SETTINGS | {
        "norm": norm,
        "eps": text,
        "step": run.step,
        "ema": run.config.eval.ema,
        "seed": run.config.seed,
        "images": zlib.crc32(target.x.tobytes()),
        "labels": zlib.crc32(np.asarray(target.labels).tobytes()),
        # Which model it is; unlike logits, the same on other devices.
        "answers": zlib.crc32(logits.argmax(axis=-1).astype(np.int32).tobytes()),
    }


def forget(run) -> None:
    """Deletes the files, once the numbers they led to are known."""
    if jax.process_index() > 0:
        return
    folder = rundir.folder(run.workdir) / FOLDER
    try:
        for path in folder.glob(f"{PREFIX}*.npz"):
            path.unlink(missing_ok=True)
    except OSError as error:
        logging.warning("%s cannot be cleaned up: %s", folder, error)
