"""Image data sets as NumPy arrays in memory, and the order they are visited in.

Data sets go by their tensorflow-datasets (TFDS) names. What TFDS prepared, be it
array_record or TFRecord, is read without TensorFlow. Nothing is downloaded but by
`python -m ebmjax.data NAME`. "digits" comes with scikit-learn: it is always there.
"""

import argparse
import difflib
import functools
import importlib.util
import io
import mmap
import os
import pathlib
import re
import struct
import sys
import zipfile
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
from google.protobuf.message import DecodeError
from PIL import Image, ImageOps

_MODES = {1: "L", 3: "RGB", 4: "RGBA"}  # Pillow's names for numbers of channels
_PARTS = ("train", "test")
_CHUNK = 1024  # records read ahead
_DAMAGE = (OSError, RuntimeError, ValueError, SyntaxError, struct.error, DecodeError)


class Dataset(NamedTuple):
    image: np.ndarray  # uint8 [N, H, W, C]
    label: np.ndarray  # int32 [N]; -1 where there is none

    def take(self, index) -> "Dataset":
        return Dataset(self.image[index], self.label[index])


class Splits(NamedTuple):
    train: Dataset
    valid: Dataset  # held out from the training images; empty if num_valid = 0
    test: Dataset
    class_names: tuple[str, ...]


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
    label = dict(_find(name, data_dir).info.features).get("label")
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
    size = _check(size, channels)
    if name.endswith(".npz"):
        dataset = _npz(pathlib.Path(name).expanduser())
    elif name.startswith(("/", ".", "~")):
        return _folder(pathlib.Path(name).expanduser(), size, channels or 3)
    elif name == "digits":
        dataset = _digits(split)
    else:
        return _read(_find(name, data_dir), split, size, channels)
    _, height, width, depth = dataset.image.shape
    image = resize(dataset.image, size or (height, width), channels or depth)
    return dataset._replace(image=image)


def resize(image, size, channels) -> np.ndarray:
    """uint8 [N, H, W, C] -> uint8 [N, *size, channels]; an int `size` is a square.

    Images are cropped about the centre to the proportions of `size`, then scaled
    with Pillow's antialiased bilinear filter. Grey is repeated to make RGB, and RGB
    becomes grey by luma. Raises ValueError unless `channels` is 1, 3 or 4.
    """
    size = _check(size, channels)
    if image.shape[1:] == (*size, channels):
        return image
    pairs = ((_pixels(x, size, channels), -1) for x in image)
    return _collect(pairs, len(image), "the array").image


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


@functools.lru_cache(maxsize=4)  # a few streams, each in one epoch at a time
def epoch_order(seed, epoch, num_examples) -> np.ndarray:
    """A permutation, int32 [num_examples], that depends on nothing else. Read-only."""
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(epoch,)))
    order = rng.permutation(num_examples).astype(np.int32)
    order.setflags(write=False)  # the cache hands out this very array again
    return order


