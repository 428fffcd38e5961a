"""Classifiers of other programs: saved logits, and a function of JAX."""

import json
import logging

import jax.numpy as jnp
import numpy as np
import pytest
import test_eval_main
from eval_runs import Page, make_run, ridge_weights, small_config

import ebmjax
from ebmjax import config
from ebmjax.eval import evaluate as evaluation
from ebmjax.eval import feature_scores, ood, other_classifiers
from ebmjax.eval.report import comparison

SAME = ("classification", "calibration", "selective")


def linear(x):
    """The network of `eval_runs`, as anyone may have it."""
    flat = x.reshape(len(x), -1)
    norm = jnp.sum(flat**2, axis=-1, keepdims=True)
    return flat @ jnp.asarray(ridge_weights()) - 0.02 * norm


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def expected(run):
    return evaluation.evaluate(run, tasks=SAME)


def saved(run, num_ood=30):
    splits = run.splits()
    noise = np.random.default_rng(0).uniform(-1, 1, (num_ood, 8, 8, 1))
    return ebmjax.Logits(
        run.logits(splits.test.image),
        splits.test.label,
        valid=(run.logits(splits.valid.image), splits.valid.label),
        ood={"noise": run.logits(np.float32(noise))},
    )


def numbers(results, name):
    """Those that do not say where they are from."""
    drop = ("settings", "seconds", "step", "missing")
    return {k: v for k, v in results[name].items() if k not in drop}


