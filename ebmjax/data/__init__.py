"""Labelled data sets as NumPy arrays in memory: images or vectors.

`load` and `load_split` take the name of a data set:

    "digits"          1,797 handwritten digits, which come with scikit-learn
    "cifar10", ...    what tensorflow-datasets (TFDS) prepared, read without TensorFlow;
                      `python -m ebmjax.data NAME` downloads and prepares it
    a folder          of images, with one sub-folder a class: see `folder.Folder`
    a file x.npz      of images or vectors: see `npz.Npz`
    "hf:NAME"         or "hf:/path", through Hugging Face datasets: see `hf.HuggingFace`

A path begins with / . or ~, ends in .npz, is a pathlib path, or is the name of a
folder that exists and of no TFDS data set.
"""

import logging
import os
import pathlib
from typing import Any, NamedTuple

import numpy as np

from ebmjax.data import arrays, splitting, tfds
from ebmjax.data.arrays import check_like, check_splits
from ebmjax.data.folder import Folder
from ebmjax.data.hf import HuggingFace
from ebmjax.data.images import check_size, resize
from ebmjax.data.npz import Npz
from ebmjax.data.splitting import EVALUATION, labelled_indices


class Dataset(NamedTuple):
    image: np.ndarray  # uint8 [N, H, W, C], or vectors, float32 [N, D], as stored
    label: np.ndarray  # int32 [N]; -1 where there is none

    def take(self, index) -> "Dataset":
        return Dataset(self.image[index], self.label[index])


class Scaling(NamedTuple):
    """An affine map of vectors: those of the training set get mean 0, deviation 1."""

    mean: np.ndarray  # float32 [D]
    std: np.ndarray  # float32 [D], 1 for a column that is constant

    @classmethod
    def of(cls, x: np.ndarray) -> "Scaling":
        """That of a training set, float32 [N, D]."""
        # The float64 moments of a constant float32 column are exact: its std is 0.
        mean, std = x.mean(axis=0, dtype=np.float64), x.std(axis=0, dtype=np.float64)
        std = np.where(std < np.finfo(np.float32).tiny, 1.0, std)
        return cls(mean.astype(np.float32), std.astype(np.float32))

    def apply(self, x: Any) -> Any:
        """Raw vectors [..., D] -> standardised ones. NumPy or JAX arrays."""
        return (x - self.mean) / self.std


class Splits(NamedTuple):
    train: Dataset
    valid: Dataset  # held out from the training set; empty if num_valid = 0
    test: Dataset
    class_names: tuple[str, ...]
    scaling: Scaling | None = None  # of vectors; None takes examples as they are
    outliers: Dataset | None = None  # for the term "outliers"; labels are not used


def load(
    name: str | os.PathLike,
    *,
    data_dir: str | os.PathLike | None = None,
    num_valid: int = 5_000,
    split_seed: int = 1234,
    test_fraction: float = 0.2,
    size: int | tuple[int, int] | None = None,
    channels: int | None = None,
) -> Splits:
    """A training, a validation and a test set with their class names.

    `num_valid` examples, chosen by `split_seed`, are held out of "train" for
    validation. The test set is "test", else "validation" ("valid", "val"). Where
    there is neither, `test_fraction` of the examples of each class are the test set,
    the same ones every time. Images are brought to `size` and `channels` as
    `images.resize` does; without (0 or None) they must be of one size.

    `data_dir` holds TFDS data (default: $TFDS_DATA_DIR, else ~/tensorflow_datasets,
    which also stand in for a directory that no longer exists), and is searched for
    paths that do not exist. Raises ValueError for an unknown name (giving the
    nearest), for missing or impossible labels and for a `num_valid` that leaves a
    class without a training example, FileNotFoundError for data that do not exist,
    and OSError, naming the file, for damaged ones.
    """
    source = open_source(name, data_dir)
    names = source.class_names()
    size, channels = check_size(size, channels or None), channels or None
    train, test = _train_and_test(source, test_fraction, size, channels)
    if isinstance(source, Folder):
        train, test = (_in_class_folders(part, source) for part in (train, test))
    for what, part in (("training", train), ("test", test)):
        bad = np.flatnonzero((part.label < 0) | (part.label >= len(names)))
        if len(bad):
            raise ValueError(
                f"{source.name} has {len(bad)} {what} examples without one of its"
                f" {len(names)} class labels: example {bad[0]} has {part.label[bad[0]]}"
            )
    for k in np.setdiff1d(test.label, train.label)[:1]:
        raise ValueError(
            f"{source.name} has test examples of class {names[k]!r}, but none to train"
            " on"
        )
    return _make_splits(train, test, names, num_valid, split_seed, source.name)


