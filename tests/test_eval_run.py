import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ebmjax import config, data
from ebmjax.eval import calibration
from ebmjax.eval import run as eval_run


class FakeRun:
    """A linear classifier of the digits, fitted in closed form: all that
    evaluation asks of `runs.Run`, in a few lines and on one device."""

    def __init__(self, workdir):
        self.config = config.default()
        self.config.data.name = "digits"
        self.config.data.num_valid = 200
        self.workdir, self.step = workdir, 7
        self.class_names, self.num_classes = tuple("0123456789"), 10
        self._splits = data.load("digits", num_valid=200)
        train = self._splits.train
        x = np.float32(train.image.reshape(len(train.image), -1) / 127.5 - 1)
        one_hot = np.eye(10, dtype=np.float32)[train.label]
        gram = x.T @ x + 100 * np.eye(64, dtype=np.float32)
        self._weights = jnp.asarray(6 * np.linalg.solve(gram, x.T @ (one_hot - 0.1)))
        k_chains = jax.random.key(1)
        self.buffer = np.asarray(
            jax.random.uniform(k_chains, (40, 8, 8, 1), minval=-1, maxval=1)
        )

    def splits(self):
        return self._splits

    def logits_fn(self, x):
        return x.reshape(len(x), -1) @ self._weights - 0.02 * jnp.sum(
            x**2, axis=(1, 2, 3)
        ).reshape(-1, 1)

    def penultimate_fn(self, x):
        return x.reshape(len(x), -1)[:, ::7]

    def logits(self, x):
        x = np.asarray(x)
        if x.dtype == np.uint8:
            x = np.float32(x / 127.5 - 1)
        return np.asarray(jax.jit(self.logits_fn)(x))

    def map(self, fn, *arrays, batch_size=None, key=None):
        size = batch_size or self.config.eval.batch_size
        fn, outputs = jax.jit(fn), []
        for number, start in enumerate(range(0, len(arrays[0]), size)):
            part = [jnp.asarray(x[start : start + size]) for x in arrays]
            if key is not None:
                part.insert(0, jax.random.fold_in(key, number))
            outputs.append(fn(*part))
        return jax.tree.map(lambda *xs: np.concatenate(xs), *outputs)


@pytest.fixture
def run(tmp_path):
    return FakeRun(str(tmp_path))


def test_classification_is_what_calibration_says_of_the_logits(run):
    found = eval_run.evaluate(run, parts=("classification",))["classification"]
    test = run.splits().test
    logits = run.logits(test.image)
    assert found["num_images"] == len(test.label) == 360
    assert found["accuracy"] == np.mean(logits.argmax(-1) == test.label) > 0.9
    assert found["nll"] == calibration.nll_from_logits(logits, test.label)
    assert found["ece"] == calibration.ece(calibration.softmax(logits), test.label, 15)
    assert "noised" not in found and "top5_accuracy" not in found
    stored = json.loads(pathlib.Path(run.workdir, "eval.json").read_text())
    assert stored["classification"] == found
    assert stored["run"]["step"] == found["step"] == 7


def test_noise_at_test_time_is_a_second_row(run):
    run.config.eval.noise_std = 2.0
    found = eval_run.evaluate(run, parts=["classification"])["classification"]
    assert found["noised"]["noise_std"] == 2.0
    assert found["noised"]["accuracy"] < found["accuracy"]


def test_a_second_call_keeps_the_parts_that_are_there(run):
    before = {"calibration": {"ece": 0.25, "step": 7}}
    pathlib.Path(run.workdir, "eval.json").write_text(json.dumps(before))
    after = eval_run.evaluate(run, parts=["classification"])
    assert after["calibration"] == before["calibration"]
    assert "accuracy" in after["classification"]


def test_a_part_that_fails_says_why_and_leaves_the_others_whole(run, monkeypatch):
    def broken(run, say):
        raise RuntimeError("no picture of a cat")

    monkeypatch.setitem(eval_run.PARTS, "broken", broken)
    results = eval_run.evaluate(run, parts=["broken", "classification"])
    assert results["broken"]["error"] == "RuntimeError: no picture of a cat"
    assert eval_run.failed(results) == ["broken"]
    assert results["classification"]["accuracy"] > 0.9
    assert "no picture of a cat" in eval_run.table(results)


def test_an_unknown_part_is_named_before_anything_is_done(run):
    with pytest.raises(ValueError, match="no part 'ece': there are classification"):
        eval_run.evaluate(run, parts=["ece"])
    assert not pathlib.Path(run.workdir, "eval.json").exists()


def test_what_is_not_finite_is_null_in_json():
    text = eval_run.to_json({"a": np.array([1.0, np.nan]), "b": (np.inf, np.int64(3))})
    assert json.loads(text) == {"a": [1.0, None], "b": [None, 3]}


def test_a_damaged_eval_json_is_named(tmp_path):
    (tmp_path / "eval.json").write_text("{")
    with pytest.raises(ValueError, match="eval.json is not JSON"):
        eval_run.read(tmp_path)


def test_table_gives_per_cent(run):
    results = eval_run.evaluate(run, parts=["classification"])
    accuracy = results["classification"]["accuracy"]
    assert f"{accuracy:.2%} of 360" in eval_run.table(results)
