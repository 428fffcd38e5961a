import pathlib
import sys

import numpy as np
import pytest
from tiny_tfds import assert_same

from ebmjax import data
from ebmjax.data import __main__ as command_line
from ebmjax.data import splitting


def test_digits_are_there_without_preparation():
    splits = data.load("digits", num_valid=200)
    sizes = [len(part.label) for part in splits[:3]]
    assert sizes == [1797 - 360 - 200, 200, 360]
    assert splits.train.image.shape[1:] == (8, 8, 1)
    assert (splits.train.image.min(), splits.train.image.max()) == (0, 255)
    np.testing.assert_array_equal(np.bincount(splits.test.label), [36] * 10)
    assert splits.class_names == tuple("0123456789")
    assert splits.scaling is None
    assert_same(data.load_split("digits", "test"), *splits.test)
    assert_same(data.load_split("digits@test[:9]"), *splits.test.take(slice(9)))
    assert data.load("digits", num_valid=0, size=4, channels=3).test.image.shape == (
        360,
        4,
        4,
        3,
    )
    with pytest.raises(ValueError, match="no split 'valid'; it has train, test"):
        data.load_split("digits", "valid")


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("digits", "Digits"),
        (pathlib.Path("digits"), "Folder"),
        ("cifar10", "Tfds"),
        ("cifar10:3.0.2", "Tfds"),
        ("no_such_set", "Tfds"),  # which gets the nearest names
        ("mine", "Folder"),
        ("./gone", "Folder"),
        ("~/gone", "Folder"),
        ("a.npz", "Npz"),
        (pathlib.Path("/gone/a.npz"), "Npz"),
        ("hf:cifar10", "HuggingFace"),
        ("hf:./gone", "HuggingFace"),
    ],
)
def test_a_name_means_one_source(name, source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("mine", "cifar10"):
        (tmp_path / folder).mkdir()
    assert data.source_type(name).__name__ == source


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


def test_validation_leaves_an_example_of_each_class():
    label = np.array([0] * 50 + [1] * 2 + [2])
    for seed in range(20):
        mask = splitting.hold_out(label, 50, seed)
        assert mask.sum() == 50
        assert set(label[~mask]) == {0, 1, 2}
    with pytest.raises(ValueError, match="from 0 to 50, not 51: there are 53 examples"):
        splitting.hold_out(label, 51, 0)


def test_validation_of_common_classes_is_a_plain_random_choice():
    label = np.random.default_rng(0).integers(0, 10, 1000)
    order = np.random.default_rng(1234).permutation(1000)
    expected = np.isin(np.arange(1000), order[:200])
    np.testing.assert_array_equal(splitting.hold_out(label, 200, 1234), expected)


def make_arrays():
    rng = np.random.default_rng(0)
    return dict(
        x_train=rng.integers(0, 256, (12, 4, 4), np.uint8),
        y_train=np.arange(12) % 3,
        x_test=rng.integers(0, 256, (6, 4, 4), np.uint8),
        y_test=np.arange(6) % 3,
    )


def test_splits_of_arrays():
    a = make_arrays()
    splits = data.from_arrays(**a, class_names=["a", "b", "c"], num_valid=3)
    assert [len(part.label) for part in splits[:3]] == [9, 3, 6]
    assert splits.class_names == ("a", "b", "c") and splits.scaling is None
    assert_same(splits.test, a["x_test"][..., None], a["y_test"])
    assert data.from_arrays(**a).class_names == ("0", "1", "2")
    flat = {k: x.reshape(len(x), -1) / 7 if k[0] == "x" else x for k, x in a.items()}
    vectors = data.from_arrays(**flat)
    assert vectors.train.image.shape == (12, 16)
    scaled = vectors.scaling.apply(vectors.train.image)
    np.testing.assert_allclose(scaled.mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(scaled.std(0), 1, rtol=1e-5)
    for changes, message in (
        (dict(x_test=a["x_test"][:, :3]), "test.image is .*, unlike train.image"),
        (dict(x_train=a["x_train"] / 255), "x_train holds float64 images; expected"),
        (dict(y_train=a["y_train"] + 1), "y_train has the labels 1, 2, 3; expected"),
        (dict(y_test=a["y_test"] + 1), r"test.label\[2\] is 3; expected 0 to 2"),
        (dict(num_valid=10), "x_train: num_valid must be from 0 to 9, not 10"),
        (dict(class_names=["a", "a", "b"]), "class_names must differ"),
    ):
        with pytest.raises(ValueError, match=message):
            data.from_arrays(**a | changes)


def change(splits, field, **changes):
    return splits._replace(**{field: getattr(splits, field)._replace(**changes)})


def test_splits_are_checked():
    splits = data.from_arrays(**make_arrays())
    image, label = splits.train
    data.check_splits(splits)
    vector = np.zeros((12, 2), np.float32)
    scaling = data.Scaling(np.zeros(2, np.float32), np.ones(2, np.float32))
    part = data.Dataset(vector, label)
    vectors = data.Splits(part, part, part, splits.class_names, scaling)
    data.check_splits(vectors)
    data.check_splits(vectors._replace(scaling=None))
    nan = np.where(np.arange(24).reshape(12, 2) == 5, np.nan, vector)
    for bad, message in (
        (
            change(splits, "train", image=image[:0], label=label[:0]),
            "train.image is em",
        ),
        (
            change(splits, "train", image=image / 255),
            "train.image holds float64 images",
        ),
        (
            change(splits, "train", image=image[..., 0]),
            r"train.image is uint8 \[12, 4, 4",
        ),
        (
            change(splits, "test", image=image[:, 1:]),
            "test.image is .*, unlike train.im",
        ),
        (
            change(splits, "valid", label=label[:1]),
            r"valid.label is .*; expected int32 ",
        ),
        (
            change(splits, "train", label=label.astype(int)),
            "train.label is int64 .12.; e",
        ),
        (
            change(splits, "train", label=label - 1),
            r"train.label\[0\] is -1; expected 0",
        ),
        (change(splits, "test", label=splits.test.label + 1), r"test.label\[2\] is 3;"),
        (
            change(splits, "valid", label=[0]),
            "valid.label is a list, not a NumPy array",
        ),
        (splits._replace(class_names=()), "class_names must be strings, one a class"),
        (splits._replace(class_names=(0, 1, 2)), "class_names must be strings"),
        (splits._replace(class_names=("a", "a", "b")), "class_names must differ"),
        (splits._replace(scaling=scaling), "scaling.mean is .* none for images"),
        (
            vectors._replace(scaling=data.Scaling(vector, vector)),
            "scaling.mean is floa",
        ),
        (change(vectors, "scaling", std=np.zeros(2)), "scaling.std must be positive"),
        (
            change(vectors, "train", image=vector.astype(float)),
            r"train.image is float64 \[12, 2\]; exp",
        ),
        (
            change(vectors, "train", image=nan.astype(np.float32)),
            "2, 1. is nan; expected",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            data.check_splits(bad)


def test_scaling_of_constant_and_extreme_columns():
    rng = np.random.default_rng(0)
    x = np.full((1000, 4), 0.1, np.float32)
    x[:, 1] = rng.normal(1e6, 1.0, 1000)
    x[:, 2] = rng.normal(0, 1e30, 1000)
    x[:, 3] = rng.choice([0, 1e-44], 1000)  # a deviation that float32 cannot divide by
    scaling = data.Scaling.of(x)
    assert scaling.mean.dtype == scaling.std.dtype == np.float32
    scaled = scaling.apply(x)
    assert np.isfinite(scaled).all() and np.abs(scaled[:, 0]).max() < 1e-6
    np.testing.assert_allclose(scaled[:, 1:3].std(0), 1, rtol=1e-2)
    assert scaling.std[[0, 3]].tolist() == [1, 1]


def run_main(monkeypatch, *args):
    monkeypatch.setattr(sys, "argv", ["data", *map(str, args)])
    command_line.main()


def test_a_data_set_is_described(tmp_path, monkeypatch, capsys):
    np.savez(tmp_path / "a.npz", class_names=["a", "bird", "c"], **make_arrays())
    run_main(monkeypatch, tmp_path / "a.npz", "--size=2")
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        "3 classes, uint8 2x2x1 images".split(),
        ["class", "train", "test"],
        ["a", "4", "2"],
        ["bird", "4", "2"],
        ["c", "4", "2"],
        ["all", "12", "6"],
    ]
    np.savez(tmp_path / "b.npz", x=np.zeros((10, 3)), y=np.arange(10) % 2)
    run_main(monkeypatch, tmp_path / "b.npz", "--test_fraction=0.4")
    out = capsys.readouterr().out
    assert "float32 3 vectors" in out and out.split()[-3:] == ["all", "6", "4"]
    with pytest.raises(SystemExit, match="error: .*gone.npz does not exist"):
        run_main(monkeypatch, tmp_path / "gone.npz")
