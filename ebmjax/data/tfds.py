"""Data sets that tensorflow-datasets (TFDS) has prepared.

TFDS describes a data set, and its records are read here, both array_record and
TFRecord. TFDS itself reads TFRecord, its default format, with TensorFlow only, takes
twice as long for array_record, and does not name a damaged file.
"""

import difflib
import importlib.util
import logging
import mmap
import os
import pathlib
import re
import struct
from collections.abc import Iterator

import numpy as np

from ebmjax.data import images

_CHUNK = 1024  # records read ahead


class Tfds:
    """A source of a prepared TFDS data set with a feature "image" and perhaps "label".

    `name` is a TFDS name, "cifar10" or "cifar10:3.0.2"; where only another version is
    prepared than the installed TFDS describes, that one is read. Raises ValueError for
    an unknown name, giving the nearest, and FileNotFoundError for data that are not
    prepared.
    """

    def __init__(self, name: str, data_dir: str | os.PathLike | None):
        self.name = name
        data_dir = _data_dir(data_dir)
        builder = _builder(name, data_dir)
        if builder is not None and not builder.info.splits:
            builder = _other_version(builder, name)
        if builder is None:
            raise FileNotFoundError(
                f"{name} is not prepared in {data_dir}: run `python -m ebmjax.data"
                f" {name} --data_dir={data_dir}` where there is a network, or set"
                " data_dir (or TFDS_DATA_DIR) to the directory that holds it"
            )
        self._info = builder.info

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(self._info.splits)

    def class_names(self) -> tuple[str, ...]:
        label = dict(self._info.features).get("label")
        names = tuple(getattr(label, "names", ()))
        if not names:
            raise ValueError(f"{self.name} has no class labels, 'label': {label}")
        return names

    def read(self, split: str, rows: slice = slice(None), size=None, channels=None):
        """-> uint8 [N, H, W, C] and int32 [N], in their order on disk.

        `split` may be any instruction of TFDS, "train[:10%]". Raises ValueError for
        an unknown one, and OSError, naming the file, for damaged data.
        """
        info, name = self._info, self._info.full_name
        feature = dict(info.features).get("image")
        if feature is None or feature.np_dtype != np.uint8 or len(feature.shape) != 3:
            raise ValueError(f"{name} has no uint8 'image' [H, W, C], but {feature}")
        records = _RECORDS.get(info.file_format.value)
        if records is None:
            raise ValueError(
                f"{name} is stored as {info.file_format.value}, which is not one of"
                f" {', '.join(_RECORDS)}"
            )
        if rows != slice(None):
            bounds = ("" if b is None else str(b) for b in (rows.start, rows.stop))
            split = f"{split}[{':'.join(bounds)}]"
        try:
            part = info.splits[split]
        except ValueError as error:
            raise ValueError(f"{name}: {_first_line(error)}") from error
        channels = channels or feature.shape[-1]
        label = np.empty(part.num_examples, np.int32)

        def decoded():
            i = 0
            for shard in part.file_instructions:
                try:
                    for record in records(shard):
                        image, label[i] = _example(record, feature.shape)
                        if isinstance(image, bytes):
                            image = images.decode(image, size, channels)
                        yield images.fit(image, size, channels)
                        i += 1
                except GeneratorExit:
                    raise
                # Broken framing, messages and images raise errors of many libraries.
                except Exception as error:
                    raise OSError(
                        f"{shard.filename} is damaged or incomplete ({error}): delete"
                        f" its folder and prepare {name} anew"
                    ) from error

        return images.stack(decoded(), len(label), name), label


def is_known(name: str, data_dir: str | os.PathLike | None) -> bool:
    """Does TFDS describe a data set called `name`, or is one prepared in `data_dir`?"""
    import tensorflow_datasets as tfds

    dataset = re.split("[/:]", name)[0]
    known = tfds.list_builders(with_community_datasets=False)
    return dataset in known or os.path.isdir(os.path.join(_place(data_dir), dataset))


def prepare(name: str, data_dir: str | os.PathLike | None = None) -> str:
    """Downloads a TFDS data set and prepares it as array_record.  -> its directory."""
    builder = _builder(name, _place(data_dir))
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


def _place(data_dir) -> str:
    """`data_dir`, or else TFDS's own default, as a path that may not exist."""
    default = os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    path = os.path.expanduser(data_dir or default)
    if "://" in path:
        raise ValueError(
            f"{path} is not a local path: copy or mount the data sets in it"
        )
    return path


def _data_dir(data_dir) -> str:
    """Where to read: $TFDS_DATA_DIR stands in for a directory that does not exist."""
    path = _place(data_dir)
    if not data_dir or os.path.isdir(path):
        return path
    fallback = _place(None)
    if os.environ.get("TFDS_DATA_DIR") and os.path.isdir(fallback):
        logging.warning(
            "data_dir %s does not exist; reading from TFDS_DATA_DIR, %s", path, fallback
        )
        return fallback
    raise FileNotFoundError(
        f"data_dir {path} does not exist: set data_dir or TFDS_DATA_DIR to the"
        " directory that holds the data sets"
    )


def _builder(name, data_dir):
    """TFDS's builder of `name`; None for an empty folder where a data set should be."""
    import tensorflow_datasets as tfds  # half a second, which other sources do not need

    if not is_known(name, data_dir):
        names = ["digits", *tfds.list_builders(with_community_datasets=False)]
        dataset = re.split("[/:]", name)[0]
        nearest = difflib.get_close_matches(dataset.lower(), names, cutoff=0)
        raise ValueError(
            f"no data set is called {name!r}, and there is no such folder; the nearest"
            f" are {', '.join(nearest)}"
        )
    try:
        return tfds.builder(name, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError:
        return None
    except (AssertionError, ValueError) as error:  # an unknown version or config
        raise ValueError(f"TFDS has no {name!r}: {_first_line(error)}") from error


def _other_version(builder, name):
    """The builder of the newest prepared version, or None."""
    import tensorflow_datasets as tfds

    version = tfds.core.Version
    missing = pathlib.Path(builder.data_dir)
    folders = [path.parent for path in missing.parent.glob("*/dataset_info.json")]
    versions = [path.name for path in folders if version.is_valid(path.name)]
    if not versions:
        return None
    if ":" in name:
        raise FileNotFoundError(
            f"{name} is not prepared in {missing.parent}; versions there:"
            f" {', '.join(sorted(versions))}"
        )
    newest = max(versions, key=version)
    logging.warning(
        "%s: reading version %s, since %s is not prepared in %s",
        *(name, newest, missing.name, missing.parent),
    )
    return tfds.builder_from_directory(missing.parent / newest)


def _first_line(error) -> str:
    return str(error).splitlines()[0]


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

    The checksums are not verified, which is slow in Python; damage shows when the
    record or the image in it, which have their own, is decoded.
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