def load_split(
    name: str | os.PathLike,
    split: str | None = None,
    *,
    data_dir: str | os.PathLike | None = None,
    size: int | tuple[int, int] | None = None,
    channels: int | None = None,
) -> Dataset:
    """One split of what `load` takes, or all images of any folder.

    `split` may have bounds, "test[:1000]"; it may also be part of the name,
    "NAME@train[:1000]". Without, it is that which `load` would test on, or the only
    one that there is. Labels are -1 where there are none. Images are brought to `size`
    and `channels` as they are decoded, so that few large ones are in memory at a time.
    Raises as `load` does.
    """
    size = check_size(size, channels)
    name, in_name = split_name(name)
    split = split or in_name
    source = open_source(name, data_dir)
    return _read(source, split or _default_split(source), size, channels)


def load_like(
    name: str,
    like: np.ndarray,
    *,
    data_dir: str | os.PathLike | None = None,
    num: int | None = None,
) -> Dataset:
    """`load_split` with examples of the shape and dtype of those of `like` [N, ...].

    The first `num` examples. Raises ValueError if there are none, if they have another
    shape or if they are not finite.
    """
    *size, channels = like.shape[1:] if like.ndim == 4 else (None,)
    examples = load_split(
        name, data_dir=data_dir, size=tuple(size) or None, channels=channels
    ).take(slice(num))
    check_like(name, examples.image, like)
    return examples


def split_name(name: str | os.PathLike) -> tuple[str, str | None]:
    """The data set and the split of a name "NAME@SPLIT"; None if it names none."""
    name = os.fspath(name)
    if "@" not in name or os.path.exists(os.path.expanduser(name)):
        return name, None
    base, _, split = name.rpartition("@")
    return base, split


def class_names(
    name: str | os.PathLike, *, data_dir: str | os.PathLike | None = None
) -> tuple[str, ...]:
    """The names of the classes of what `load` takes, whose errors it shares."""
    return open_source(name, data_dir).class_names()


def from_arrays(
    x_train: Any,
    y_train: Any,
    x_test: Any,
    y_test: Any,
    *,
    class_names: tuple[str, ...] | None = None,
    num_valid: int = 0,
    split_seed: int = 1234,
) -> Splits:
    """Splits of arrays: images, uint8 [N, H, W] or [N, H, W, C], or vectors [N, D].

    Labels are integers [N]; without `class_names` these are numbers. `num_valid`
    training examples are held out for validation. Raises ValueError for arrays that
    are not of these kinds.
    """
    x_train, x_test = (
        arrays.to_examples(x, what)
        for x, what in ((x_train, "x_train"), (x_test, "x_test"))
    )
    train = Dataset(x_train, arrays.to_labels(y_train, len(x_train), "y_train"))
    test = Dataset(x_test, arrays.to_labels(y_test, len(x_test), "y_test"))
    if class_names is None:
        class_names = arrays.numbered_classes(train.label, "y_train")
    names = tuple(map(str, class_names))
    splits = _make_splits(train, test, names, num_valid, split_seed, "x_train")
    check_splits(splits)
    return splits


def open_source(name: str | os.PathLike, data_dir: str | os.PathLike | None = None):
    """The source that reads the data set `name`: an object with

    name, splits                         strings
    class_names()                        ValueError if it has none
    read(split, rows, size, channels)    -> examples, labels
    """
    kind, text = source_type(name, data_dir), os.fspath(name)
    if kind is tfds.Tfds:
        return tfds.Tfds(text, data_dir)
    if kind is Digits:
        return Digits()
    if kind is HuggingFace:
        path = text.removeprefix("hf:")
        return HuggingFace(str(_locate(path, data_dir)) if _is_path(path) else path)
    return kind(_locate(text, data_dir))


