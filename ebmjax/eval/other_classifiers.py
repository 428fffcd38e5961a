"""Classifiers of other programs, by their saved logits or as a function of JAX.

Each becomes a stand-in for a `Run`, which the tasks of the evaluation take. Saved
logits are "examples" that the network leaves as they are, so that scores which are
functions of logits need no code of their own.
"""

import dataclasses
import functools
import logging
import os
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from ebmjax import config, metrics, models, parallel, rundir, runs
from ebmjax.config import Config
from ebmjax.data import Dataset, Splits
from ebmjax.eval import feature_scores
from ebmjax.eval.result import skipped
from ebmjax.eval.tasks import TASKS, ood

NO_MODEL = "it needs the model: there are only logits"
NO_FEATURES = "the function gives logits only"
ARRAYS = "'logits' [N, K], 'labels' [N], 'valid_logits', 'valid_labels', 'ood_NAME'"


class Logits(NamedTuple):
    """Saved logits of a classifier with K classes, from any framework.

    `valid`, logits [V, K] and labels [V] of validation examples, are for the
    temperature; `ood` are {name: logits [M, K]} of out-of-distribution sets.
    """

    logits: np.ndarray  # [N, K], of the test examples; not probabilities
    labels: np.ndarray  # int [N], in 0..K-1
    valid: tuple[np.ndarray, np.ndarray] | None = None
    ood: Mapping[str, np.ndarray] = MappingProxyType({})
    name: str = "arrays"  # in the report


@dataclasses.dataclass(frozen=True, eq=False)
class Other(runs.Run):
    """A stand-in for a run."""

    about: str = ""  # what it is and of what data


@dataclasses.dataclass(frozen=True, eq=False)
class SavedLogits(Other):
    """A stand-in whose examples are logits."""

    has_model: bool = False

    def logits(self, x):
        return x


def read(path: str | os.PathLike) -> Logits:
    """The arrays of an .npz file, see `ARRAYS`; those of validation may be left out.

    Raises FileNotFoundError if there is no file, OSError if it cannot be read, and
    ValueError for other arrays in it.
    """
    try:
        with open(rundir.expand(path), "rb") as file:
            loaded = np.load(file)  # no pickles, which could run any code
            if isinstance(loaded, np.ndarray):
                raise ValueError(f"it is one array, of np.save; expected {ARRAYS}")
            arrays = dict(loaded)
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} does not exist") from None
    except Exception as error:  # a broken zip file can raise nearly anything
        raise OSError(f"{path} cannot be read as .npz: {error}") from error
    named = {k: arrays.pop(k) for k in list(arrays) if k.startswith("ood_")}
    keys = ("logits", "labels", "valid_logits", "valid_labels")
    found = {key: arrays.pop(key, None) for key in keys}
    if arrays or found["logits"] is None or found["labels"] is None:
        names = [k for k in keys if found[k] is not None] + [*named, *arrays]
        content = ", ".join(map(repr, names)) or "nothing"
        raise ValueError(f"{path} holds {content}; expected {ARRAYS}")
    valid = found["valid_logits"], found["valid_labels"]
    if (valid[0] is None) != (valid[1] is None):
        raise ValueError(
            f"{path} has one of 'valid_logits' and 'valid_labels'; expected both"
        )
    return Logits(
        found["logits"],
        found["labels"],
        valid=None if valid[0] is None else valid,
        ood={key.removeprefix("ood_"): x for key, x in named.items()},
        name=os.path.basename(path),
    )


def of_logits(
    saved: Logits,
    workdir: str | os.PathLike,
    c: Config | None = None,
) -> SavedLogits:
    """A stand-in of saved logits, whose results go to `workdir`.

    Raises ValueError for other shapes, labels that are not classes, and logits that
    are not finite; warns of probabilities.
    """
    where = saved.name
    test = _pair(saved.logits, saved.labels, f"{where}: logits", f"{where}: labels")
    num_classes = test.image.shape[1]
    valid = test.take(slice(0))
    if saved.valid is not None:
        names = f"{where}: valid_logits", f"{where}: valid_labels"
        valid = _pair(*saved.valid, *names, num_classes)
    outside = {
        name: _logits(x, f"{where}: ood_{name}", num_classes)
        for name, x in saved.ood.items()
    }
    _warn_of_probabilities(test.image, where)
    own = _config(c)
    own.eval.ood.update(sets=tuple(outside), noise_std=0.0, refine_steps=0)
    own.eval.ood.num_images = max(map(len, [test.image, *outside.values()]))
    own.eval.noise_std = 0.0
    classes = tuple(map(str, range(num_classes)))
    return _stand_in(
        SavedLogits,
        lambda x: x,
        Splits(test.take(slice(0)), valid, test, classes),
        workdir,
        own,
        about=f"saved logits on {where}",
        tasks=_tasks(outside),
        ood_sets=outside,
    )


