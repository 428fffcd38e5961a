import io
import json
import pathlib
import shutil
import struct
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from ebmjax import data

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
            for record in data._array_record(shard):
                out.write(struct.pack("<QI", len(record), 0) + record + b"\0\0\0\0")
        file.unlink()
    edit_info(folder, fileFormat="tfrecord")


def edit_info(folder, **changes):
    path = folder / "dataset_info.json"
    info = json.loads(path.read_text()) | changes
    for split in info["splits"]:
        split["filepathTemplate"] = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
    path.write_text(json.dumps(info))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    root = tmp_path_factory.mktemp("tfds")
    prepare(root)
    return root


@pytest.fixture
def copy(prepared, tmp_path):
    """A prepared directory that a test may spoil: (root, folder)."""
    shutil.copytree(prepared, tmp_path, dirs_exist_ok=True)
    return tmp_path, tmp_path / "tiny" / "1.0.0"


def the_file(folder, split="test"):
    (file,) = folder.glob(f"*-{split}.*-of-*")
    return file


def assert_same(dataset, image, label):
    assert dataset.image.dtype == np.uint8 and dataset.label.dtype == np.int32
    np.testing.assert_array_equal(dataset.image, image)
    np.testing.assert_array_equal(dataset.label, label)


# What TFDS prepared


def test_load_gives_back_what_tfds_stored(prepared):
    splits = data.load("tiny", data_dir=prepared, num_valid=0)
    assert_same(splits.train, *pictures("train"))
    assert_same(splits.test, *pictures("test"))
    assert len(splits.valid.image) == 0
    assert splits.class_names == NAMES
    assert "tensorflow" not in sys.modules


def test_tfrecord_is_read_as_array_record_is(copy):
    root, folder = copy
    as_tfrecord(folder)
    assert_same(data.load_split("tiny", "train", data_dir=root), *pictures("train"))
    sliced = data.load_split("tiny", "test[3:7]", data_dir=root)
    assert_same(sliced, *(x[3:7] for x in pictures("test")))


def test_encoded_images_are_decoded(tmp_path):
    prepare(tmp_path, encoded=True)
    assert_same(data.load_split("tiny", data_dir=tmp_path), *pictures("test"))


def test_slices_keep_the_order_on_disk(prepared):
    sliced = data.load_split("tiny", "train[10:25]", data_dir=prepared)
    assert_same(sliced, *(x[10:25] for x in pictures("train")))


def test_the_directory_may_come_from_the_environment(prepared, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(prepared))
    for data_dir in (None, ""):
        assert len(data.load_split("tiny", data_dir=data_dir).label) == NUM["test"]


def test_labels_are_minus_one_where_there_are_none(tmp_path):
    prepare(tmp_path, label="weight")
    dataset = data.load_split("tiny", data_dir=tmp_path)
    np.testing.assert_array_equal(dataset.label, np.full(NUM["test"], -1))
    with pytest.raises(ValueError, match="tiny has no class labels, 'label': None"):
        data.load("tiny", data_dir=tmp_path, num_valid=0)


def test_validation_is_held_out_of_training_by_the_split_seed(prepared):
    load = data.load
    splits = load("tiny", data_dir=prepared, num_valid=15, split_seed=3)
    both = np.concatenate([splits.train.image, splits.valid.image])
    assert len(splits.valid.image) == 15
    everything = pictures("train")[0]
    assert {x.tobytes() for x in both} == {x.tobytes() for x in everything}
    again = load("tiny", data_dir=prepared, num_valid=15, split_seed=3)
    np.testing.assert_array_equal(splits.valid.image, again.valid.image)
    other = load("tiny", data_dir=prepared, num_valid=15, split_seed=4)
    assert not np.array_equal(splits.valid.image, other.valid.image)


@pytest.mark.parametrize("num_valid", [-1, NUM["train"]])
def test_num_valid_must_leave_training_images(prepared, num_valid):
    with pytest.raises(ValueError, match=f"from 0 to 39, not {num_valid}: tiny has 40"):
        data.load("tiny", data_dir=prepared, num_valid=num_valid)


