"""What a part of an evaluation hands back, and what all parts do alike."""

import io
import zlib
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from ebmjax import augment, pictures

# watch(text) tells whoever waits what is being done, and returns what `Run.map`
# takes as `progress`.
Watch = Callable[[str], Callable]
COLUMNS = 10  # of a picture of many images


class Found(NamedTuple):
    numbers: dict  # JSON values, NumPy's included
    files: dict[str, bytes]  # by the names they get in the folder eval/


def key(run, purpose: str) -> jax.Array:
    """A key of the run's seed for this purpose, and for no other."""
    return jax.random.fold_in(
        jax.random.key(run.config.seed), zlib.crc32(purpose.encode())
    )


def floats(image: np.ndarray) -> np.ndarray:
    """uint8 -> float32 in [-1, 1], on the host."""
    return np.asarray(augment.to_float(image))


def bytes_of(x) -> np.ndarray:
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
