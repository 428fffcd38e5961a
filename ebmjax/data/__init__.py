"""Image data sets as NumPy arrays in memory.

Data sets go by their tensorflow-datasets (TFDS) names. What TFDS prepared, be it
array_record or TFRecord, is read without TensorFlow. Nothing is downloaded but by
`python -m ebmjax.data NAME`. "digits" comes with scikit-learn: it is always there.
"""

import pathlib
from typing import NamedTuple

import numpy as np

from ebmjax.data import tfds
from ebmjax.data.images import Dataset, checked_size, read_folder, read_npz, resize

_PARTS = ("train", "test")


class Scaling(NamedTuple):
    """Standardises vectors: (x - mean) / std."""

    mean: np.ndarray  # float32 [D]
    std: np.ndarray  # float32 [D], positive


class Splits(NamedTuple):
    train: Dataset
    valid: Dataset  # held out from the training images; empty if num_valid = 0
    test: Dataset
    class_names: tuple[str, ...]
    scaling: Scaling | None = None  # of vectors [N, D]; None for images


def load(name, *, data_dir=None, num_valid=5_000, split_seed=1234) -> Splits:
    """ "digits" or a TFDS data set with "image" and "label", train and test.

    Without `data_dir`, TFDS's own places: $TFDS_DATA_DIR, else ~/tensorflow_datasets.
    Raises ValueError for an unknown name (giving the nearest), for missing labels and
    for a `num_valid` that leaves no training image, FileNotFoundError for data that
    are not prepared, and OSError, naming the file, for damaged ones.
    """
    names = class_names(name, data_dir=data_dir)
    train, test = (load_split(name, part, data_dir=data_dir) for part in _PARTS)
    for part in (train, test):
        if not np.all((part.label >= 0) & (part.label < len(names))):
            raise ValueError(f"{name} has images without one of its class labels")
    num = len(train.label)
    if not 0 <= num_valid < num:
        raise ValueError(
            f"num_valid must be from 0 to {num - 1}, not {num_valid}: {name} has {num} "
            "images to train on"
        )
    held_out = np.zeros(num, bool)
    held_out[np.random.default_rng(split_seed).permutation(num)[:num_valid]] = True
    return Splits(train.take(~held_out), train.take(held_out), test, names)


def class_names(name, *, data_dir=None) -> tuple[str, ...]:
    """The names of the classes of what `load` takes, whose errors it shares."""
    if name == "digits":
        return tuple("0123456789")
    label = dict(tfds.find(name, data_dir).info.features).get("label")
    names = tuple(getattr(label, "names", ()))
    if not names:
        raise ValueError(f"{name} has no class labels, 'label': {label}")
    return names


def load_split(
    name, split="test", *, data_dir=None, size=None, channels=None
) -> Dataset:
    """One split of what `load` takes, or a file or folder of images.

    `split` may be a slice, "test[:1000]", for TFDS data; labels are -1 where there
    are none. A path starts with / . or ~ or ends in .npz:
      x.npz     "image" (or "x"), uint8 [N, H, W] or [N, H, W, C]; "label" (or "y"),
                int [N], may be missing
      a folder  all image files below it, in the order of their names, no labels; in
                colour unless `channels` says otherwise
    `size` and `channels` do what `resize` does, image by image, so that pictures of
    any size can be read and large ones never stand in memory together.
    """
    size = checked_size(size, channels)
    if name.endswith(".npz"):
        dataset = read_npz(pathlib.Path(name).expanduser())
    elif name.startswith(("/", ".", "~")):
        return read_folder(pathlib.Path(name).expanduser(), size, channels or 3)
    elif name == "digits":
        dataset = _digits(split)
    else:
        return tfds.read(tfds.find(name, data_dir), split, size, channels)
    _, height, width, depth = dataset.image.shape
    image = resize(dataset.image, size or (height, width), channels or depth)
    return dataset._replace(image=image)


def labelled_indices(label, labels_per_class, num_classes, seed) -> np.ndarray:
    """Where `labels_per_class` examples of each class stand, drawn by `seed`.

    label [N] -> int32 [labels_per_class * num_classes], ascending. Raises ValueError
    for a class that has fewer.
    """
    rng = np.random.default_rng(seed)
    chosen = []
    for k in range(num_classes):
        members = np.flatnonzero(label == k)
        if len(members) < labels_per_class:
            raise ValueError(
                f"labels_per_class={labels_per_class} asks for more than the "
                f"{len(members)} examples of class {k}"
            )
        chosen.append(rng.permutation(members)[:labels_per_class])
    return np.sort(np.concatenate(chosen)).astype(np.int32)


def _digits(split) -> Dataset:
    """1,797 digits [8, 8, 1]; "test" is the same 36 of each class every time."""
    from sklearn.datasets import load_digits  # a second to import; only needed here

    if split not in _PARTS:
        raise ValueError(f"digits has no split {split!r}, but train and test")
    x, y = load_digits(return_X_y=True)
    image = np.rint(x.reshape(-1, 8, 8, 1) * (255 / 16)).astype(np.uint8)
    in_test = np.isin(np.arange(len(y)), labelled_indices(y, 36, 10, seed=0))
    return Dataset(image, y.astype(np.int32)).take(in_test == (split == "test"))
