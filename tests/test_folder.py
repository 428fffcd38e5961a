import pathlib

import numpy as np
import pytest
from PIL import Image
from tiny_tfds import png

from ebmjax import data


def save(root, path, value=0, size=(4, 4), mode="L"):
    file = pathlib.Path(root) / path
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value).save(file)


def values(dataset):
    return dataset.image[:, 0, 0, 0].tolist()


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
    np.testing.assert_array_equal(dataset.label, [-1, 0, -1])
    grey = data.load_split(str(tmp_path), size=4, channels=1)
    # Pillow's luma (ITU-R 601): 0.299 red, 0.587 green, 0.114 blue
    np.testing.assert_allclose(
        grey.image.mean(axis=(1, 2, 3)), [0.299 * 255, 128, 0.114 * 255], atol=2
    )


def test_a_split_folder_is_read_by_its_classes(tmp_path):
    for i, path in enumerate(["train/eel/a", "train/cat/b", "train/eel/c"]):
        save(tmp_path, f"{path}.png", i)
    save(tmp_path, "test/eel/d.png", 10)
    save(tmp_path, "test/cat/deep/e.png", 11)
    splits = data.load(tmp_path, num_valid=0)
    assert splits.class_names == data.class_names(tmp_path) == ("cat", "eel")
    assert values(splits.train) == [1, 0, 2]
    assert splits.train.label.tolist() == [0, 1, 1]
    assert values(splits.test) == [11, 10]
    assert splits.test.label.tolist() == [0, 1]
    assert splits.train.image.shape == (3, 4, 4, 1)  # all are grey
    assert values(data.load_split(tmp_path)) == [11, 10]
    assert values(data.load_split(tmp_path, "train[1:]")) == [0, 2]
    assert values(data.load_split(f"{tmp_path}@train[:1]")) == [1]
    with pytest.raises(ValueError, match="no split 'dev'; it has train, test"):
        data.load_split(tmp_path, "dev")


def test_an_unsplit_folder_is_split_by_class(tmp_path):
    counts = {"cat": 20, "dog": 5, "eel": 2, "fox": 1}
    for k, (name, count) in enumerate(counts.items()):
        for i in range(count):
            save(tmp_path, f"{name}/{i}.png", 20 * k + i)
    splits = data.load(tmp_path, num_valid=3, split_seed=0)
    trained = np.concatenate([splits.train.label, splits.valid.label])
    assert np.bincount(trained).tolist() == [16, 4, 1, 1]
    assert np.bincount(splits.test.label).tolist() == [4, 1, 1]
    everything = sum((values(part) for part in splits[:3]), [])
    assert len(everything) == len(set(everything)) == 28
    for part in splits[:3]:  # each image has the label of its folder
        assert part.label.tolist() == [x // 20 for x in values(part)]
    assert set(splits.train.label) == {0, 1, 2, 3}
    other = data.load(tmp_path, num_valid=3, split_seed=1)
    assert values(other.test) == values(splits.test)
    assert values(other.valid) != values(splits.valid)
    half = data.load(tmp_path, num_valid=0, test_fraction=0.5)
    assert np.bincount(half.test.label).tolist() == [10, 2, 1]
    with pytest.raises(ValueError, match=r"test_fraction must be in \(0, 1\), not 1"):
        data.load(tmp_path, test_fraction=1)


def test_train_may_stand_alone_or_be_a_class(tmp_path, caplog):
    for name in ("train/cat", "train/dog"):
        for i in range(5):
            save(tmp_path / "alone", f"{name}/{i}.png")
    splits = data.load(tmp_path / "alone", num_valid=0)
    assert splits.class_names == ("cat", "dog")
    assert (len(splits.train.label), len(splits.test.label)) == (8, 2)
    for name in ("car", "plane", "train"):
        for i in range(5):
            save(tmp_path / "vehicles", f"{name}/{i}.png")
    assert data.load(tmp_path / "vehicles", num_valid=0).class_names[2] == "train"
    for name in ("train/cat", "val/cat"):
        save(tmp_path / "imagenet", f"{name}/{name[0]}.png", ord(name[0]))
    splits = data.load(tmp_path / "imagenet", num_valid=0)
    assert values(splits.test) == [ord("v")]
    assert "has no split 'test'; reading 'val'" in caplog.text


def test_only_images_are_read_and_the_rest_is_counted(tmp_path, caplog):
    save(tmp_path, "cat/a.png", 1)
    save(tmp_path, "cat/B.PNG", 2)
    save(tmp_path, "cat/.ipynb_checkpoints/a.png", 3)
    (tmp_path / "cat/._a.png").write_bytes(b"Mac OS X")
    (tmp_path / "features.h5").write_bytes(b"\x89HDF")
    (tmp_path / "paper.pdf").write_bytes(b"%PDF")
    (tmp_path / "LICENSE").write_text("free")
    (tmp_path / "x.png").mkdir()
    save(tmp_path, "x.png/c.png", 4)
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    dataset = data.load_split(tmp_path)
    assert values(dataset) == [2, 1, 4]
    assert "left out 1 .h5, 1 .pdf, 2 hidden, 2 other" in caplog.text
    caplog.clear()
    save(tmp_path, "preview.png", 9)
    save(tmp_path, "cat/d.png", 5)
    splits = data.load(tmp_path, num_valid=0)
    assert sorted(values(splits.train) + values(splits.test)) == [1, 2, 4, 5]
    assert "left out 1 images outside the folder of a class" in caplog.text


def test_what_is_in_no_split_is_counted(tmp_path, caplog):
    for path in ("train/cat", "test/cat", "extra/cat", "notes"):
        save(tmp_path, f"{path}.d/a.png" if path == "notes" else f"{path}/a.png")
    save(tmp_path, "preview.png")
    data.load(tmp_path, num_valid=0)
    assert "left out 3 outside train and test" in caplog.text


def test_links_to_folders_are_entered_without_loops(tmp_path):
    save(tmp_path, "elsewhere/a.png", 1)
    save(tmp_path, "set/cat/b.png", 2)
    (tmp_path / "set/dog").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "set/cat/again").symlink_to(tmp_path / "set")
    (tmp_path / "set/cat/twin").symlink_to(tmp_path / "elsewhere")
    assert values(data.load_split(tmp_path / "set")) == [2, 1, 1]
    assert data.class_names(tmp_path / "set") == ("cat", "dog")
    (tmp_path / "link").symlink_to(tmp_path / "set")
    assert len(data.load_split(tmp_path / "link").label) == 3