def test_an_unknown_name_gets_the_nearest_ones(tmp_path):
    with pytest.raises(ValueError, match="called 'Cifar-10'; the nearest .*cifar10,"):
        data.load("Cifar-10", data_dir=tmp_path)


def test_an_unknown_version_or_config_is_one_line(prepared):
    for name in ("cifar10:9.9.9", "cifar10/small", ":"):
        with pytest.raises(ValueError, match=f"TFDS has no '{name}'") as caught:
            data.load(name, data_dir=prepared)
        assert "\n" not in str(caught.value)


def test_an_unprepared_data_set_names_place_and_remedies(tmp_path):
    (tmp_path / "hollow").mkdir()
    for name in ("cifar10", "hollow"):
        with pytest.raises(FileNotFoundError) as caught:
            data.load(name, data_dir=tmp_path)
        for part in (
            f"{name} is not prepared in {tmp_path}",
            f"`python -m ebmjax.data {name} --data_dir={tmp_path}`",
            "TFDS_DATA_DIR",
        ):
            assert part in str(caught.value)


def test_an_unknown_split_names_the_data_set(prepared):
    with pytest.raises(ValueError, match="tiny/1.0.0: Unknown split 'extra'"):
        data.load_split("tiny", "extra", data_dir=prepared)


def test_a_data_set_without_images_says_what_it_has(tmp_path):
    prepare(tmp_path, image="picture")
    with pytest.raises(ValueError, match="tiny/1.0.0 has no uint8 'image'.*None"):
        data.load_split("tiny", data_dir=tmp_path)


def test_another_file_format_is_refused_by_name(copy):
    root, folder = copy
    edit_info(folder, fileFormat="riegeli")
    with pytest.raises(ValueError, match="as riegeli, which is not one of array_rec"):
        data.load_split("tiny", data_dir=root)


