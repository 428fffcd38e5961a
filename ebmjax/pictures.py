"""Images side by side, as PNG."""

import io
import os

import numpy as np
from etils import epath
from PIL import Image

from ebmjax import augment


def grid(x: np.ndarray, columns: int, *, gap: int = 1) -> np.ndarray:
    """x [N, H, W, C] in [-1, 1] (clipped), or uint8 -> one picture, uint8.

    C is 1 or 3. Rows fill up from the left; what is left over is white.
    """
    x = x if x.dtype == np.uint8 else np.asarray(augment.to_uint8(x))
    num, height, width, channels = x.shape
    rows = -(-num // columns)
    cells = np.full((rows * columns, height + gap, width + gap, channels), 255)
    cells[:num, :height, :width] = x
    cells = cells.reshape(rows, columns, *cells.shape[1:]).swapaxes(1, 2)
    picture = cells.reshape(rows * (height + gap), columns * (width + gap), channels)
    return picture[:-gap, :-gap].astype(np.uint8)


def png(picture: np.ndarray, *, height: int = 0) -> bytes:
    """uint8 [H, W, C] as PNG, its pixels enlarged to at least `height` of them."""
    image = Image.fromarray(picture[..., 0] if picture.shape[-1] == 1 else picture)
    scale = -(-height // image.height) if height else 1
    size = (image.width * scale, image.height * scale)
    file = io.BytesIO()
    image.resize(size, Image.Resampling.NEAREST).save(file, "PNG")
    return file.getvalue()


def save(path: str | os.PathLike, picture: np.ndarray, *, height: int = 480) -> None:
    """Writes `png(picture)` and the folders above it."""
    path = epath.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png(picture, height=height))
