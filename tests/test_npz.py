import numpy as np
import pytest
from tiny_tfds import assert_same, pictures

from ebmjax import data


@pytest.mark.parametrize("keys", [("image", "label"), ("x", "y")])
def test_images_and_labels(tmp_path, keys):
    image, label = pictures("test")
    path = str(tmp_path / "a.npz")
    np.savez(path, **dict(zip(keys, (image, label), strict=True)))
    assert_same(data.load_split(path), image, label)
    np.savez(path, **{keys[0]: image[..., 0]})
    grey = data.load_split(path)
    assert_same(grey, image[..., :1], np.full(len(label), -1))
    assert data.load_split(path, size=3, channels=3).image.shape[1:] == (3, 3, 3)


def split_arrays():
    x_train, y_train = pictures("train")
    x_test, y_test = pictures("test")
    return dict(x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test)


def test_a_split_file(tmp_path):
    a = split_arrays()
    np.savez(tmp_path / "a.npz", **a)
    splits = data.load(tmp_path / "a.npz", num_valid=0)
    assert_same(splits.train, a["x_train"], a["y_train"])
    assert_same(splits.test, a["x_test"], a["y_test"])
    assert splits.class_names == ("0", "1", "2")
    assert_same(data.load_split(tmp_path / "a.npz"), *splits.test)
    part = data.load_split(f"{tmp_path}/a.npz@train[5:9]")
    assert_same(part, a["x_train"][5:9], a["y_train"][5:9])
    with pytest.raises(ValueError, match=r"a.npz has no examples in 'train\[40:\]'"):
        data.load_split(f"{tmp_path}/a.npz@train[40:]")
    # Keras keeps labels as [N, 1].
    np.savez(tmp_path / "b.npz", **a | dict(y_test=a["y_test"][:, None]))
    assert_same(data.load(tmp_path / "b.npz", num_valid=0).test, *splits.test)


def test_class_names_may_be_in_the_file(tmp_path):
    names = np.array(["cat", "dog", "eel", "fox"])
    np.savez(tmp_path / "a.npz", class_names=names, **split_arrays())
    assert data.load(tmp_path / "a.npz", num_valid=0).class_names == tuple(names)
    np.savez(tmp_path / "a.npz", class_names=names[:2], **split_arrays())
    with pytest.raises(ValueError, match="13 training examples without one of its 2"):
        data.load(tmp_path / "a.npz", num_valid=0)
    np.savez(tmp_path / "a.npz", class_names=np.arange(3), **split_arrays())
    with pytest.raises(ValueError, match=r"class_names is int64 \[3\]; expected str"):
        data.class_names(tmp_path / "a.npz")


def test_an_unsplit_file_is_split_by_class(tmp_path):
    label = np.repeat([0, 1], [40, 10])
    np.savez(tmp_path / "a.npz", x=np.arange(200).reshape(50, 4), y=label)
    splits = data.load(tmp_path / "a.npz", num_valid=5)
    assert np.bincount(splits.test.label).tolist() == [8, 2]
    assert [len(part.label) for part in splits[:3]] == [35, 5, 10]


def test_vectors_are_kept_raw_with_the_scaling_of_the_training_set(tmp_path):
    rng = np.random.default_rng(0)
    x_train = rng.normal([3, -50, 0], [2, 0.1, 1e-3], (60, 3))
    x_train[:, 2] = 0.1  # a constant column, whose deviation is computed as 1e-17
    x_test, y = rng.normal(size=(9, 3)), np.arange(60) % 3
    np.savez(
        tmp_path / "a.npz", x_train=x_train, y_train=y, x_test=x_test, y_test=y[:9]
    )
    splits = data.load(tmp_path / "a.npz", num_valid=20)
    assert splits.train.image.dtype == np.float32
    np.testing.assert_array_equal(splits.test.image, x_test.astype(np.float32))
    scaled = splits.scaling.apply(splits.train.image)
    assert scaled.dtype == np.float32
    np.testing.assert_allclose(scaled.mean(0), 0, atol=1e-4)
    np.testing.assert_allclose(scaled.std(0), [1, 1, 0], atol=1e-4)
    # By hand: the validation and test sets take the training set's numbers.
    mean = splits.train.image[:, 0].astype(float).mean()
    std = splits.train.image[:, 0].astype(float).std()
    np.testing.assert_allclose(
        splits.scaling.apply(splits.test.image)[:, 0],
        (x_test[:, 0] - mean) / std,
        rtol=1e-5,
    )
    with pytest.raises(ValueError, match=r"x_test holds vectors \[9, 3\]; expected im"):
        data.load_split(tmp_path / "a.npz", size=4)


def test_integer_tables_are_vectors(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.arange(12).reshape(6, 2))
    dataset = data.load_split(tmp_path / "a.npz")
    assert dataset.image.dtype == np.float32
    np.testing.assert_array_equal(dataset.image, np.arange(12).reshape(6, 2))