def of_function(
    logits_fn: Callable,
    splits: Splits,
    workdir: str | os.PathLike,
    c: Config | None = None,
) -> Other:
    """A stand-in of a pure function [B, ...] -> [B, K], evaluated on `splits`."""
    name = getattr(logits_fn, "__name__", type(logits_fn).__name__)
    missing = dict.fromkeys(feature_scores.LABELS.values(), NO_FEATURES)
    return _stand_in(
        Other,
        logits_fn,
        splits,
        workdir,
        _config(c),
        about=f"the function {name} on own arrays",
        tasks={"ood": TASKS["ood"]._replace(compute=_ood_without(missing))},
    )


def describe(run: Other) -> dict[str, Any]:
    """What stands above its report, with the fields of that of a run."""
    what, _, data = run.about.partition(" on ")
    return {
        "name": rundir.folder(run.workdir).name,
        "step": run.step,
        "recoveries": 0,
        "skipped": 0,
        "checkpoint": run.config.eval.checkpoint,
        "ema": False,
        "data": data,
        "seed": run.config.seed,
        "objective": {},
        "model": {},  # another program's
        "own": [what],
    }


def _config(c):
    c = config.default() if c is None else c.copy_and_resolve_references()
    c.eval.ema = False
    c.eval.ood.num_fit = 0  # there are no features
    config.check(c)
    return c


def _stand_in(kind, logits_fn, splits, workdir, c, **fields):
    folder = rundir.folder(workdir)
    if (folder / rundir.CONFIG).exists():
        raise ValueError(
            f"{folder} is a run directory, which has an evaluation of its own; choose"
            " another --workdir"
        )

    unused: Any = None

    def apply(params, model_state, x):
        return logits_fn(x)

    return kind(
        config=c,
        workdir=str(folder),
        step=0,
        image_shape=splits.test.image.shape[1:],
        class_names=tuple(splits.class_names),
        recoveries=0,
        model=runs.Model(
            models.Network(unused, apply, unused, apply, per_example=True),
            parallel.place(({}, {})),
            splits.scaling,
        ),
        buffer=None,
        num_blocks=1,
        data=splits,
        **fields,
    )


def _tasks(outside):
    """The tasks that differ from those of a run."""
    of_inputs = ("approximate_mass", "odin")  # by gradients that logits do not have
    scores = {k: x for k, x in ood.SCORES.items() if k not in of_inputs}
    lost = [ood.SCORES[k].label for k in of_inputs]
    lost += ["refinement", *feature_scores.LABELS.values()]
    skip = functools.partial(_skip, NO_MODEL)
    compute = _ood_without(dict.fromkeys(lost, NO_MODEL), scores)
    if not outside:
        compute = functools.partial(_skip, "there are no logits of OOD sets: ood_NAME")
    of_model = ("attacks", "energies", "counterfactuals", "samples", "shift")
    changed = {"ood": compute} | dict.fromkeys(of_model, skip)
    return {k: TASKS[k]._replace(compute=fn) for k, fn in changed.items()}


def _ood_without(missing, scores=ood.SCORES):
    """The OOD task by `scores`, which says what is `missing`: {label: why}."""

    def compute(run, progress):
        result = ood.compute(run, progress, scores)
        return result._replace(numbers=result.numbers | {"missing": missing})

    return compute


def _skip(reason, run, progress):
    return skipped(reason)


def _pair(logits, labels, where, where_labels, num_classes=None):
    logits, labels = _logits(logits, where, num_classes), np.asarray(labels)
    if labels.shape != (len(logits),) or labels.dtype.kind not in "iu":
        raise ValueError(
            f"{where_labels} are {labels.dtype} {list(labels.shape)}; expected"
            f" {len(logits)} integers, one for each row of logits"
        )
    if labels.min() < 0 or labels.max() >= logits.shape[1]:
        raise ValueError(
            f"{where_labels} run from {labels.min()} to {labels.max()} for"
            f" {logits.shape[1]} classes; expected 0 to {logits.shape[1] - 1}"
        )
    return Dataset(logits, labels.astype(np.int32))


def _logits(logits, where, num_classes=None):
    logits = np.asarray(logits)
    columns = num_classes or "K > 1"
    wrong = logits.ndim != 2 or not len(logits) or logits.shape[1] < 2
    if wrong or num_classes not in (None, logits.shape[1]):
        raise ValueError(
            f"{where} has shape {list(logits.shape)}; expected [N, {columns}]"
        )
    if logits.dtype.kind not in "fiu":
        raise ValueError(f"{where} are {logits.dtype}; expected floats")
    with np.errstate(over="ignore"):
        finite = np.isfinite(logits.astype(np.float32)).all(axis=-1)
    if bad := int(np.sum(~finite)):
        raise ValueError(
            f"{where}: {bad} of {len(logits)} rows are not finite in float32; leave out"
            " such examples, or correct the model"
        )
    return logits.astype(np.float64 if logits.dtype == np.float64 else np.float32)


def _warn_of_probabilities(logits, where):
    try:
        metrics.check_probs(logits)
    except ValueError:
        return
    logging.warning(
        "%s: the rows of logits are probabilities, which sum to 1; save the logits"
        " before softmax, for temperature and log p(x) are of these",
        where,
    )
