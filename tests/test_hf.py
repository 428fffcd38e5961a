import datasets
import numpy as np
import pytest
from PIL import Image
from tiny_tfds import NAMES, assert_same, pictures

from ebmjax import data
from ebmjax.data import hf


def as_dataset(split, **features):
    image, label = pictures(split)
    columns = {"img": [Image.fromarray(x) for x in image], "kind": label.tolist()}
    features = {"img": datasets.Image(), "kind": datasets.ClassLabel(names=NAMES)}
    return datasets.Dataset.from_dict(columns, datasets.Features(features))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A data set of two splits, saved to disk."""
    root = tmp_path_factory.mktemp("hf") / "pets"
    datasets.disable_progress_bars()
    parts = {split: as_dataset(split) for split in ("train", "test")}
    datasets.DatasetDict(parts).save_to_disk(root)
    return root


def save(root, columns, features=None):
    features = features and datasets.Features(features)
    datasets.Dataset.from_dict(columns, features).save_to_disk(root)
    return f"hf:{root}"


def test_a_saved_data_set_is_read(saved):
    splits = data.load(f"hf:{saved}", num_valid=0)
    assert splits.class_names == NAMES
    assert_same(splits.train, *pictures("train"))
    assert_same(splits.test, *pictures("test"))
    part = data.load_split(f"hf:{saved}@train[3:5]")
    assert_same(part, *(x[3:5] for x in pictures("train")))
    assert data.load_split(f"hf:{saved}", size=3, channels=1).image.shape[1:] == (
        3,
        3,
        1,
    )


def test_home_and_data_dir_lead_to_it(saved, monkeypatch):
    monkeypatch.setenv("HOME", str(saved.parent))
    assert len(data.load_split("hf:~/pets").label) == 12
    assert len(data.load_split("hf:/gone/pets", data_dir=saved.parent).label) == 12


def test_an_unsplit_data_set_is_split_by_class(tmp_path):
    as_dataset("train").save_to_disk(tmp_path / "a")
    splits = data.load(f"hf:{tmp_path}/a", num_valid=0)
    assert (len(splits.train.label), len(splits.test.label)) == (
        31,
        9,
    )  # 3 of each class


def test_vectors_and_missing_labels(tmp_path):
    x = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    vector = datasets.List(datasets.Value("float32"))
    label = datasets.ClassLabel(names=["a", "b"])
    name = save(
        tmp_path / "a",
        {"id": list("abcdef"), "x": x.tolist(), "y": [0, 1, None, 1, 0, 0]},
        {"id": datasets.Value("string"), "x": vector, "y": label},
    )
    dataset = data.load_split(name)
    np.testing.assert_array_equal(dataset.image, x)
    assert dataset.image.dtype == np.float32
    assert dataset.label.tolist() == [0, 1, -1, 1, 0, 0]
    with pytest.raises(ValueError, match="holds vectors, not images"):
        data.load_split(name, size=4)
    with pytest.raises(ValueError, match="without one of its 2 class labels"):
        data.load(name, num_valid=0)
    name = save(tmp_path / "b", {"x": [[1.0], [1.0, 2.0]]})
    with pytest.raises(ValueError, match=r"lists of different lengths \(1, 2\)"):
        data.load_split(name)
    with pytest.raises(ValueError, match="no class labels: no column of type ClassL"):
        data.class_names(name)


def test_what_cannot_be_read_is_named(saved, tmp_path, monkeypatch):
    name = save(tmp_path / "a", {"text": ["hello"]})
    with pytest.raises(ValueError, match=r"hf:.*a has the columns .*'text'"):
        data.load_split(name)
    with pytest.raises(
        FileNotFoundError, match="hf:/nowhere: /nowhere is not a folder"
    ):
        data.load_split("hf:/nowhere")
    name = save(
        tmp_path / "b",
        {"img": [{"bytes": b"no image", "path": None}]},
        {"img": datasets.Image()},
    )
    with pytest.raises(OSError, match="split 'all', row 0 cannot be read: cannot id"):
        data.load_split(name)

    def unreachable(path):
        raise TimeoutError("no network\nand a second line")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    with pytest.raises(OSError, match="^hf:some/set cannot be loaded: no network$"):
        data.load_split("hf:some/set")
    monkeypatch.setattr(hf.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'ebmjax\[hf\]'"):
        data.load_split(f"hf:{saved}")
