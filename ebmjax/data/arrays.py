"""Checks and conversions of arrays that come from files and from users."""

import functools
import re
import zlib
from collections.abc import Iterable
from typing import Any

import numpy as np


def to_examples(x: Any, where: str) -> np.ndarray:
    """Images, uint8 [N, H, W, C], or vectors, float32 [N, D].

    Takes uint8 [N, H, W] or [N, H, W, C] with 1, 3 or 4 channels, and numbers [N, D].
    Raises ValueError, beginning with `where`, for anything else: float images have an
    unknown range, and are not converted by guesswork.
    """
    x = np.asarray(x)
    if x.ndim not in (2, 3, 4) or x.dtype.kind not in "buif":
        raise ValueError(
            f"{where} is {describe(x)}; expected images, uint8 [N, H, W] or"
            " [N, H, W, C], or vectors, float [N, D]"
        )
    if not x.size:
        raise ValueError(f"{where} is {describe(x)}, which is empty")
    if x.ndim == 2:
        return _to_vectors(x, where)
    if x.dtype != np.uint8:
        raise ValueError(
            f"{where} holds {x.dtype} images; expected uint8 in 0..255: convert images"
            " in [0, 1] with np.round(255 * x).astype(np.uint8), or those in 0..255"
            " with x.round().astype(np.uint8)"
        )
    if x.ndim == 4 and x.shape[3] not in (1, 3, 4):
        advice = "expected 1, 3 or 4 channels in the last axis"
        if x.shape[1] in (1, 3, 4):
            advice = "channels come last here: save x.transpose(0, 2, 3, 1)"
        raise ValueError(f"{where} is {describe(x)}; {advice}")
    return x if x.ndim == 4 else x[..., None]


def _to_vectors(x, where):
    with np.errstate(over="ignore"):  # reported below
        vectors = x.astype(np.float32, copy=False)
    bad = np.argwhere(~np.isfinite(vectors))
    if len(bad):
        row, column = bad[0]
        raise ValueError(
            f"{where}[{row}, {column}] is {x[row, column]}; expected finite numbers"
            f" (float32), but {len(bad)} are not"
        )
    return vectors


def to_labels(y: Any, num: int, where: str) -> np.ndarray:
    """Labels, int32 [num]; -1 marks an example without one.

    Takes integers, or floats that are whole, [num] or [num, 1]. Raises ValueError,
    beginning with `where`, for anything else.
    """
    y = np.asarray(y)
    if y.shape == (num, 1):  # as Keras stores them
        y = y[:, 0]
    if y.shape != (num,) or y.dtype.kind not in "biuf":
        raise ValueError(
            f"{where} is {describe(y)}; expected {num} integers, one an example"
        )
    valid = (y == np.rint(y)) & (y >= -1) & (y <= np.iinfo(np.int32).max)
    if not valid.all():
        at = np.argmin(valid)
        raise ValueError(
            f"{where}[{at}] is {y[at]}; expected a class number 0, 1, 2, ... (or -1 for"
            " no label)"
        )
    return y.astype(np.int32)


def numbered_classes(label: np.ndarray, where: str) -> tuple[str, ...]:
    """("0", ..., "K-1") for labels that use each of these numbers.

    Raises ValueError where one is not used, or an example has no label.
    """
    used = np.unique(label)
    if not np.array_equal(used, np.arange(len(used))):
        raise ValueError(
            f"{where} has the labels {shorten(used)}; expected each of 0, ..., K-1: "
            " renumber them with np.unique(y, return_inverse=True)[1], or give"
            " class_names"
        )
    return tuple(map(str, range(len(used))))


def parse_split(split: str) -> tuple[str, slice]:
    """ "train[10:20]" -> ("train", slice(10, 20)). Other forms remain as they are."""
    match = re.fullmatch(r"(.*)\[(-?\d*):(-?\d*)\]", split)
    if match is None:
        return split, slice(None)
    name, *bounds = match.groups()
    return name, slice(*(int(b) if b else None for b in bounds))