def test_bad_folders_are_named(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match="has no images in it: no file ends"):
        data.load_split(str(tmp_path))
    with pytest.raises(FileNotFoundError, match="nowhere is not a folder, or does not"):
        data.load_split(str(tmp_path / "nowhere"))
    save(tmp_path, "a.png")
    with pytest.raises(ValueError, match="a.png is a file; expected a folder of im"):
        data.load_split(tmp_path / "a.png")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="a.png is a file; expected a folder of im"):
        data.load_split("a.png")
    with pytest.raises(ValueError, match="has no class labels: put the images of"):
        data.load(tmp_path)
    save(tmp_path, "b.png", size=(5, 4))
    with pytest.raises(ValueError, match="differ in size.*set data.image_size .size="):
        data.load_split(str(tmp_path))
    (tmp_path / "a.png").write_bytes(b"no image")
    with pytest.raises(OSError, match="a.png cannot be read"):
        data.load_split(str(tmp_path))
    (tmp_path / "a.png").write_bytes(png(np.zeros((99, 99, 3), np.uint8))[:60])
    with pytest.raises(OSError, match="a.png cannot be read"):
        data.load_split(str(tmp_path), size=4)


def test_images_of_any_size_are_loaded_at_one(tmp_path):
    for i, name in enumerate(["cat", "dog"] * 3):
        save(tmp_path, f"{name}/{i}.png", size=(6 + i, 9), mode="RGB")
    with pytest.raises(ValueError, match="set data.image_size"):
        data.load(tmp_path, num_valid=0)
    splits = data.load(tmp_path, num_valid=0, size=np.int64(5))
    assert splits.train.image.shape[1:] == (5, 5, 3)
    splits = data.load(tmp_path, num_valid=0, size=(5, 7), channels=1)
    assert splits.test.image.shape[1:] == (5, 7, 1)


def test_splits_must_be_alike(tmp_path):
    save(tmp_path, "train/cat/a.png")
    save(tmp_path, "test/cat/b.png", size=(5, 5))
    with pytest.raises(ValueError, match=r"differs between training.*image_size"):
        data.load(tmp_path, num_valid=0)
    save(tmp_path, "test/cat/b.png", (7, 8, 9), mode="RGB")
    splits = data.load(tmp_path, num_valid=0)  # grey and colour are both colour
    assert splits.train.image[0, 0, 0].tolist() == [0, 0, 0]
    assert splits.test.image[0, 0, 0].tolist() == [7, 8, 9]
    save(tmp_path, "test/dog/c.png")
    with pytest.raises(ValueError, match="test examples of class 'dog', but none to"):
        data.load(tmp_path, num_valid=0)


@pytest.mark.parametrize("form", ["plain", "dotted", "home", "pathlib", "absolute"])
def test_every_form_of_a_path_is_understood(tmp_path, monkeypatch, form):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    save(tmp_path, "my_photos/cat/a.png", 5)
    name = {
        "plain": "my_photos",
        "dotted": "./my_photos",
        "home": "~/my_photos",
        "pathlib": pathlib.Path("~/my_photos"),
        "absolute": str(tmp_path / "my_photos"),
    }[form]
    assert values(data.load_split(name)) == [5]


def test_a_tfds_name_goes_before_a_folder_of_that_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    save(tmp_path, "mnist/cat/a.png", 5)
    with pytest.raises(FileNotFoundError, match="mnist is not prepared"):
        data.load_split("mnist")
    assert values(data.load_split("./mnist")) == [5]


def test_data_dir_finds_a_folder_that_has_moved(tmp_path, caplog):
    save(tmp_path, "new/photos/cat/a.png", 5)
    old = tmp_path / "old" / "photos"
    assert values(data.load_split(old, data_dir=tmp_path / "new")) == [5]
    assert f"{old} does not exist; reading {tmp_path / 'new'}" in caplog.text
    with pytest.raises(FileNotFoundError, match=f"{old} is not a folder, or does"):
        data.load_split(old, data_dir=tmp_path / "third")
