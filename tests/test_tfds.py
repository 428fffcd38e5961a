import json
import pathlib
import shutil
import sys

import numpy as np
import pytest
from tiny_tfds import (
    NAMES,
    NUM,
    as_tfrecord,
    assert_same,
    cut,
    edit_info,
    pictures,
    prepare,
    the_file,
)

from ebmjax import data
from ebmjax.data import __main__ as command_line
from ebmjax.data import images
from ebmjax.data import tfds as prepared_data


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


@pytest.mark.parametrize("num_valid", [-1, NUM["train"] - len(NAMES) + 1])
def test_num_valid_must_leave_training_images(prepared, num_valid):
    message = f"tiny: num_valid must be from 0 to 37, not {num_valid}: there are 40 ex"
    with pytest.raises(ValueError, match=message):
        data.load("tiny", data_dir=prepared, num_valid=num_valid)


def test_an_unknown_name_gets_the_nearest_ones(tmp_path):
    with pytest.raises(ValueError, match="called 'Cifar-10', and .*nearest .*cifar10,"):
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


def test_a_bucket_is_no_place_for_data(monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", "gs://bucket/data")
    with pytest.raises(ValueError, match="gs://bucket/data is not a local path"):
        data.load("cifar10")


def test_a_missing_directory_is_named_or_replaced(
    prepared, tmp_path, monkeypatch, caplog
):
    gone = tmp_path / "gone"
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    for name in ("tiny", "cifar10", "cifar11"):
        with pytest.raises(FileNotFoundError, match=f"data_dir {gone} does not exist"):
            data.load_split(name, data_dir=gone)
    monkeypatch.setenv("TFDS_DATA_DIR", str(prepared))
    assert len(data.load_split("tiny", data_dir=gone).label) == NUM["test"]
    message = f"data_dir {gone} does not exist; reading from TFDS_DATA_DIR, {prepared}"
    assert message in caplog.text
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "gone too"))
    with pytest.raises(FileNotFoundError, match=f"data_dir {gone} does not exist"):
        data.load_split("tiny", data_dir=gone)


def test_a_directory_may_begin_at_home(prepared, monkeypatch):
    monkeypatch.setenv("HOME", str(prepared.parent))
    for data_dir in (f"~/{prepared.name}", pathlib.Path("~") / prepared.name):
        assert len(data.load_split("tiny", data_dir=data_dir).label) == NUM["test"]


def as_cifar10(root, *versions):
    """The data set "tiny" under the name of one that the installed TFDS describes."""
    tiny = root / "tiny" / "1.0.0"
    for version in versions:
        folder = root / "cifar10" / version
        shutil.copytree(tiny, folder)
        for file in folder.glob("tiny-*"):
            file.rename(folder / file.name.replace("tiny", "cifar10"))
        edit_info(folder, name="cifar10", version=version)


def test_another_version_that_is_prepared_is_read(copy, caplog):
    root, _ = copy
    as_cifar10(root, "1.9.0", "1.10.0")
    assert_same(data.load_split("cifar10", data_dir=root), *pictures("test"))
    assert "cifar10: reading version 1.10.0, since 3.0.2 is not prepared" in caplog.text
    caplog.clear()
    assert_same(data.load_split("cifar10:1.9.0", data_dir=root), *pictures("test"))
    assert not caplog.text
    with pytest.raises(FileNotFoundError, match="versions there: 1.10.0, 1.9.0"):
        data.load_split("cifar10:3.0.2", data_dir=root)


def test_a_set_with_only_a_training_split_is_split(copy, caplog):
    root, folder = copy
    info = json.loads((folder / "dataset_info.json").read_text())
    edit_info(folder, splits=[s for s in info["splits"] if s["name"] == "train"])
    splits = data.load("tiny", data_dir=root, num_valid=0)
    assert (len(splits.train.label), len(splits.test.label)) == (
        31,
        9,
    )  # 3 of each class
    assert "tiny has no split 'test'; reading 'train'" in caplog.text
    whole = data.load_split("tiny", data_dir=root)
    assert_same(whole, *pictures("train"))


def test_the_split_may_be_part_of_the_name(prepared):
    part = data.load_split("tiny@train[10:25]", data_dir=prepared)
    assert_same(part, *(x[10:25] for x in pictures("train")))
    tenth = data.load_split("tiny@train[:10%]", data_dir=prepared)
    assert_same(tenth, *(x[:4] for x in pictures("train")))
    last = data.load_split("tiny", "train[-3:]", data_dir=prepared)
    assert_same(last, *(x[-3:] for x in pictures("train")))


@pytest.mark.parametrize("encoded", [False, True])
def test_images_are_brought_to_a_size(tmp_path, encoded):
    prepare(tmp_path, encoded=encoded)
    splits = data.load("tiny", data_dir=tmp_path, num_valid=0, size=4, channels=1)
    assert splits.train.image.shape == (40, 4, 4, 1)
    expected = images.resize(pictures("test")[0], 4, 1)
    np.testing.assert_array_equal(splits.test.image, expected)


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
    with pytest.raises(
        ValueError, match="stored as riegeli, which is not one of array_rec"
    ):
        data.load_split("tiny", data_dir=root)


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


def run_main(monkeypatch, *args):
    monkeypatch.setattr(sys, "argv", ["data", *args])
    command_line.main()


def test_preparing_what_is_there_prints_where(prepared, monkeypatch, capsys):
    run_main(monkeypatch, "tiny", f"--data_dir={prepared}")
    assert capsys.readouterr().out == f"{prepared}/tiny/1.0.0\n"


def test_preparing_fails_in_one_line(tmp_path, monkeypatch):
    (tmp_path / "hollow").mkdir()
    monkeypatch.setattr(prepared_data.importlib.util, "find_spec", lambda name: None)
    for name, reason in (
        ("cifar11", "cifar11 was not prepared: no data set is called"),
        ("hollow", "hollow was not prepared: hollow is an empty folder"),
        ("mnist", r"mnist was not prepared: .*pip install 'ebmjax\[tensorflow\]'"),
    ):
        with pytest.raises(SystemExit, match=reason) as caught:
            run_main(monkeypatch, name, f"--data_dir={tmp_path}")
        assert "\n" not in str(caught.value)