def cut(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def scramble(file):
    noise = np.random.default_rng(0).integers(0, 256, file.stat().st_size, np.uint8)
    file.write_bytes(noise.tobytes())


@pytest.mark.parametrize("spoil", [cut, scramble, pathlib.Path.unlink])
@pytest.mark.parametrize("file_format", ["array_record", "tfrecord"])
def test_a_damaged_file_is_named(copy, spoil, file_format):
    root, folder = copy
    if file_format == "tfrecord":
        as_tfrecord(folder)
    file = the_file(folder)
    spoil(file)
    with pytest.raises(OSError, match=f"{file} is damaged or incomplete .*: delete"):
        data.load_split("tiny", data_dir=root)


@pytest.mark.parametrize("file_format", ["array_record", "tfrecord"])
def test_a_file_with_too_few_records_is_damaged(copy, file_format):
    root, folder = copy
    if file_format == "tfrecord":
        as_tfrecord(folder)
    shutil.copy(the_file(folder, "test"), the_file(folder, "train"))
    with pytest.raises(OSError, match="train.*is damaged or incomplete"):
        data.load_split("tiny", "train", data_dir=root)


# Digits, files and folders


def test_digits_are_there_without_preparation():
    splits = data.load("digits", num_valid=200)
    sizes = [len(part.label) for part in splits[:3]]
    assert sizes == [1797 - 360 - 200, 200, 360]
    assert splits.train.image.shape[1:] == (8, 8, 1)
    assert (splits.train.image.min(), splits.train.image.max()) == (0, 255)
    np.testing.assert_array_equal(np.bincount(splits.test.label), [36] * 10)
    assert splits.class_names == tuple("0123456789")
    assert_same(data.load_split("digits", "test"), *splits.test)
    with pytest.raises(ValueError, match="no split 'valid', but train and test"):
        data.load_split("digits", "valid")


@pytest.mark.parametrize("keys", [("image", "label"), ("x", "y")])
def test_npz(tmp_path, keys):
    image, label = pictures("test")
    path = str(tmp_path / "a.npz")
    np.savez(path, **dict(zip(keys, (image, label), strict=True)))
    assert_same(data.load_split(path), image, label)
    np.savez(path, **{keys[0]: image[..., 0]})
    grey = data.load_split(path)
    assert_same(grey, image[..., :1], np.full(len(label), -1))
    assert data.load_split(path, size=3, channels=3).image.shape[1:] == (3, 3, 3)


def test_bad_npz_files_are_named(tmp_path):
    image, label = pictures("test")
    path = tmp_path / "bad.npz"
    with pytest.raises(FileNotFoundError, match="bad.npz"):
        data.load_split(str(path))
    for content in (b"", b"not a zip file", b"PK\3\4 and then nothing"):
        path.write_bytes(content)
        with pytest.raises(OSError, match="bad.npz cannot be read as .npz"):
            data.load_split(str(path))
    np.savez(path, image=np.array([{"an": "object"}]))
    with pytest.raises(OSError, match="bad.npz cannot be read as .npz"):
        data.load_split(str(path))
    for arrays in (
        dict(pictures=image),
        dict(image=image.astype(np.float32)),
        dict(image=image[0, 0]),
    ):
        np.savez(path, **arrays)
        with pytest.raises(ValueError, match=r"bad.npz needs image \(or x\), uint8"):
            data.load_split(str(path))
    np.savez(path, image=image, label=label[:-1])
    with pytest.raises(ValueError, match=r"12 images, but labels \(11,\)"):
        data.load_split(str(path))


def test_a_folder_of_images_of_any_size_and_mode(tmp_path):
    (tmp_path / "b").mkdir()
    Image.new("RGB", (40, 20), (255, 0, 0)).save(tmp_path / "a.png")
    Image.new("L", (9, 9), 128).save(tmp_path / "b" / "c.jpg")
    Image.new("RGBA", (8, 30), (0, 0, 255, 255)).save(tmp_path / "z.webp")
    (tmp_path / "notes.txt").write_text("no image")
    dataset = data.load_split(str(tmp_path), size=(4, 6))
    assert dataset.image.shape == (3, 4, 6, 3)
    np.testing.assert_allclose(
        dataset.image.mean(axis=(1, 2)),
        [[255, 0, 0], [128, 128, 128], [0, 0, 255]],
        atol=2,
    )
    np.testing.assert_array_equal(dataset.label, [-1, -1, -1])
    grey = data.load_split(str(tmp_path), size=4, channels=1)
    # Pillow's luma (ITU-R 601): 0.299 red, 0.587 green, 0.114 blue
    np.testing.assert_allclose(
        grey.image.mean(axis=(1, 2, 3)), [0.299 * 255, 128, 0.114 * 255], atol=2
    )


def test_bad_folders_are_named(tmp_path):
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(FileNotFoundError, match="is not a folder with images"):
            data.load_split(str(path))
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    Image.new("RGB", (5, 4)).save(tmp_path / "b.png")
    with pytest.raises(ValueError, match="differ in size.*size=\\) brings them"):
        data.load_split(str(tmp_path))
    (tmp_path / "a.png").write_bytes(b"no image")
    with pytest.raises(OSError, match="a.png cannot be read"):
        data.load_split(str(tmp_path))
    (tmp_path / "a.png").write_bytes(png(np.zeros((99, 99, 3), np.uint8))[:60])
    with pytest.raises(OSError, match="a.png cannot be read"):
        data.load_split(str(tmp_path), size=4)


def test_resize_crops_to_the_proportions_and_averages():
    image = np.zeros((2, 4, 8, 1), np.uint8)
    image[:, :, 2:4], image[:, :, 4:6] = 100, 200
    np.testing.assert_array_equal(data.resize(image, 4, 1), image[:, :, 2:6])
    # To one pixel, the filter is a triangle as wide as all 8 columns:
    # (0.625 * 100 + 0.875 * 100 + 0.875 * 200 + 0.625 * 200) / 4
    one = data.resize(image, 1, 3)
    assert one.shape == (2, 1, 1, 3)
    np.testing.assert_allclose(one, 112.5, atol=1)
    assert data.resize(image, (4, 8), 1) is image
    with pytest.raises(ValueError, match="channels must be 1, 3 or 4, not 2"):
        data.resize(image, 4, 2)


# Who is visited when


def test_an_epoch_is_a_permutation_given_by_seed_and_epoch():
    data.epoch_order.cache_clear()
    order = {(s, e): data.epoch_order(s, e, 100) for s in (0, 1) for e in (0, 1)}
    for x in order.values():
        np.testing.assert_array_equal(np.sort(x), np.arange(100))
    assert len({x.tobytes() for x in order.values()}) == 4
    data.epoch_order.cache_clear()
    for (seed, epoch), x in order.items():
        np.testing.assert_array_equal(x, data.epoch_order(seed, epoch, 100))
    with pytest.raises(ValueError, match="read-only"):
        order[0, 0][0] = 1


def test_steps_visit_no_example_twice_in_an_epoch():
    def batch(step):
        return data.batch_indices(7, step, num_examples=23, batch_size=5)

    for epoch in range(3):
        seen = np.concatenate([batch(4 * epoch + i) for i in range(4)])
        assert len(np.unique(seen)) == 20
        np.testing.assert_array_equal(seen, data.epoch_order(7, epoch, 23)[:20])
    assert batch(0).dtype == np.int32


@pytest.mark.parametrize("batch_size", [0, -1, 24])
def test_a_batch_must_fit_the_data(batch_size):
    with pytest.raises(ValueError, match=f"batch_size={batch_size} cannot be drawn"):
        data.batch_indices(0, 0, num_examples=23, batch_size=batch_size)


def test_labelled_indices_are_so_many_of_each_class():
    label = np.random.default_rng(0).integers(0, 5, 300)
    index = data.labelled_indices(label, 7, 5, seed=2)
    assert index.dtype == np.int32
    assert np.all(np.diff(index) > 0)  # ascending, none twice
    np.testing.assert_array_equal(np.bincount(label[index]), [7] * 5)
    again = data.labelled_indices(label, 7, 5, seed=2)
    np.testing.assert_array_equal(index, again)
    assert not np.array_equal(index, data.labelled_indices(label, 7, 5, seed=3))
    with pytest.raises(ValueError, match="=7 asks for more than the 0 examples of cl"):
        data.labelled_indices(label, 7, 6, seed=2)


def test_fits_counts_mebibytes():
    dataset = data.Dataset(np.zeros((2, 1024, 1024, 1), np.uint8), np.zeros(2))
    assert data.fits(dataset, 2)
    assert not data.fits(dataset, 1.99)


# python -m ebmjax.data


def run_main(monkeypatch, *args):
    monkeypatch.setattr(sys, "argv", ["data", *args])
    data.main()


def test_preparing_what_is_there_prints_where(prepared, monkeypatch, capsys):
    run_main(monkeypatch, "tiny", f"--data_dir={prepared}")
    assert capsys.readouterr().out == f"{prepared}/tiny/1.0.0\n"


def test_preparing_fails_in_one_line(tmp_path, monkeypatch):
    (tmp_path / "hollow").mkdir()
    monkeypatch.setattr(data.importlib.util, "find_spec", lambda name: None)
    for name, reason in (
        ("cifar11", "cifar11 was not prepared: no data set is called"),
        ("hollow", "hollow was not prepared: hollow is an empty folder"),
        ("mnist", r"mnist was not prepared: .*pip install 'ebmjax\[tensorflow\]'"),
    ):
        with pytest.raises(SystemExit, match=reason) as caught:
            run_main(monkeypatch, name, f"--data_dir={tmp_path}")
        assert "\n" not in str(caught.value)