def batch_indices(seed, step, *, num_examples, batch_size) -> np.ndarray:
    """Which examples training step `step` sees, int32 [batch_size].

    An epoch has num_examples // batch_size steps; its remainder is left out, another
    one in each epoch. A resumed run needs the step number and nothing else.
    """
    if not 0 < batch_size <= num_examples:
        raise ValueError(
            f"batch_size={batch_size} cannot be drawn from {num_examples} examples"
        )
    epoch, position = divmod(step, num_examples // batch_size)
    start = position * batch_size
    return epoch_order(seed, epoch, num_examples)[start : start + batch_size]


def fits(dataset, limit_mib) -> bool:
    """Whether the images take `limit_mib` MiB or less."""
    return dataset.image.nbytes <= limit_mib * 2**20


# Sources of images. Each decodes one by one into an array that has its final size.


def _digits(split) -> Dataset:
    """1,797 digits [8, 8, 1]; "test" is the same 36 of each class every time."""
    from sklearn.datasets import load_digits  # a second to import; only needed here

    if split not in _PARTS:
        raise ValueError(f"digits has no split {split!r}, but train and test")
    x, y = load_digits(return_X_y=True)
    image = np.rint(x.reshape(-1, 8, 8, 1) * (255 / 16)).astype(np.uint8)
    in_test = np.isin(np.arange(len(y)), labelled_indices(y, 36, 10, seed=0))
    return Dataset(image, y.astype(np.int32)).take(in_test == (split == "test"))


def _npz(path) -> Dataset:
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


def _folder(path, size, channels) -> Dataset:
    suffixes = Image.registered_extensions()
    files = sorted(f for f in path.rglob("*") if f.suffix.lower() in suffixes)
    if not files:
        raise FileNotFoundError(f"{path} is not a folder with images in it")

    def pairs():
        for file in files:
            try:
                yield _pixels(file, size, channels), -1
            except (OSError, SyntaxError) as error:
                raise OSError(f"{file} cannot be read: {error}") from error

    return _collect(pairs(), len(files), path)


def _check(size, channels):
    """`size` as a pair, or None."""
    if channels not in (None, *_MODES):
        raise ValueError(f"channels must be 1, 3 or 4, not {channels}")
    return (size, size) if isinstance(size, int) else size


def _pixels(image, size, channels) -> np.ndarray:
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


def _collect(pairs: Iterable, num, source) -> Dataset:
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


# TFDS. It describes the data, and the records are read here: TFDS's own reader takes
# twice as long, needs TensorFlow for TFRecord and does not name a damaged file.


def _builder(name, data_dir):
    """TFDS's builder of `name`; None for an empty folder where a data set should be."""
    import tensorflow_datasets as tfds  # half a second, which "digits" does not need

    dataset = re.split("[/:]", name)[0]
    known = tfds.list_builders(with_community_datasets=False)
    if dataset not in known and not os.path.isdir(os.path.join(data_dir, dataset)):
        names = ["digits", *known]
        nearest = difflib.get_close_matches(dataset.lower(), names, cutoff=0)
        raise ValueError(
            f"no data set is called {name!r}; the nearest are {', '.join(nearest)}"
        )
    try:
        return tfds.builder(name, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError:
        return None
    except (AssertionError, ValueError) as error:  # an unknown version or config
        raise ValueError(f"TFDS has no {name!r}: {_first_line(error)}") from error


def _first_line(error) -> str:
    return str(error).splitlines()[0]


def _data_dir(data_dir) -> str:
    default = os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    return os.path.expanduser(data_dir or default)


def _find(name, data_dir):
    """The builder of a data set whose files are there."""
    data_dir = _data_dir(data_dir)
    builder = _builder(name, data_dir)
    if builder is None or not builder.info.splits:
        raise FileNotFoundError(
            f"{name} is not prepared in {data_dir}: run `python -m ebmjax.data {name} "
            f"--data_dir={data_dir}` where there is a network, or set data_dir (or "
            "TFDS_DATA_DIR) to the directory that holds it"
        )
    return builder


def _read(builder, split, size=None, channels=None) -> Dataset:
    """A split, or a slice of one, in its order on disk."""
    info, name = builder.info, builder.info.full_name
    feature = dict(info.features).get("image")
    if feature is None or feature.np_dtype != np.uint8 or len(feature.shape) != 3:
        raise ValueError(f"{name} has no uint8 'image' [H, W, C], but {feature}")
    records = _RECORDS.get(info.file_format.value)
    if records is None:
        raise ValueError(
            f"{name} lies there as {info.file_format.value}, which is not "
            f"one of {', '.join(_RECORDS)}"
        )
    try:
        part = info.splits[split]
    except ValueError as error:
        raise ValueError(f"{name}: {_first_line(error)}") from error
    channels = channels or feature.shape[-1]

    def pairs():
        for shard in part.file_instructions:
            try:
                for record in records(shard):
                    image, label = _example(record, feature.shape)
                    yield _pixels(image, size, channels), label
            except _DAMAGE as error:
                raise OSError(
                    f"{shard.filename} is damaged or incomplete ({error}): delete its "
                    f"folder and prepare {name} anew"
                ) from error

    return _collect(pairs(), part.num_examples, name)


def _example(record, shape):
    """A serialised tf.Example -> image (encoded, or uint8 of `shape`) and label."""
    from tensorflow_datasets.proto import tf_example_pb2

    feature = tf_example_pb2.Example.FromString(record).features.feature
    image, label = feature["image"], feature["label"].int64_list.value
    if image.bytes_list.value:
        image = image.bytes_list.value[0]
    else:
        image = np.array(image.int64_list.value, np.uint8).reshape(shape)
    return image, label[0] if label else -1


def _array_record(shard) -> Iterator[bytes]:
    from array_record.python.array_record_data_source import ArrayRecordDataSource

    source = ArrayRecordDataSource([shard])  # not `with`: its exit fails on damage
    for start in range(0, len(source), _CHUNK):
        stop = min(start + _CHUNK, len(source))
        yield from source.__getitems__(range(start, stop))


def _tfrecord(shard) -> Iterator[bytes]:
    """The framing is: length (8 bytes), its CRC (4), the record, its CRC (4).

    The checksums are left unread, being slow in Python; damage shows when the record
    or the image in it, which have their own, is decoded.
    """
    with open(shard.filename, "rb") as file:
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            start = 0
            for i in range(shard.skip + shard.take):
                (length,) = struct.unpack_from("<Q", data, start)
                start, end = start + 12, start + 12 + length
                if end > len(data):
                    raise OSError(f"it ends within record {i}")
                if i >= shard.skip:
                    yield data[start:end]
                start = end + 4


_RECORDS = {"array_record": _array_record, "tfrecord": _tfrecord}


def prepare(name, data_dir=None) -> str:
    """Downloads a TFDS data set and prepares it as array_record.  -> its directory."""
    builder = _builder(name, _data_dir(data_dir))
    if builder is None:
        raise ValueError(f"{name} is an empty folder, and no data set that TFDS knows")
    if not builder.info.splits:
        if importlib.util.find_spec("tensorflow") is None:
            raise ImportError(
                "preparing a data set, unlike reading it, needs TensorFlow: "
                "pip install 'ebmjax[tensorflow]'"
            )
        builder.download_and_prepare(file_format="array_record")
    return builder.data_dir


def main():
    parser = argparse.ArgumentParser(
        "python -m ebmjax.data", description=prepare.__doc__
    )
    parser.add_argument("name", help="as TFDS calls it: cifar10, svhn_cropped, ...")
    parser.add_argument("--data_dir", help="default: $TFDS_DATA_DIR, as in TFDS")
    args = parser.parse_args()
    try:
        print(prepare(args.name, args.data_dir))
    except (ImportError, OSError, ValueError) as error:  # OSError: no network
        sys.exit(f"{args.name} was not prepared: {error}")


if __name__ == "__main__":
    main()