def source_type(
    name: str | os.PathLike, data_dir: str | os.PathLike | None = None
) -> type:
    """The class of the source that reads the data set `name`."""
    text = os.fspath(name)
    if text.endswith(".npz"):
        return Npz
    if isinstance(name, os.PathLike) or _is_path(text):
        return Folder
    if text == "digits":
        return Digits
    if text.startswith("hf:"):
        return HuggingFace
    if os.path.exists(text) and not tfds.is_known(text, data_dir):
        return Folder
    return tfds.Tfds  # which names what is nearest, if it does not know it either


def _is_path(name):
    return name.startswith((".", "~")) or os.path.isabs(name)


def _locate(path, data_dir):
    """`path`, or if nothing is there, what has its name in `data_dir`."""
    path = pathlib.Path(path).expanduser()
    if data_dir and not path.exists():
        moved = pathlib.Path(data_dir).expanduser() / path.name
        if moved.exists():
            logging.warning("%s does not exist; reading %s", path, moved)
            return moved
    return path


def _default_split(source):
    """The split to test on, else "train" or the only one."""
    for split in EVALUATION:
        if split in source.splits:
            break
    else:
        split = "train" if "train" in source.splits else source.splits[0]
    if split not in ("test", "all"):
        logging.warning("%s has no split 'test'; reading %r", source.name, split)
    return split


def _read(source, split, size, channels) -> Dataset:
    name, rows = arrays.parse_split(split)
    if name not in source.splits and not isinstance(source, tfds.Tfds):
        raise ValueError(
            f"{source.name} has no split {name!r}; it has {', '.join(source.splits)}"
        )
    dataset = Dataset(*source.read(name, rows, size, channels))
    if not len(dataset.label):
        raise ValueError(f"{source.name} has no examples in {split!r}")
    return dataset


def _train_and_test(source, test_fraction, size, channels):
    if not 0 < test_fraction < 1:
        raise ValueError(f"test_fraction must be in (0, 1), not {test_fraction}")
    test = _default_split(source)
    if test in EVALUATION and "train" in source.splits:
        train, test = (_read(source, s, size, channels) for s in ("train", test))
        if {train.image.shape[3:], test.image.shape[3:]} == {(1,), (3,)}:
            train, test = (_to_colour(part) for part in (train, test))
        if train.image.shape[1:] != test.image.shape[1:]:
            raise ValueError(
                f"{source.name} differs between training, {list(train.image.shape)},"
                f" and test, {list(test.image.shape)}: set data.image_size (size= in"
                " Python) to bring images to one size"
            )
        return train, test
    examples = _read(source, test, size, channels)
    in_test = splitting.stratified(examples.label, test_fraction)
    logging.info(
        "%s is not split: %d of its %d examples are the test set",
        *(source.name, in_test.sum(), len(in_test)),
    )
    return examples.take(~in_test), examples.take(in_test)


def _to_colour(dataset):
    image = dataset.image
    return dataset._replace(image=np.repeat(image, 3 // image.shape[3], axis=3))


def _in_class_folders(dataset, source):
    outside = dataset.label < 0
    if not outside.any():
        return dataset
    logging.warning(
        "%s: left out %d images outside the folder of a class",
        *(source.name, outside.sum()),
    )
    return dataset.take(~outside)


def _make_splits(train, test, names, num_valid, split_seed, source):
    try:
        in_valid = splitting.hold_out(train.label, num_valid, split_seed)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error
    valid, train = train.take(in_valid), train.take(~in_valid)
    scaling = Scaling.of(train.image) if train.image.ndim == 2 else None
    return Splits(train, valid, test, names, scaling)


class Digits:
    """1,797 digits [8, 8, 1]; "test" is the same 36 of each class every time."""

    name, splits = "digits", ("train", "test")

    def class_names(self) -> tuple[str, ...]:
        return tuple("0123456789")

    def read(self, split, rows=slice(None), size=None, channels=None):
        from sklearn.datasets import load_digits  # a second to import

        x, y = load_digits(return_X_y=True)
        image = np.rint(x.reshape(-1, 8, 8, 1) * (255 / 16)).astype(np.uint8)
        in_test = np.isin(np.arange(len(y)), labelled_indices(y, 36, 10, seed=0))
        part = in_test == (split == "test")
        image = resize(image[part][rows], size or (8, 8), channels or 1)
        return image, y[part][rows].astype(np.int32)
