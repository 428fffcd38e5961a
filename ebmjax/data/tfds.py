"""Data sets that TFDS has prepared: found, read and made.

TFDS describes the data, and the records are read here: its own reader takes twice as
long, needs TensorFlow for TFRecord and does not name a damaged file.
"""

import difflib
import importlib.util
import mmap
import os
import re
import struct
from collections.abc import Iterator

import numpy as np
from google.protobuf.message import DecodeError

from ebmjax.data.images import Dataset, collect, pixels

_CHUNK = 1024  # records read ahead
_DAMAGE = (OSError, RuntimeError, ValueError, SyntaxError, struct.error, DecodeError)


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
    path = os.path.expanduser(data_dir or default)
    if "://" in path:
        raise ValueError(f"{path}: data sets are read from a local path: copy it")
    return path


def find(name, data_dir):
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


def read(builder, split, size=None, channels=None) -> Dataset:
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
                    yield pixels(image, size, channels), label
            except _DAMAGE as error:
                raise OSError(
                    f"{shard.filename} is damaged or incomplete ({error}): delete its "
                    f"folder and prepare {name} anew"
                ) from error

    return collect(pairs(), part.num_examples, name)


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
