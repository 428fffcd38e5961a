"""The out-of-distribution sets of `eval.ood.sets`: synthetic ones, and data sets."""

import functools
import logging
from collections.abc import Sequence

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
        if name == "constant" and not has_images(run):
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
    noise = (_make_images if has_images(run) else _make_vectors)(run, name, test)
    if noise is not None:
        return noise
    *size, channels = run.image_shape if has_images(run) else (None,)
    x = data.load_split(
        name,
        data_dir=run.config.data.data_dir or None,
        size=tuple(size) or None,
        channels=channels,
    ).image[: run.config.eval.ood.num_images]
    if not len(x):
        raise ValueError(f"{name} has no examples")
    if (x.shape[1:], x.dtype) != (test.shape[1:], test.dtype):
        raise ValueError(
            f"{name} has examples of {x.dtype} {x.shape[1:]}, expected {test.dtype}"
            f" {test.shape[1:]} as the test set has"
        )
    if x.dtype != np.uint8 and not np.isfinite(x).all():
        raise ValueError(f"{name} has numbers that are not finite")
    return x


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