def describe(x: np.ndarray) -> str:
    return f"{x.dtype} {list(x.shape)}"


def shorten(values: Any) -> str:
    """The first few of `values`, for a message."""
    values = list(values)
    return ", ".join(map(str, values[:8])) + (", ..." if len(values) > 8 else "")


def check_like(name: str, x: np.ndarray, like: np.ndarray) -> None:
    """Raises ValueError unless x [M, ...] has finite examples of the kind of `like`."""
    if not len(x):
        raise ValueError(f"{name} has no examples")
    if (x.shape[1:], x.dtype) != (like.shape[1:], like.dtype):
        raise ValueError(
            f"{name} has examples of {x.dtype} {x.shape[1:]}, expected {like.dtype}"
            f" {like.shape[1:]} as the run's data have"
        )
    if x.dtype != np.uint8 and not np.isfinite(x).all():
        raise ValueError(f"{name} has numbers that are not finite")


def check_splits(splits: Any) -> None:
    """Raises ValueError, naming the field of `data.Splits`, for what is not one.

    Examples must be uint8 [N, H, W, C] or finite float32 [N, D], of one shape and kind
    in all splits, labels int32 [N] in 0..K-1 for K distinct class names, and the
    training set not empty. Vectors may have a scaling, float [D]; images have none.
    """
    names, train = splits.class_names, splits.train.image
    if not all(isinstance(name, str) for name in names) or not len(names):
        raise ValueError(f"class_names must be strings, one a class, not {names}")
    if len(set(names)) != len(names):
        raise ValueError(f"class_names must differ from each other: {names}")
    if not len(train):
        raise ValueError("train.image is empty: there is nothing to train on")
    for field in ("train", "valid", "test"):
        part = getattr(splits, field)
        _check_dataset(field, part.image, part.label, train, len(names))
    if splits.scaling is None:
        return
    for field, x in splits.scaling._asdict().items():
        if train.ndim != 2 or x.shape != train.shape[1:] or not np.isfinite(x).all():
            raise ValueError(
                f"scaling.{field} is {describe(x)}; expected finite numbers [D] for"
                f" vectors [N, D], and none for images: train.image is"
                f" {describe(train)}"
            )
    if not np.all(splits.scaling.std > 0):
        raise ValueError("scaling.std must be positive in every column")


def _check_dataset(field, image, label, train, num_classes):
    for name, x in (("image", image), ("label", label)):
        if not isinstance(x, np.ndarray):
            raise ValueError(
                f"{field}.{name} is a {type(x).__name__}, not a NumPy array"
            )
    if image.dtype != train.dtype or image.shape != (len(image), *train.shape[1:]):
        raise ValueError(
            f"{field}.image is {describe(image)}, unlike train.image,"
            f" {describe(train)}: all splits must have one shape and dtype"
        )
    if len(image) and describe(to_examples(image, f"{field}.image")) != describe(image):
        raise ValueError(
            f"{field}.image is {describe(image)}; expected uint8 [N, H, W, C] or"
            " float32 [N, D], which data.from_arrays makes"
        )
    if label.dtype != np.int32 or label.shape != image.shape[:1]:
        raise ValueError(
            f"{field}.label is {describe(label)}; expected int32 [{len(image)}]"
        )
    bad = np.flatnonzero((label < 0) | (label >= num_classes))
    if len(bad):
        raise ValueError(
            f"{field}.label[{bad[0]}] is {label[bad[0]]}; expected 0 to"
            f" {num_classes - 1}, for {num_classes} class_names"
        )


def checksum(arrays: Iterable[np.ndarray]) -> int:
    """CRC-32 of the contents of all."""
    parts = (np.ascontiguousarray(x).data for x in arrays)
    return functools.reduce(lambda crc, part: zlib.crc32(part, crc), parts, 0)
