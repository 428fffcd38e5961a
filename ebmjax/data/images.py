"""Images as uint8 arrays: decoded, brought to one size, read from files."""

import io
import zipfile
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

_MODES = {1: "L", 3: "RGB", 4: "RGBA"}  # Pillow's names for numbers of channels


class Dataset(NamedTuple):
    image: np.ndarray  # uint8 [N, H, W, C]
    label: np.ndarray  # int32 [N]; -1 where there is none

    def take(self, index) -> "Dataset":
        return Dataset(self.image[index], self.label[index])


def resize(image, size, channels) -> np.ndarray:
    """uint8 [N, H, W, C] -> uint8 [N, *size, channels]; an int `size` is a square.

    Images are cropped about the centre to the proportions of `size`, then scaled
    with Pillow's antialiased bilinear filter. Grey is repeated to make RGB, and RGB
    becomes grey by luma. Raises ValueError unless `channels` is 1, 3 or 4.
    """
    size = checked_size(size, channels)
    if image.shape[1:] == (*size, channels):
        return image
    pairs = ((pixels(x, size, channels), -1) for x in image)
    return collect(pairs, len(image), "the array").image


def read_npz(path) -> Dataset:
    try:
        with open(path, "rb") as file, np.load(file) as archive:
            arrays = dict(archive)
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise OSError(f"{path} cannot be read as .npz: {error}") from error
    image = arrays.get("image", arrays.get("x"))
    if image is None or image.dtype != np.uint8 or image.ndim not in (3, 4):
        found = {key: f"{x.dtype} {x.shape}" for key, x in arrays.items()}
        raise ValueError(
            f"{path} needs image (or x), uint8 [N, H, W] or [N, H, W, C], has {found}"
        )
    label = arrays.get("label", arrays.get("y", np.full(len(image), -1)))
    if label.shape != image.shape[:1]:
        raise ValueError(f"{path}: {len(image)} images, but labels {label.shape}")
    image = image.reshape(*image.shape[:3], -1)  # [N, H, W] gets its one channel
    return Dataset(image, label.astype(np.int32))


def read_folder(path, size, channels) -> Dataset:
    suffixes = Image.registered_extensions()
    files = sorted(f for f in path.rglob("*") if f.suffix.lower() in suffixes)
    if not files:
        raise FileNotFoundError(f"{path} is not a folder with images in it")

    def pairs():
        for file in files:
            try:
                yield pixels(file, size, channels), -1
            except (OSError, SyntaxError) as error:
                raise OSError(f"{file} cannot be read: {error}") from error

    return collect(pairs(), len(files), path)


def checked_size(size, channels):
    """`size` as a pair, or None."""
    if channels not in (None, *_MODES):
        raise ValueError(f"channels must be 1, 3 or 4, not {channels}")
    return (size, size) if isinstance(size, int) else size


def pixels(image, size, channels) -> np.ndarray:
    """The file or bytes of an image, or [H, W, C], -> uint8 [*size, channels]."""
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    else:
        image = Image.open(io.BytesIO(image) if isinstance(image, bytes) else image)
    with image:
        image = image.convert(_MODES[channels])
    if size is not None:
        image = ImageOps.fit(image, size[::-1], Image.Resampling.BILINEAR)
    pixels = np.asarray(image)
    return pixels if channels > 1 else pixels[..., None]


def collect(pairs: Iterable, num, source) -> Dataset:
    """`num` pairs of uint8 [H, W, C] and label -> Dataset."""
    image, label = None, np.empty(num, np.int32)
    for i, (pixels, label[i]) in enumerate(pairs):
        if image is None:
            image = np.empty((num, *pixels.shape), np.uint8)
        if pixels.shape != image.shape[1:]:
            raise ValueError(
                f"images of {source} differ in size ({image.shape[1:]}, "
                f"{pixels.shape}): load_split(..., size=) brings them into line"
            )
        image[i] = pixels
    if image is None:
        raise ValueError(f"{source} holds no images")
    return Dataset(image, label)
