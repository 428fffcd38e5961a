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
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from ebmjax import processes, rundir
from ebmjax.eval import judge, robustness
from ebmjax.eval.autoattack import apgd, driver, square
from ebmjax.eval.result import FOLDER, key, npz

SETTINGS = {
    version: {
        "version": version,
        "attacks": list(driver.VERSIONS[version]),
        "num_steps": apgd.NUM_STEPS,
        **more,
    }
    for version, more in {
        "standard": {
            "num_targets": driver.NUM_TARGETS,
            "num_queries": square.NUM_QUERIES,
        },
        "rand": {"num_draws": driver.NUM_DRAWS},
    }.items()
}
PREFIX = "autoattack_state_"


class Classifier(NamedTuple):
    """What of a run is attacked: its logits, or a random function of them."""

    name: str = ""
    version: str = "standard"
    # logits_fn -> logits_fn; one of (key, x) for the version "rand"
    transform: Callable = lambda logits_fn: logits_fn
    depends_on: tuple = ()  # the settings of the function


PLAIN = Classifier()


def refined(run, norm: str, num_steps: int, gradient: str) -> Classifier:
    """JEM-k, as PGD attacks it."""
    c = run.config.eval.attacks
    return Classifier(
        name=f"JEM-{num_steps} {gradient}",
        version="rand",
        transform=robustness.refined_classifier(run, norm, num_steps, gradient),
        depends_on=(c.refine_copies, c.refine_noise_std),
    )


def settings(num_classes: int, version: str = "standard") -> dict:
    """Those that stand beside the numbers: few classes are fewer targets."""
    found = dict(SETTINGS[version])
    if "num_targets" in found:
        found["num_targets"] = min(driver.NUM_TARGETS, num_classes - 1)
    return found


def autoattack(
    target: robustness.Target, norm: str, classifier: Classifier = PLAIN
) -> list[dict]:
    """The accuracy at each eps: rows as in `robustness`, with more about each."""
    c = target.run.config.eval.attacks
    eps_list = robustness.with_texts(c[f"autoattack_eps_{norm}"], norm)
    return [_row(target, classifier, norm, eps, text) for eps, text in eps_list]


def _row(target, classifier, norm, eps, text):
    run, c, version = target.run, target.run.config.eval.attacks, classifier.version
    title = " ".join(filter(None, ("AutoAttack", classifier.name, norm, text)))
    random_key, started = key(run, title), time.monotonic()
    on_batch = functools.partial(_on_batch, run, classifier.transform)
    logits, reasons = driver.clean_logits(
        random_key, on_batch, target.x, c.batch_size, version=version
    )
    store = _Store(target, classifier, norm, text, logits)
    state, before = store.read(driver.initial_state(logits, target.labels))
    for after, _, _ in driver.run(
        random_key,
        on_batch,
        state,
        target.x,
        target.labels,
        norm=norm,
        eps=2 * eps,
        version=version,
        logits=logits,
        batch_size=c.batch_size,
        progress=lambda attack: target.progress(f"{title}: {attack}"),
    ):
        state = after
        store.write(state, before + time.monotonic() - started)
    steps = driver.steps(version, logits.shape[-1])
    reasons += driver.doubts(state, steps)
    for reason in reasons:
        logging.warning("%s: %s", title, reason)
    accuracies = driver.accuracies(state, steps)
    row = {"eps": eps, "eps_text": text, "accuracy": list(accuracies.values())[-1]}
    seconds = round(before + time.monotonic() - started, 1)
    row |= {"accuracies": accuracies, "seconds": seconds, "warnings": reasons}
    judged = c.judge and classifier == PLAIN
    return _with_judge(target, norm, row) if judged else row


def _on_batch(run, transform, fn, *arrays):
    return run.map(_of_model(transform, fn), *arrays, batch_size=len(arrays[0]))


@functools.lru_cache(maxsize=64)
def _of_model(transform, fn):
    return lambda model, key, *arrays: fn(transform(model.logits), *arrays)


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
    """The file of one classifier, norm and eps."""

    def __init__(self, target, classifier, norm, text, logits):
        name = "_".join(filter(None, (classifier.name, norm, text)))
        name = "".join(x if x.isalnum() or x in ".-" else "_" for x in name)
        self._path = rundir.folder(target.run.workdir) / FOLDER / f"{PREFIX}{name}.npz"
        settings = _depends_on(target, classifier, norm, text, logits)
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


def _depends_on(target, classifier, norm, text, logits):
    run = target.run
    return SETTINGS[classifier.version] | {
        "classifier": [classifier.name, *classifier.depends_on],
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
