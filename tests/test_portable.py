"""Models in folders of plain files, by their paths and addresses."""

import dataclasses
import inspect
import json
import pathlib
import re
import shutil
import subprocess
import sys

import flax.linen as nn
import huggingface_hub
import jax
import numpy as np
import pytest
import small_runs
from PIL import Image

import ebmjax
from ebmjax import augment, config, export, hub, portable, push, stored


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    small_runs.trained(folder)
    ebmjax.evaluate(ebmjax.load(folder), tasks=("classification",))
    return folder


@pytest.fixture(scope="module")
def run(workdir):
    return ebmjax.load(workdir)


@pytest.fixture(scope="module")
def written(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("portable") / "digits-jem"
    export.save(run, f"{folder}/", num_chains=55, note="Drawn by a tablet.")
    return folder


@pytest.fixture
def folder(written, tmp_path):
    """A copy that a test may damage."""
    return pathlib.Path(shutil.copytree(written, tmp_path / "digits-jem"))


def test_a_folder_answers_as_the_run_does(run, written):
    again = ebmjax.load(written)
    x = run.splits().test.image[:9]
    for name in ("logits", "predict_proba", "log_density", "energy"):
        np.testing.assert_array_equal(getattr(again, name)(x), getattr(run, name)(x))
    key = jax.random.key(0)
    np.testing.assert_array_equal(again.sample(key, 3, 2), run.sample(key, 3, 2))
    np.testing.assert_array_equal(again.splits().test.image, run.splits().test.image)
    same = "step class_names image_shape num_blocks recoveries skipped ema facts"
    for name in same.split():
        assert getattr(again, name) == getattr(run, name), name


def test_chains_are_samples_of_each_class(run, written):
    again = ebmjax.load(written)
    assert again.buffer.shape == (50, 8, 8, 1)  # 5 of each class, not 55
    as_uint8 = np.asarray(augment.to_uint8(run.buffer)).reshape(10, 40, 8, 8, 1)
    blocks = np.asarray(augment.to_uint8(again.buffer)).reshape(10, 5, 8, 8, 1)
    for k in range(10):
        for chain in blocks[k]:
            assert (chain == as_uint8[k]).all(axis=(1, 2, 3)).any()
    with np.load(written / "chains.npz") as arrays:
        assert arrays["samples"].dtype == np.uint8
        np.testing.assert_array_equal(arrays["labels"], np.arange(10).repeat(5))
    with Image.open(written / "samples.png") as picture:
        assert picture.width / picture.height == (10 * 9 - 1) / (5 * 9 - 1)


def test_averaged_parameters_are_written_if_the_run_has_them(workdir, run, tmp_path):
    averaged = ebmjax.load(workdir, ema=True)
    export.save(averaged, tmp_path / "averaged")
    again = ebmjax.load(tmp_path / "averaged")
    x = run.splits().test.image[:5]
    np.testing.assert_array_equal(again.logits(x), averaged.logits(x))
    assert again.ema and again.config.eval.ema
    assert not np.allclose(again.logits(x), run.logits(x), rtol=1e-6, atol=0)
    with pytest.raises(ValueError, match="holds averaged parameters, and .* no others"):
        ebmjax.load(tmp_path / "averaged", ema=False)


def test_another_checkpoint_is_refused(written):
    assert ebmjax.load(written, checkpoint=2).step == 2
    with pytest.raises(ValueError, match="no checkpoint 'best'.* one step, 2"):
        ebmjax.load(written, checkpoint="best")


def test_the_card_has_the_numbers_of_eval_json(written, workdir):
    card = (written / "README.md").read_text()
    results = json.loads((workdir / "eval.json").read_text())
    assert f"| accuracy | {results['classification']['accuracy']:.2%} |" in card
    assert 'ebmjax.load("digits-jem")' in card and "Drawn by a tablet." in card
    assert f"{results['classification']['accuracy']:.2%} | 360 |" in card
    assert "1 · p_x: -log p(x)" in card and "![Samples](samples.png)" in card
    assert "as an energy-based model" in card and "start=run.buffer[:10]" in card
    for what in ("another kind", "attacks", "calibration"):
        assert re.search(rf"{what} has not been measured", card), what
    metadata = portable.read(written).metadata
    assert f"50%: {metadata['log_density']['quantiles']['0.5']:.2f}" in card
    assert (
        json.loads((written / "eval.json").read_text())["classification"]
        == (results["classification"])
    )


def test_an_evaluated_folder_can_still_be_loaded(folder):
    results = ebmjax.evaluate(ebmjax.load(folder), tasks=("classification",))
    assert results["classification"]["num_images"] == 360
    assert (folder / "report.html").exists()
    ebmjax.load(folder)


def test_sha256sum_agrees(written):
    done = subprocess.run(
        ["sha256sum", "-c", "SHA256SUMS"], cwd=written, capture_output=True, text=True
    )
    assert done.returncode == 0 and done.stdout.count(": OK") == 3, done.stdout


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "chains.npz"])
def test_a_changed_file_is_named(name, folder):
    content = bytearray((folder / name).read_bytes())
    place = content.find(b'"seed": 0') + 8 if name == "config.json" else -1
    content[place] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"/{name} does not have the checksum"):
        ebmjax.load(folder)


