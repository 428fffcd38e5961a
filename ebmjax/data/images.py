"""Images as uint8 arrays: decoded from files and bytes, brought to one size."""

import io
import operator
from collections.abc import Iterable
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageOps

MODES = {1: "L", 3: "RGB", 4: "RGBA"}  # Pillow's names by the number of channels
_GREY = ("1", "L", "LA", "La")


def check_size(size: Any, channels: int | None = None) -> tuple[int, int] | None:
    """`size` as (height, width); None for None and 0. An integer is a square.

    Raises ValueError for sizes that are not positive and for `channels` other than
    None, 1, 3 and 4.
    """
    if channels is not None and channels not in MODES:
        raise ValueError(f"channels must be 1, 3 or 4, not {channels}")
    if size is None or (np.ndim(size) == 0 and size == 0):
        return None
    pair = (size, size) if np.ndim(size) == 0 else size
    try:
        height, width = map(operator.index, pair)
    except (TypeError, ValueError):
        raise ValueError(f"size must be an integer or two, not {size!r}") from None
    if min(height, width) <= 0:
        raise ValueError(f"size must be positive, not {size}")
    return height, width


def decode(file: Any, size=None, channels: int | None = None) -> np.ndarray:
    """The image in a file, a path or bytes -> uint8 [H, W, channels].

    `size` (height, width) does what `resize` does. Without `channels`, grey images
    have 1 and all others 3. The EXIF orientation is applied, transparency is blended
    with white unless `channels` is 4, and 16-bit grey is divided by 257. Raises
    OSError for what cannot be decoded, for 32-bit pixels, whose range no file tells,
    and for a size beyond Pillow's limit against decompression bombs.
    """
    file = io.BytesIO(file) if isinstance(file, bytes) else file
    try:
        with Image.open(file) as image:
            if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
                image = ImageOps.exif_transpose(image)
            return _to_array(image, size, channels)
    # Decoders of broken files raise whatever their parsers run into.
    except Exception as error:
        raise OSError(str(error) or type(error).__name__) from error


def resize(image: np.ndarray, size, channels: int) -> np.ndarray:
    """uint8 [N, H, W, C] -> uint8 [N, *size, channels]; an integer size is a square.

    Images are cropped about the centre to the proportions of `size`, then scaled
    with Pillow's antialiased bilinear filter. Grey is repeated to make RGB, RGB
    becomes grey by luma, and transparency is blended with white. Raises ValueError
    unless `channels` is 1, 3 or 4.
    """
    size = check_size(size, channels)
    if image.shape[1:] == (*size, channels):
        return image
    out = np.empty((len(image), *size, channels), np.uint8)
    for i, x in enumerate(image):
        out[i] = fit(x, size, channels)
    return out


def fit(image: np.ndarray, size=None, channels: int | None = None) -> np.ndarray:
    """`resize` for one image, uint8 [H, W, C]; what is None remains as it is."""
    channels = channels or image.shape[-1]
    if size in (None, image.shape[:2]) and channels == image.shape[-1]:
        return image
    image = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    return _to_array(image, size, channels)


def stack(images: Iterable[np.ndarray], num: int, source: str) -> np.ndarray:
    """`num` images, uint8 [H, W, C] -> uint8 [num, H, W, C].

    Where grey and colour are mixed, all are made RGB. Raises ValueError for images
    of different sizes.
    """
    out = None
    for i, image in enumerate(images):
        if out is None:
            out = np.empty((num, *image.shape), np.uint8)
        if image.shape[:2] != out.shape[1:3]:
            sizes = " and ".join(f"{x[0]}x{x[1]}" for x in (out.shape[1:], image.shape))
            raise ValueError(
                f"images of {source} differ in size ({sizes}): set data.image_size"
                " (size= in Python) to scale them to one"
            )
        if image.shape[2] == 3 and out.shape[3] == 1:
            out = np.repeat(out, 3, axis=3)
        out[i] = image
    if out is None:
        raise ValueError(f"{source} holds no images")
    return out


def _to_array(image, size, channels):
    image = _convert(image, channels)
    if size is not None and size != image.size[::-1]:
        image = ImageOps.fit(image, size[::-1], Image.Resampling.BILINEAR)
    array = np.asarray(image)
    return array if array.ndim == 3 else array[..., None]


def _convert(image, channels):
    """Brings an image of any mode to that of `channels`."""
    if image.mode in ("I", "F"):
        kind = {"I": "integers", "F": "floats"}[image.mode]
        raise ValueError(
            f"its pixels are 32-bit {kind}, whose range is not known; save it with 8 or"
            " 16 bits a channel"
        )
    if image.mode.startswith("I;16"):
        grey = np.asarray(image).astype(np.float32) / 257  # 65535 -> 255
        image = Image.fromarray(np.rint(grey).astype(np.uint8))
    if channels is None:
        channels = 1 if image.mode in _GREY else 3
    if channels != 4 and image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image if image.mode == MODES[channels] else image.convert(MODES[channels])
