"""The out-of-distribution sets of `eval.ood.sets`: synthetic ones, and data sets."""

import functools
import logging
import os
from collections.abc import Mapping, Sequence

import jax
import numpy as np

from ebmjax import augment, data, processes, runs
from ebmjax.eval import ood
from ebmjax.eval.result import Progress, has_images, key, to_uint8


def read_all(
    run: runs.Run, names: Sequence[str], test: np.ndarray, progress: Progress
) -> tuple[dict[str, np.ndarray], dict[str, dict]]:
    """The sets that can be read, and {name: {"error": why}} of those that cannot."""
    images, others = {}, {}
    for name in names:
        progress(f"reading {name}")
        given = name in (run.ood_sets or {})
        if name == "constant" and not has_images(run) and not given:
            others[name] = {"skipped": "only images can be of one colour"}
            continue
        try:
            read_here = functools.partial(read, run, name, test)
            x = processes.on_every_process(read_here)
            processes.check_same(name, np.ascontiguousarray(x).data)
            images[name] = x
        except Exception as error:  # decoders of damaged files raise many types
            logging.warning("OOD set %s: %s", name, error)
            logging.debug("traceback of OOD set %s", name, exc_info=True)
            others[name] = {"error": _reason(name, error)}
    return images, others


def seen_in_training(run: runs.Run, images: Mapping[str, np.ndarray]) -> list[str]:
    """Those of the sets whose examples the run saw as outliers: by their name, in any
    split, or, where the outliers were given as arrays, by one in ten images."""
    c = run.config
    if not c.objective.get("outliers"):
        return []
    given = run.data and run.data.outliers
    if not given:
        seen = _data_set(c.data.outliers)
        return [name for name in images if _data_set(name) == seen]
    outliers = {x.tobytes() for x in given.image}
    return [
        name
        for name, x in images.items()
        if np.mean([one.tobytes() in outliers for one in x]) > 0.1
    ]


def _data_set(name):
    base, _ = data.split_name(name)
    if data.source_type(base) not in (data.Folder, data.Npz):
        return base
    return os.path.realpath(os.path.expanduser(base))


def _reason(name, error):
    """What is wrong with a set, which the reason always names."""
    reason = f"{type(error).__name__}: {error}"
    if isinstance(error, ValueError | FileNotFoundError):
        reason = str(error)
    return reason if name in reason else f"{name}: {reason}"


def read(run: runs.Run, name: str, test: np.ndarray) -> np.ndarray:
    """The examples of a set, of the shape and dtype of those of `test` [N, ...].

    At most `eval.ood.num_images` of them. Raises ValueError for examples of another
    shape, and what `data.load_split` raises.
    """
    if name == "test":
        raise ValueError(
            "no set may be called 'test', which is the name of the test set"
        )
    if name in (run.ood_sets or {}):
        return run.ood_sets[name][: run.config.eval.ood.num_images]
    noise = (_make_images if has_images(run) else _make_vectors)(run, name, test)
    if noise is not None:
        return noise
    data_dir, num = run.config.data.data_dir or None, run.config.eval.ood.num_images
    return data.load_like(name, test, data_dir=data_dir, num=num).image


def _make_images(run, name, test):
    """uint8 [N, H, W, C] of a synthetic set, None for another name."""
    k_set = key(run, name)
    if name == "interpolation":
        return to_uint8(ood.interpolations(k_set, augment.to_float(test)))
    make = {
        "uniform": ood.uniform_noise,
        "gaussian": ood.gaussian_noise,
        "constant": ood.constant_images,
    }.get(name)
    return make and to_uint8(make(k_set, test.shape))


def _make_vectors(run, name, test):
    """float32 [N, D] in the units of the data: noise has the mean and the deviation of
    each coordinate, and none of their dependence."""
    k_set, shape = key(run, name), test.shape
    if name == "interpolation":
        return np.asarray(ood.interpolations(k_set, test), np.float32)
    if name == "uniform":  # of deviation 1
        x = jax.random.uniform(k_set, shape, minval=-(3**0.5), maxval=3**0.5)
    elif name == "gaussian":
        x = jax.random.normal(k_set, shape)
    else:
        return None
    scaling = run.splits().scaling
    return np.asarray(x) * np.float32(scaling.std) + np.float32(scaling.mean)
