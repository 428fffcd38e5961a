"""Common corruptions of images, in five severities.

Hendrycks and Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions
and Perturbations" (ICLR 2019), with the constants of CIFAR-10-C. Those here need no
other pictures and are defined for any image set. Results are cut to uint8, not
rounded, as they are there. Noise has the law of that of CIFAR-10-C, but other values,
for it is drawn from a seed; `published` reads the files themselves.
"""

import io
import zlib
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from etils import epath
from PIL import Image
from scipy import ndimage

SEVERITIES = (1, 2, 3, 4, 5)
BATCH_SIZE = 256  # images at a time, for most corruptions need them in float64


class Corruption(NamedTuple):
    """A corruption of images, in five severities."""

    # uint8 [N, H, W, C], the constant, numpy.random.Generator -> uint8 [N, H, W, C]
    fn: Callable[[np.ndarray, float, np.random.Generator], np.ndarray]
    constants: tuple[float, ...]  # of the severities 1 to 5


def corrupt(
    name: str,
    severity: int,
    image: np.ndarray,
    *,
    seed: int = 0,
    corruptions: Mapping[str, Corruption] | None = None,
) -> np.ndarray:
    """One of the `corruptions` (`CORRUPTIONS`) of each image.  uint8 [N, H, W, C], 1 to
    5 -> uint8. They get `BATCH_SIZE` images at a time.

    Raises ValueError for a corruption that is not made here, and for an image of
    another shape or dtype that it returns.
    """
    known = CORRUPTIONS if corruptions is None else corruptions
    if name not in known:
        raise ValueError(
            f"{name} is not made here; set config.eval.shift.folder to the folder with"
            " the .npy files of CIFAR-10-C"
        )
    fn, constants = known[name]
    rng = np.random.default_rng((seed, zlib.crc32(name.encode()), severity))
    corrupted = np.empty_like(image)
    for start in range(0, len(image), BATCH_SIZE):
        part = image[start : start + BATCH_SIZE]
        changed = fn(part, constants[severity - 1], rng)
        if changed.shape != part.shape or changed.dtype != np.uint8:
            raise ValueError(
                f"corruption {name!r} returned {changed.dtype} {changed.shape},"
                f" expected uint8 {part.shape}"
            )
        corrupted[start : start + BATCH_SIZE] = changed
    return corrupted


def _to_uint8(x):
    return (np.clip(x, 0, 1) * 255).astype(np.uint8)


def gaussian_noise(image, std, rng):
    x = image / 255.0
    return _to_uint8(x + std * rng.standard_normal(x.shape))


def shot_noise(image, photons, rng):
    """A pixel of value x counts Poisson(x · photons) photons."""
    return _to_uint8(rng.poisson(image / 255.0 * photons) / photons)


def impulse_noise(image, share, rng):
    """A share of all values becomes 0 or 255, as often the one as the other."""
    u = rng.random(image.shape)
    noised = np.where(u < share / 2, 0, image)
    return np.where(u > 1 - share / 2, 255, noised).astype(np.uint8)


def gaussian_blur(image, sigma, rng):
    x = image / 255.0
    return _to_uint8(ndimage.gaussian_filter(x, (0, sigma, sigma, 0), mode="nearest"))


def brightness(image, shift, rng):
    """Adds to the value of HSV, the largest of the channels; the others keep their
    ratio to it, which is what keeps hue and saturation."""
    x = image / 255.0
    value = x.max(axis=-1, keepdims=True)
    brighter = np.clip(value + shift, 0, 1)
    ratio = np.divide(x, value, out=np.ones_like(x), where=value > 0)
    return _to_uint8(ratio * brighter)


def contrast(image, factor, rng):
    """Towards the mean of each channel of each image."""
    x = image / 255.0
    mean = x.mean(axis=(1, 2), keepdims=True)
    return _to_uint8(mean + factor * (x - mean))


def pixelate(image, factor, rng):
    """Fewer pixels, each the mean of those that it covers."""
    height, width = image.shape[1:3]
    small = max(int(width * factor), 1), max(int(height * factor), 1)

    def apply(picture):
        reduced = picture.resize(small, Image.Resampling.BOX)
        return reduced.resize((width, height), Image.Resampling.BOX)

    return _each(image, apply)


def jpeg_compression(image, quality, rng):
    def apply(picture):
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=quality)
        return Image.open(file)

    return _each(image, apply)


def _each(image, apply):
    """A function of a picture of Pillow, of each image. Grey and RGB images stay so;
    the channels of others are pictures of their own."""
    if image.shape[-1] not in (1, 3):
        channels = [_each(image[..., i, None], apply) for i in range(image.shape[-1])]
        return np.concatenate(channels, axis=-1)
    squeezed = image[..., 0] if image.shape[-1] == 1 else image
    changed = [np.asarray(apply(Image.fromarray(x))) for x in squeezed]
    return np.stack(changed).reshape(image.shape) if changed else image


CORRUPTIONS = {
    "gaussian_noise": Corruption(gaussian_noise, (0.04, 0.06, 0.08, 0.09, 0.10)),
    "shot_noise": Corruption(shot_noise, (500, 250, 100, 75, 50)),
    "impulse_noise": Corruption(impulse_noise, (0.01, 0.02, 0.03, 0.05, 0.07)),
    "gaussian_blur": Corruption(gaussian_blur, (0.4, 0.6, 0.7, 0.8, 1.0)),
    "brightness": Corruption(brightness, (0.05, 0.1, 0.15, 0.2, 0.3)),
    "contrast": Corruption(contrast, (0.75, 0.5, 0.4, 0.3, 0.15)),
    "pixelate": Corruption(pixelate, (0.95, 0.9, 0.85, 0.75, 0.65)),
    "jpeg_compression": Corruption(jpeg_compression, (80, 65, 58, 50, 40)),
}


def published(folder: str, name: str, image: np.ndarray, label: np.ndarray):
    """NAME.npy of CIFAR-10-C or CIFAR-100-C: five times the test set, by severity.

    `image` [N, ...] and `label` [N] are the first of the test set. Returns a list of
    five arrays like `image`. Raises FileNotFoundError where there is no such file and
    ValueError where it is of another test set.
    """
    path = epath.Path(folder).expanduser() / f"{name}.npy"
    if not path.exists():
        raise FileNotFoundError(
            f"there is no {path}; config.eval.shift.folder is the folder with the .npy"
            " files of CIFAR-10-C"
        )
    array = _open(path)
    if array.shape[1:] != image.shape[1:] or array.dtype != np.uint8 or len(array) % 5:
        raise ValueError(
            f"{path} has {array.dtype} of shape {array.shape}, expected uint8 (5 N,"
            f" {', '.join(map(str, image.shape[1:]))})"
        )
    total = len(array) // 5
    labels = _open(path.parent / "labels.npy")[:total]
    if not np.array_equal(labels[: len(label)], label):
        raise ValueError(
            f"{path.parent}/labels.npy does not have the labels of the test set in its"
            " order: these images were made from another one, or TFDS shuffled it (use"
            " an .npz file in the original order)"
        )
    starts = total * np.arange(5)
    return [np.asarray(array[i : i + len(image)]) for i in starts]


def _open(path):
    if not path.exists():
        raise FileNotFoundError(f"there is no {path}")
    try:
        return np.load(str(path), mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(f"{path} cannot be read as .npy: {error}") from error