def test_a_missing_file_is_named(folder):
    (folder / "chains.npz").unlink()
    with pytest.raises(ValueError, match="chains.npz does not have .* it is missing"):
        ebmjax.load(folder)
    (folder / "SHA256SUMS").unlink()
    with pytest.raises(ValueError, match="not a portable model: it has no SHA256SUMS"):
        ebmjax.load(folder)


def test_a_run_is_not_overwritten_and_a_folder_is_replaced(workdir, run, folder):
    with pytest.raises(ValueError, match="holds a run; choose another folder"):
        export.save(run, f"{workdir}/")
    export.save(run, f"{folder}/", num_chains=0)
    assert not (folder / "chains.npz").exists()
    assert not (folder / "samples.png").exists()
    assert ebmjax.load(folder).buffer is None
    assert "steps=20)  # from uniform noise" in (folder / "README.md").read_text()


def test_a_card_does_not_promise_noise_where_chains_start_from_data(run, tmp_path):
    c = run.config.copy_and_resolve_references()
    c.sgld.init = "gaussian"
    export.save(dataclasses.replace(run, config=c), tmp_path / "out", num_chains=0)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "from starts as in training; they may need its data" in card


def test_an_unknown_ending_is_refused(run, tmp_path):
    with pytest.raises(ValueError, match=r"'.onnx'; expected .jaxexport, .safetensors"):
        export.save(run, tmp_path / "model.onnx")


def test_names_of_directories_do_not_leave_the_machine(run, tmp_path):
    c = run.config.copy_and_resolve_references()
    c.data.update(name="/home/me/photos.npz", data_dir="/home/me/tfds")
    c.data.outliers = "hf:/home/me/others@train"
    c.eval.ood.sets = ("uniform", "~/secret/b", "svhn_cropped")
    c.eval.ood.update(near=("/home/me/near.npz",), far=("/home/me/far",))
    c.eval.shift.folder = "/home/me/CIFAR-10-C/"
    c.eval.samples.extractor = "inception:/home/me/inception.npz"
    moved = dataclasses.replace(run, config=c, workdir=str(tmp_path / "run"))
    sets = {"/home/me/b.npz": {"x": "8/255 of ./me/c, gs://a/b"}}
    evaluated = {"mine": {"sets": sets, "step": 1, "settings": {}}}
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "eval.json").write_text(json.dumps(evaluated))
    export.to_folder(moved, tmp_path / "out")
    stored_config = config.from_json((tmp_path / "out" / "config.json").read_text())
    assert stored_config.data.name == "photos.npz"
    assert stored_config.data.data_dir == ""
    assert stored_config.data.outliers == "hf:./others@train"
    assert stored_config.eval.ood.sets == ("uniform", "./b", "svhn_cropped")
    assert stored_config.eval.ood.near == ("near.npz",)
    assert stored_config.eval.ood.far == ("./far",)
    assert stored_config.eval.shift.folder == "./CIFAR-10-C"
    assert stored_config.eval.samples.extractor == "inception:inception.npz"
    mine = json.loads((tmp_path / "out" / "eval.json").read_text())["mine"]
    assert mine["sets"] == {"b.npz": {"x": "8/255 of c, gs://a/b"}}
    for path in (tmp_path / "out").iterdir():
        assert b"/me" not in path.read_bytes(), path
    # The data are absent, and the usual message says which.
    with pytest.raises(FileNotFoundError, match="photos.npz"):
        ebmjax.load(tmp_path / "out").splits()


