"""Evaluates a trained run: its parts, eval.json, and a table for the screen.

The only module of the evaluation that knows of runs, configs and files. Each
part is a function `(run, say) -> dict` of JSON values; `say(text)` tells whoever
waits what is being done. Fractions are in [0, 1], eps in units of [0, 1] images.
"""

import json
import logging
import math
import os
import pathlib
import time
from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from ebmjax.eval import calibration

FILE = "eval.json"
Say = Callable[[str], None]


def classification(run, say: Say) -> dict:
    """Accuracy and proper scores on the test images, as they are and, if
    `eval.noise_std` is set, under Gaussian input noise too."""
    c, test = run.config.eval, run.splits().test
    say("test images")
    result = classify(run.logits(test.image), test.label, c.num_bins)
    if c.noise_std:
        say(f"test images with noise {c.noise_std}")
        x = _noised(_floats(test.image), c.noise_std, run.config.seed)
        noised = classify(run.logits(x), test.label, c.num_bins)
        result["noised"] = {"noise_std": c.noise_std} | noised
    return result


def classify(logits: np.ndarray, labels: np.ndarray, num_bins: int) -> dict:
    """[N, K], [N] -> what one says of a classifier in five numbers."""
    probs = calibration.softmax(logits)
    result = {
        "num_images": len(labels),
        "accuracy": calibration.accuracy(logits, labels),
        "nll": calibration.nll_from_logits(logits, labels),
        "brier": calibration.brier(probs, labels),
        "ece": calibration.ece(probs, labels, num_bins),
        "num_bins": num_bins,
    }
    if logits.shape[1] >= 100:
        result["top5_accuracy"] = calibration.top_k_accuracy(logits, labels, k=5)
    return result


PARTS = {"classification": classification}


def evaluate(
    run, *, parts: Iterable[str] = tuple(PARTS), progress: bool = False
) -> dict[str, Any]:
    """Computes `parts` of a run (or of a run directory) and writes eval.json.

    Returns the whole of eval.json: parts that were there and are not asked for
    stay. A part that fails is {"error": why}; `failed` lists such parts. Every
    process of a multi-host job calls this, the first one writes. Raises
    ValueError for an unknown part, FileNotFoundError where there is no run.
    """
    parts = tuple(parts)
    for part in parts:
        if part not in PARTS:
            raise ValueError(f"no part {part!r}: there are {', '.join(PARTS)}")
    if isinstance(run, str | os.PathLike):
        from ebmjax import runs

        run = runs.load(run)
    path = pathlib.Path(run.workdir) / FILE
    results = read(run.workdir)
    results["run"] = describe(run)
    with tqdm(parts, unit="part", disable=not progress) as bar:
        for part in bar:

            def say(text, part=part):
                bar.set_description(f"{part}: {text}")

            started = time.monotonic()
            try:
                results[part] = PARTS[part](run, say)
            except Exception as error:  # whatever it is, the other parts go on
                logging.exception("evaluation: %s failed", part)
                results[part] = {"error": f"{type(error).__name__}: {error}"}
            results[part]["step"] = run.step
            results[part]["seconds"] = round(time.monotonic() - started, 1)
            if jax.process_index() == 0:
                write_atomically(path, to_json(results))
    return results


def describe(run) -> dict:
    """What stands above every report of a run."""
    c = run.config
    return {
        "name": pathlib.Path(run.workdir).resolve().name,
        "step": run.step,
        "checkpoint": c.eval.checkpoint,
        "ema": c.eval.ema,
        "data": c.data.name,
        "seed": c.seed,
        "num_classes": run.num_classes,
        "class_names": list(run.class_names),
        "objective": {k: v for k, v in c.objective.items() if v},
        "model": c.model.to_dict(),
    }


def failed(results: dict) -> list[str]:
    """The parts that ended in an error."""
    return [part for part in PARTS if "error" in results.get(part, {})]


def read(workdir) -> dict[str, Any]:
    """eval.json, {} where there is none. Raises ValueError for one that is damaged."""
    path = pathlib.Path(workdir) / FILE
    if not path.exists():
        return {}
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}): delete it") from error


def to_json(results: dict) -> str:
    """Strict JSON: what is not finite becomes null."""
    return json.dumps(_plain(results), indent=1, allow_nan=False) + "\n"


def write_atomically(path: pathlib.Path, content: str | bytes) -> None:
    """Whoever reads `path` sees the old content or the new, never a part."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    if isinstance(content, str):
        temporary.write_text(content)
    else:
        temporary.write_bytes(content)
    os.replace(temporary, path)


def table(results: dict) -> str:
    """What eval.json says, in a few lines for the screen. Fractions in %."""
    rows = []
    for part in PARTS:
        if part in results and "error" in results[part]:
            rows.append((part, "failed: " + results[part]["error"]))
    if "accuracy" in (found := results.get("classification", {})):
        rows += _classification_rows(found, "test")
        if "noised" in found:
            noised = found["noised"]
            rows += _classification_rows(noised, f"test, noise {noised['noise_std']}")
    width = max((len(name) for name, _ in rows), default=0)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def _classification_rows(found, what):
    rows = [
        (f"{what}: accuracy", f"{found['accuracy']:.2%} of {found['num_images']}"),
        (f"{what}: NLL", f"{found['nll']:.4f} nats"),
        (f"{what}: Brier", f"{found['brier']:.4f}"),
        (f"{what}: ECE", f"{found['ece']:.2%} ({found['num_bins']} bins)"),
    ]
    if "top5_accuracy" in found:
        rows.insert(1, (f"{what}: top-5 accuracy", f"{found['top5_accuracy']:.2%}"))
    return rows


def _floats(image):
    """uint8 -> float32 in [-1, 1]."""
    return np.asarray(image, np.float32) / 127.5 - 1


def _noised(x, noise_std, seed):
    return x + noise_std * np.random.default_rng(seed).standard_normal(
        x.shape, np.float32
    )


def _plain(value):
    """Dicts, lists, numbers and strings of Python's own; NaN and inf are None."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
