import numpy as np
import pytest
from PIL import Image
from tiny_tfds import assert_same, pictures, png

from ebmjax import data
from ebmjax.data import images


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
    np.testing.assert_array_equal(images.resize(image, 4, 1), image[:, :, 2:6])
    # To one pixel, the filter is a triangle as wide as all 8 columns:
    # (0.625 * 100 + 0.875 * 100 + 0.875 * 200 + 0.625 * 200) / 4
    one = images.resize(image, 1, 3)
    assert one.shape == (2, 1, 1, 3)
    np.testing.assert_allclose(one, 112.5, atol=1)
    assert images.resize(image, (4, 8), 1) is image
    with pytest.raises(ValueError, match="channels must be 1, 3 or 4, not 2"):
        images.resize(image, 4, 2)


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
