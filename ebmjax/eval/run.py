"""Evaluates a trained run: eval.json, pictures, report.html, a table.

The only module of the evaluation that writes files.
"""

import json
import logging
import math
import os
import time
from collections.abc import Iterable
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from ebmjax import config, plan, processes, rundir, runs
from ebmjax.eval import charts, generation, parts, report, robustness
from ebmjax.eval.summary import table

__all__ = ["PARTS", "evaluate", "failed", "read", "table"]

FILE, FOLDER, REPORT = "eval.json", "eval", "report.html"
PARTS = {
    "classification": parts.classification,
    "calibration": parts.calibrated,
    "ood": parts.out_of_distribution,
    "attacks": robustness.attacked,
    "samples": generation.sampled,
}


def evaluate(
    run: runs.Run | str | os.PathLike,
    *,
    parts: Iterable[str] = tuple(PARTS),
    progress: bool = False,
) -> dict[str, Any]:
    """Computes `parts` of a run (or of a run directory), writes eval.json, the
    pictures in eval/, and report.html.

    Returns the whole of eval.json: parts that were there and are not asked for
    stay. A part that fails is {"error": why}; `failed` lists such parts. Every
    process of a multi-host job calls this, the first one writes; what fails in one
    of them alone is raised there. Raises ValueError for an unknown part,
    FileNotFoundError where there is no run.
    """
    parts = tuple(parts)
    for part in parts:
        if part not in PARTS:
            raise ValueError(f"no part {part!r}: there are {', '.join(PARTS)}")
    if not isinstance(run, runs.Run):
        run = runs.load(os.fspath(run))
    if processes.several():
        _check_alike(run)
    results = read(run.workdir)
    results["run"] = describe(run)
    writes = jax.process_index() == 0
    with tqdm(total=len(parts), unit="part", disable=not progress or not writes) as bar:
        for part in parts:
            started = time.monotonic()
            try:
                numbers, made = PARTS[part](run, _watch(bar, part))
            except Exception as error:  # whatever it is, the other parts go on
                logging.warning("evaluation: %s failed: %s", part, error)
                logging.debug("", exc_info=True)
                if not processes.barrier():
                    raise  # the others wait for it: only its end can end them
                numbers, made = {"error": f"{type(error).__name__}: {error}"}, {}
            results[part] = numbers | {
                "step": run.step,
                "settings": settings(run, part),
                "seconds": round(time.monotonic() - started, 1),
                "files": sorted(made),
            }
            results = json.loads(to_json(results))  # as whoever reads it finds it
            processes.all_agree(True)  # that the part is done
            if writes:
                folder = rundir.folder(run.workdir) / FOLDER
                folder.mkdir(parents=True, exist_ok=True)
                for name, content in made.items():
                    rundir.write(folder / name, content)
                rundir.write(rundir.folder(run.workdir) / FILE, to_json(results))
            bar.update()
    if writes:
        draw(run.workdir)
    processes.all_agree(True)  # that all is written
    return results


def _check_alike(run):
    """Raises ValueError unless all processes have this run, and its data."""
    c = run.config
    processes.check_same("the config", config.to_json(c).encode())
    processes.check_same("the checkpoint", str(run.step).encode())
    plan.read_on_every_process(run.splits)


def draw(workdir: str) -> None:
    """Writes report.html, and its main charts as PNG, from what is in eval.json."""
    results, folder = read(workdir), rundir.folder(workdir) / FOLDER
    for name, figure in report.figures(results, folder).items():
        rundir.write(folder / f"{name}.png", charts.png(figure))
    rundir.write(rundir.folder(workdir) / REPORT, report.render(results, folder))


def _watch(bar, part):
    def watch(text):
        bar.set_description(f"{part}: {text}")

        def batches_of(batches):
            for i in batches:
                bar.set_postfix_str(f"batch {i + 1} of {len(batches)}")
                yield i
            bar.set_postfix_str("")

        return batches_of

    return watch


def describe(run: runs.Run) -> dict:
    """What stands above every report of a run."""
    c = run.config
    return {
        "name": rundir.folder(run.workdir).name,
        "step": run.step,
        "recoveries": run.recoveries,
        "checkpoint": c.eval.checkpoint,
        "ema": c.eval.ema,
        "data": c.data.name,
        "seed": c.seed,
        "class_names": list(run.class_names),
        "image_shape": list(run.image_shape),
        "objective": {k: v for k, v in c.objective.items() if v},
        "model": c.model.to_dict(),
    }


def settings(run: runs.Run, part: str) -> dict:
    """The part's own keys of config.eval, as they were."""
    c = run.config.eval
    return c[part].to_dict() if part in c else {}


def failed(results: dict) -> list[str]:
    """The parts, and OOD sets, that ended in an error."""
    found = [part for part in PARTS if "error" in results.get(part, {})]
    sets = results.get("ood", {}).get("sets", {})
    return found + [f"ood: {name}" for name in sets if "error" in sets[name]]


def read(workdir: str) -> dict[str, Any]:
    """eval.json, {} where there is none. Raises ValueError for one that is damaged."""
    path = rundir.folder(workdir) / FILE
    if not path.exists():
        return {}
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}): delete it") from error


def to_json(results: dict) -> str:
    """Strict JSON: what is not finite becomes null."""
    return json.dumps(_plain(results), indent=1, allow_nan=False) + "\n"


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