def test_files_that_cannot_be_read_are_named(tmp_path):
    image = pictures("test")[0]
    path = tmp_path / "bad.npz"
    with pytest.raises(FileNotFoundError, match="bad.npz does not exist"):
        data.load_split(str(path))
    np.savez_compressed(tmp_path / "good.npz", image=image)
    content = bytearray((tmp_path / "good.npz").read_bytes())
    content[200:300] = bytes(100)  # in the compressed pixels
    for broken in (b"", b"not a zip file", b"PK\3\4 and then nothing", bytes(content)):
        path.write_bytes(broken)
        with pytest.raises(OSError, match="bad.npz cannot be read as .npz"):
            data.load_split(str(path))
    np.savez(path, image=np.array([{"an": "object"}]))
    with pytest.raises(OSError, match="bad.npz cannot be read as .npz: Object arrays"):
        data.load_split(str(path))
    with open(path, "wb") as file:
        np.save(file, image)
    with pytest.raises(OSError, match="bad.npz cannot.*: it is an .npy file: save wi"):
        data.load_split(str(path))


IMAGES = np.zeros((4, 8, 8, 3), np.uint8)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (
            IMAGES.transpose(0, 3, 1, 2),
            r"\[4, 3, 8, 8\]; channels come last here: save",
        ),
        (IMAGES[..., :2], r"\[4, 8, 8, 2\]; expected 1, 3 or 4 channels"),
        (IMAGES.astype(np.float32), r"float32 images; expected uint8 in 0..255: conv"),
        (IMAGES[..., 0].astype(np.float64), r"float64 images; expected uint8"),
        (IMAGES.astype(np.int64), r"int64 images; expected uint8"),
        (IMAGES[0, 0, 0], r"uint8 \[3\]; expected images"),
        (IMAGES[None], r"uint8 \[1, 4, 8, 8, 3\]; expected images"),
        (IMAGES.astype(complex), r"complex128 .*; expected images"),
        (IMAGES[:0], r"uint8 \[0, 8, 8, 3\], which is empty"),
        (IMAGES[:, :0], "which is empty"),
        (np.zeros((0, 3)), r"float64 \[0, 3\], which is empty"),
        (np.array([[1, np.nan]]), r"\[0, 1\] is nan; expected finite numbers"),
        (np.array([[1, 1e39]]), r"\[0, 1\] is 1e\+39; expected finite"),
    ],
)
def test_other_arrays_are_refused_by_file_and_key(tmp_path, x, message):
    np.savez(tmp_path / "bad.npz", x=x)
    with pytest.raises(ValueError, match="bad.npz: x.*" + message):
        data.load_split(tmp_path / "bad.npz")


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (np.array([0, 1.7, 0, 0]), r"y\[1\] is 1.7; expected a class number"),
        (np.array([0, 0, np.nan, 0]), r"y\[2\] is nan"),
        (np.array([0, 0, 0, 2**33]), r"y\[3\] is 8589934592"),
        (np.array([0, 0, 0, 2**64 - 1], np.uint64), r"y\[3\] is 18446744073709551615"),
        (np.array([0, -2, 0, 0]), r"y\[1\] is -2"),
        (np.array([0, np.inf, 0, 0]), r"y\[1\] is inf"),
        (np.array([0, 1, 0]), r"y is int64 \[3\]; expected 4 integers"),
        (np.eye(4), r"y is float64 \[4, 4\]; expected 4 integers"),
        (np.array(list("abcd")), r"y is <U1 \[4\]; expected 4 integers"),
    ],
)
def test_impossible_labels_are_refused_by_file_and_value(tmp_path, y, message):
    np.savez(tmp_path / "bad.npz", x=IMAGES, y=y)
    with pytest.raises(ValueError, match="bad.npz: " + message):
        data.load_split(tmp_path / "bad.npz")


def test_whole_floats_are_labels(tmp_path):
    np.savez(tmp_path / "a.npz", x=IMAGES, y=np.array([0.0, 1.0, -1.0, 1.0]))
    assert data.load_split(tmp_path / "a.npz").label.tolist() == [0, 1, -1, 1]


def test_training_needs_every_label(tmp_path):
    names = np.array(["a", "b"])
    y = np.array([0, 1, -1, 1])
    np.savez(tmp_path / "a.npz", x=IMAGES, y=y, class_names=names)
    with pytest.raises(ValueError, match="without one of its 2 .*: example . has -1"):
        data.load(tmp_path / "a.npz", num_valid=0)
    np.savez(tmp_path / "a.npz", x=IMAGES, y=np.array([1, 2, 2, 1]))
    with pytest.raises(ValueError, match=r"y has the labels 1, 2; expected each of 0,"):
        data.load(tmp_path / "a.npz", num_valid=0)
    np.savez(tmp_path / "a.npz", x=IMAGES)
    with pytest.raises(ValueError, match="a.npz has no class labels: no array 'y'"):
        data.load(tmp_path / "a.npz", num_valid=0)


def test_a_file_without_examples_says_what_it_holds(tmp_path):
    np.savez(tmp_path / "a.npz", pictures=IMAGES, notes=IMAGES)
    with pytest.raises(ValueError, match="a.npz holds 'pictures', 'notes'; expected"):
        data.load_split(tmp_path / "a.npz")