def test_vectors_keep_their_scaling_and_own_arrays_are_asked_for(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(90, 5)) * [1, 2, 3, 4, 500]
    y = np.arange(90) % 3
    data = ebmjax.data.from_arrays(x[:60], y[:60], x[60:], y[60:], num_valid=30)
    changes = {"sgld__buffer_size": 36, "batch_size": 12, "data__flip": False}
    before = small_runs.trained(tmp_path / "run", data=data, **changes)
    export.save(ebmjax.load(tmp_path / "run", data=data), tmp_path / "out")
    run = ebmjax.load(tmp_path / "out")
    np.testing.assert_array_equal(run.logits(x), before.logits(x))
    assert run.buffer.dtype == np.float32 and run.buffer.shape == (36, 5)
    with pytest.raises(ValueError, match="arrays that were given to fit; pass them"):
        run.splits()
    assert ebmjax.load(tmp_path / "out", data=data).splits() is data
    assert "vectors [N, 5]" in (tmp_path / "out" / "README.md").read_text()


class Linear(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(10)(x.reshape(x.shape[0], -1))


def test_code_of_a_recipe_is_given_again(tmp_path):
    before = small_runs.trained(tmp_path / "run", network=Linear())
    export.save(before, tmp_path / "out")
    with pytest.raises(ValueError, match="trained with network of a recipe"):
        ebmjax.load(tmp_path / "out")
    recipe = ebmjax.Recipe(network=Linear())
    run = ebmjax.load(tmp_path / "out", recipe=recipe)
    x = before.splits().test.image[:4]
    np.testing.assert_array_equal(run.logits(x), before.logits(x))


def test_all_that_a_run_holds_is_stored(run):
    """A new field of `Run` has to be stored, or made from what is."""
    made = "config workdir image_shape class_names model num_blocks sampler tasks data"
    made += " chain_init ood_sets has_model"
    fields = {field.name for field in dataclasses.fields(run)} - {*made.split(), "ema"}
    found, _ = stored.read(run.workdir, "last", False, run.config)
    assert fields - set(found) == {"quantiles"}


# Addresses


def test_models_of_the_package_have_addresses(written, tmp_path, monkeypatch):
    monkeypatch.setattr(hub, "PRETRAINED", tmp_path / "pretrained")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="available are: none in this version"):
        ebmjax.load("ebmjax://digits")
    for name in ("digits", "digits-2"):
        shutil.copytree(written, tmp_path / "pretrained" / name)
    run = ebmjax.load("ebmjax://digits")
    assert run.step == 2
    for name in ("digit", "../pretrained/digits", ""):
        with pytest.raises(ValueError, match="available are: digits, digits-2$"):
            ebmjax.load(f"ebmjax://{name}")
    # Nothing is written beside the model, but into a run directory of its own.
    before = sorted((tmp_path / "pretrained").rglob("*"))
    results = ebmjax.evaluate(run, tasks=("classification",))
    assert "not_saved" not in results["run"]
    assert (tmp_path / "runs/ebmjax/digits/report.html").exists()
    assert (tmp_path / "runs/ebmjax/digits/config.json").exists()
    assert sorted((tmp_path / "pretrained").rglob("*")) == before


def test_models_that_come_with_the_package_can_be_loaded():
    for name in hub.shipped():
        run = ebmjax.load(f"ebmjax://{name}")
        x = np.zeros((2, *run.image_shape), np.uint8)
        assert np.isfinite(run.log_density(x)).all()
        size = sum(x.stat().st_size for x in (hub.PRETRAINED / name).iterdir())
        assert size < 5_000_000


