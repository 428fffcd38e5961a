"""A TFDS data set made without TensorFlow, and what is in it."""

import io
import json
import struct

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from ebmjax.data.tfds import _array_record

NAMES = ("cat", "dog", "eel")
NUM = {"train": 40, "test": 12}
SHAPE = (6, 5, 3)


def pictures(split):
    rng = np.random.default_rng(len(split))
    num = NUM[split]
    return rng.integers(0, 256, (num, *SHAPE), np.uint8), np.arange(num) % len(NAMES)


def png(image):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


def prepare(root, *, encoded=False, image="image", label="label"):
    """The TFDS data set "tiny" as array_record, made without TensorFlow."""
    features = {
        image: tfds.features.Image(shape=SHAPE, encoding_format="png")
        if encoded
        else tfds.features.Tensor(shape=SHAPE, dtype=np.uint8),
        label: tfds.features.ClassLabel(names=NAMES),
    }

    def info(self):
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(features),
            disable_shuffling=True,
        )

    def examples(split):
        for i, (x, y) in enumerate(zip(*pictures(split), strict=True)):
            yield i, {image: io.BytesIO(png(x)) if encoded else x, label: int(y)}

    members = dict(
        VERSION=tfds.core.Version("1.0.0"),
        _info=info,
        _split_generators=lambda self, manager: {s: examples(s) for s in NUM},
        _generate_examples=None,  # abstract in the base class
        __module__=__name__,
    )
    with tfds.core.registered.skip_registration():
        builder_class = type("Tiny", (tfds.core.GeneratorBasedBuilder,), members)
    builder = builder_class(data_dir=root, file_format="array_record")
    builder.download_and_prepare()


def as_tfrecord(folder):
    """The same directory with its records framed as TFRecord (checksums zero)."""
    for file in folder.glob("*.array_record-*"):
        take = NUM[file.name.split("-")[1].split(".")[0]]
        shard = tfds.core.utils.shard_utils.FileInstruction(str(file), 0, take, take)
        with open(str(file).replace("array_record", "tfrecord"), "wb") as out:
            for record in _array_record(shard):
                out.write(struct.pack("<QI", len(record), 0) + record + b"\0\0\0\0")
        file.unlink()
    edit_info(folder, fileFormat="tfrecord")


def edit_info(folder, **changes):
    path = folder / "dataset_info.json"
    info = json.loads(path.read_text()) | changes
    for split in info["splits"]:
        split["filepathTemplate"] = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
    path.write_text(json.dumps(info))


def assert_same(dataset, image, label):
    assert dataset.image.dtype == np.uint8 and dataset.label.dtype == np.int32
    np.testing.assert_array_equal(dataset.image, image)
    np.testing.assert_array_equal(dataset.label, label)


def the_file(folder, split="test"):
    (file,) = folder.glob(f"*-{split}.*-of-*")
    return file


def cut(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