@pytest.fixture(scope="module")
def of_logits(run, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("logits")
    return evaluation.evaluate(saved(run), workdir=workdir), workdir


def test_saved_logits_give_the_numbers_of_the_run(of_logits, expected):
    results, _ = of_logits
    for name in ("classification", "calibration"):
        assert numbers(results, name) == numbers(expected, name)
    for score, of_score in results["selective"]["scores"].items():
        assert of_score == expected["selective"]["scores"][score]
    assert results["selective"]["missing"].keys() == {"approximate_mass"}
    assert results["calibration"]["temperature"]["value"] > 0


def test_ood_sets_by_the_scores_that_logits_allow(of_logits, run):
    found, arrays = of_logits[0]["ood"], saved(run)
    assert set(found["labels"]) == set(ood.SCORES) - {"approximate_mass", "odin"}
    assert {"ODIN", "Mahalanobis distance of features"} < set(found["missing"])
    inside = np.logaddexp.reduce(np.float64(arrays.logits), axis=-1)
    outside = np.logaddexp.reduce(np.float64(arrays.ood["noise"]), axis=-1)
    auroc = np.mean(inside[:, None] > outside[None])
    assert found["mean"]["log_density"]["auroc"] == pytest.approx(auroc, abs=1e-4)
    assert found["sets"]["noise"]["num_images"] == 30


def test_what_needs_the_model_says_so(of_logits, expected):
    results, workdir = of_logits
    for name in ("attacks", "samples", "shift"):
        assert results[name]["skipped"] == other_classifiers.NO_MODEL
    page = Page((workdir / "report.html").read_text())
    assert "saved logits on arrays" in page.text
    assert "Risk against coverage" in page.text
    assert page.text.count(other_classifiers.NO_MODEL) >= 3
    assert set(results["run"]) == set(expected["run"])


def test_without_validation_and_ood_sets(run, tmp_path):
    arrays = saved(run)._replace(valid=None, ood={})
    results = evaluation.evaluate(arrays, workdir=tmp_path)
    assert "valid_logits" in results["calibration"]["temperature"]["skipped"]
    assert "ood_NAME" in results["ood"]["skipped"]
    assert evaluation.failures(results) == {}


@pytest.mark.parametrize("num_classes", [2, 120])
@pytest.mark.parametrize("dtype", ["float64", "float16", "int64"])
def test_unusual_logits_have_all_numbers(num_classes, dtype, tmp_path):
    rng = np.random.default_rng(0)
    logits = (5 * rng.normal(size=(40, num_classes))).astype(dtype)
    labels = logits.argmax(axis=-1).astype("uint8")
    labels[:10] = 0
    arrays = ebmjax.Logits(logits, labels, ood={"one": logits[:1]})
    results = evaluation.evaluate(arrays, workdir=tmp_path)
    assert evaluation.failures(results) == {}
    accuracy = np.mean(logits.argmax(axis=-1) == labels)
    assert results["classification"]["accuracy"] == accuracy
    assert ("top5_accuracy" in results["classification"]) == (num_classes == 120)
    assert results["ood"]["sets"]["one"]["num_images"] == 1


def test_numbers_of_another_file_are_marked(run, tmp_path):
    arrays = saved(run)
    first = ["classification", "selective"]
    evaluation.evaluate(arrays, workdir=tmp_path, tasks=first)
    other = arrays._replace(name="other.npz")
    results = evaluation.evaluate(other, workdir=tmp_path, tasks=first[:1])
    text = Page((tmp_path / "report.html").read_text()).text
    assert "selective is of saved logits on arrays: evaluate it again." in text
    assert "classification is of" not in text
    settings = results["classification"]["settings"]
    assert settings["classifier"] == "saved logits on other.npz"


def test_a_function_of_jax_gives_the_numbers_of_the_run(run, expected, tmp_path):
    c = small_config()
    results = evaluation.evaluate(
        linear, data=run.splits(), workdir=tmp_path, config=c, tasks=(*SAME, "ood")
    )
    assert not set(feature_scores.LABELS) & set(results["ood"]["labels"])
    assert set(feature_scores.LABELS.values()) == set(results["ood"]["missing"])
    for name in ("classification", "calibration"):
        for k, value in numbers(expected, name).items():
            if isinstance(value, float):
                assert results[name][k] == pytest.approx(value, rel=1e-4)
    scores = expected["selective"]["scores"]
    for score, of_score in results["selective"]["scores"].items():
        assert of_score["aurc"] == pytest.approx(scores[score]["aurc"], rel=1e-2)
    assert "the function linear on own arrays" in (tmp_path / "report.html").read_text()


def test_it_is_compared_with_runs(of_logits, expected, run, tmp_path):
    table = comparison.write([run.workdir, str(of_logits[1])], str(tmp_path))
    assert "AURC, max p(y | x)" in table
    assert "Risk against coverage" in (tmp_path / "report.html").read_text()


def arrays(**changes):
    rng = np.random.default_rng(0)
    good = {
        "logits": rng.normal(size=(6, 3)),
        "labels": np.arange(6) % 3,
        "valid_logits": rng.normal(size=(4, 3)),
        "valid_labels": np.arange(4) % 3,
        "ood_noise": rng.normal(size=(5, 3)),
    }
    return {k: v for k, v in (good | changes).items() if v is not None}


@pytest.mark.parametrize(
    "changes, message",
    [
        (
            {"logits": np.zeros(6)},
            r"f.npz: logits has shape \[6\]; expected \[N, K > 1",
        ),
        (
            {"labels": np.arange(5)},
            r"f.npz: labels are int64 \[5\]; expected 6 integers",
        ),
        ({"labels": np.zeros(6)}, r"labels are float64 \[6\]; expected 6 integers"),
        ({"labels": np.arange(6)}, "run from 0 to 5 for 3 classes; expected 0 to 2"),
        ({"labels": np.arange(6) - 3}, "run from -3 to 2"),
        ({"logits": np.full((6, 3), np.nan)}, "logits: 6 of 6 rows are not finite"),
        ({"logits": np.full((6, 3), 1e200)}, "6 of 6 rows are not finite in float32"),
        ({"valid_logits": np.zeros((4, 2))}, r"valid_logits has shape \[4, 2\].*, 3\]"),
        ({"ood_noise": np.zeros((4, 2))}, r"ood_noise has shape \[4, 2\].*\[N, 3\]"),
        ({"ood_noise": np.zeros((0, 3))}, r"ood_noise has shape \[0, 3\]"),
        ({"valid_labels": None}, "one of 'valid_logits' and 'valid_labels'"),
        ({"labels": None}, "f.npz holds 'logits', .*; expected 'logits'"),
        ({"odd_noise": np.zeros((4, 3))}, "f.npz holds .* 'odd_noise'; expected"),
    ],
)
def test_a_wrong_file_is_refused(changes, message, tmp_path):
    np.savez(tmp_path / "f.npz", **arrays(**changes))
    with pytest.raises(ValueError, match=message):
        read = other_classifiers.read(tmp_path / "f.npz")
        other_classifiers.of_logits(read, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_files_that_are_none(tmp_path):
    with pytest.raises(FileNotFoundError, match="no.npz does not exist"):
        other_classifiers.read(tmp_path / "no.npz")
    (tmp_path / "f.npz").write_bytes(b"text")
    with pytest.raises(OSError, match="cannot be read as .npz"):
        other_classifiers.read(tmp_path / "f.npz")
    with open(tmp_path / "f.npz", "wb") as file:
        np.save(file, np.zeros((6, 3)))
    with pytest.raises(OSError, match="it is one array, of np.save; expected 'logits'"):
        other_classifiers.read(tmp_path / "f.npz")


def test_probabilities_are_a_warning(tmp_path, caplog):
    probs = np.float32([[0.7, 0.3], [0.2, 0.8]])
    with caplog.at_level(logging.WARNING):
        other_classifiers.of_logits(ebmjax.Logits(probs, np.array([0, 1])), tmp_path)
    assert "rows of logits are probabilities" in caplog.text
    caplog.clear()
    other_classifiers.of_logits(ebmjax.Logits(10 * probs, np.array([0, 1])), tmp_path)
    assert not caplog.text


def test_what_is_missing_or_too_much(run, tmp_path):
    with pytest.raises(ValueError, match="workdir= is missing"):
        evaluation.evaluate(saved(run))
    with pytest.raises(ValueError, match="data= is missing"):
        evaluation.evaluate(linear, workdir=tmp_path)
    with pytest.raises(ValueError, match="a run has its own"):
        evaluation.evaluate(run, workdir=tmp_path)
    with pytest.raises(ValueError, match="is a run directory"):
        evaluation.evaluate(saved(run), workdir=run.workdir)


@pytest.mark.slow
def test_the_command_line(tmp_path):
    np.savez(tmp_path / "f.npz", **arrays())
    flags = f"--logits={tmp_path}/f.npz", f"--workdir={tmp_path}/out"
    done = test_eval_main.command(*flags, "--eval.num_bins=5")
    assert done.returncode == 0, done.stderr
    assert "accuracy at 90 % coverage" in done.stdout
    results = json.loads((tmp_path / "out" / "eval.json").read_text())
    assert results["calibration"]["num_bins"] == 5
    assert results["run"]["data"] == "f.npz"
    assert set(config.default().eval.tasks) <= set(results)
    np.savez(tmp_path / "f.npz", **arrays(labels=np.arange(6)))
    done = test_eval_main.command(*flags)
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: f.npz: labels run from 0 to 5")