class FakeHub:
    """Stands for `huggingface_hub`, with repositories in a folder. The calls must fit
    the signatures of the real functions."""

    def __init__(self, root):
        self.root, self.calls = root, []

    def _call(self, real, *args, **kwargs):
        inspect.signature(real).bind(*args, **kwargs)
        self.calls.append(real.__name__)

    def snapshot_download(self, *args, **kwargs):
        self._call(huggingface_hub.snapshot_download, *args, **kwargs)
        folder = self.root / args[0]
        if not folder.exists():
            raise RuntimeError("404: no such repository\nrequest id 7\nHow to log in")
        patterns = kwargs["allow_patterns"]
        cache = self.root / "cache"
        names = [path.name for path in folder.iterdir()]
        cache.mkdir(exist_ok=True)
        for name in huggingface_hub.utils.filter_repo_objects(
            names, allow_patterns=patterns
        ):
            shutil.copy(folder / name, cache / name)
        return str(cache)

    def HfApi(self):
        return self

    def create_repo(self, *args, **kwargs):
        self._call(huggingface_hub.HfApi.create_repo, self, *args, **kwargs)
        (self.root / args[0]).mkdir(parents=True, exist_ok=True)

    def upload_folder(self, **kwargs):
        self._call(huggingface_hub.HfApi.upload_folder, self, **kwargs)
        target = self.root / kwargs["repo_id"]
        for name in kwargs["delete_patterns"]:
            (target / name).unlink(missing_ok=True)
        for path in pathlib.Path(kwargs["folder_path"]).iterdir():
            if path.name in kwargs["allow_patterns"]:
                shutil.copy(path, target / path.name)


@pytest.fixture
def fake_hub(tmp_path, monkeypatch):
    fake = FakeHub(tmp_path / "hub")
    monkeypatch.setattr(hub, "client", lambda: fake)
    monkeypatch.chdir(tmp_path)
    return fake


def test_a_folder_goes_to_the_hub_and_comes_back(run, folder, fake_hub):
    (folder / "private.txt").write_text("not part of the model")
    (folder / "README.md").write_text("# my own card")
    assert hub.push(folder, "me/digits") == "hf://me/digits"
    repository = fake_hub.root / "me/digits"
    assert {x.name for x in repository.iterdir()} == set(portable.FILES)
    assert (repository / "README.md").read_text() == "# my own card"
    (repository / "malicious.py").write_text("raise SystemExit")
    again = ebmjax.load("hf://me/digits@main")
    x = run.splits().test.image[:3]
    np.testing.assert_array_equal(again.logits(x), run.logits(x))
    assert not (fake_hub.root / "cache" / "malicious.py").exists()
    assert again.workdir == "runs/hf/me/digits@main"
    (folder / "eval.json").unlink()
    hub.push(folder, "me/digits")
    assert not (repository / "eval.json").exists()


def test_a_damaged_folder_is_not_uploaded(folder, fake_hub):
    (folder / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="config.json does not have the checksum"):
        hub.push(folder, "me/digits")
    assert fake_hub.calls == []


def test_errors_of_the_hub_are_one_sentence(fake_hub):
    with pytest.raises(
        OSError, match="me/gone cannot be loaded: 404: no such repository request id 7$"
    ):
        ebmjax.load("hf://me/gone")
    for name in ("me", "me/", "/me", "a/b/c", ""):
        with pytest.raises(ValueError, match="expected USER/NAME"):
            ebmjax.load(f"hf://{name}")


def test_a_missing_extra_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match=r"pip install 'ebmjax\[hf\]'"):
        ebmjax.load("hf://me/digits")


def test_push_makes_the_folder_of_a_run(workdir, run, written, fake_hub):
    with push.portable_folder(str(workdir), "me/digits", note="Small.") as folder:
        hub.push(folder, "me/digits")
    card = (fake_hub.root / "me/digits/README.md").read_text()
    assert 'ebmjax.load("hf://me/digits")' in card and "Small." in card
    x = run.splits().test.image[:3]
    np.testing.assert_array_equal(
        ebmjax.load("hf://me/digits").logits(x), run.logits(x)
    )
    with push.portable_folder(str(written), "me/digits") as folder:
        assert folder == str(written)  # as it is
