"""The out-of-distribution task, and data that are vectors."""

import dataclasses
import io
import pathlib
import types
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import pytest
from eval_runs import make_run

from ebmjax import data, runs
from ebmjax.eval import evaluate as evaluation
from ebmjax.eval import feature_scores, ood, ood_sets, openood
from ebmjax.eval.result import Progress
from ebmjax.eval.tasks import ood as ood_task
from ebmjax.eval.tasks import ood_report


@pytest.fixture
def run(tmp_path):
    return make_run(tmp_path)


PROGRESS = Progress()


def test_ood_scores_are_those_of_the_images_as_they_are_without_noise(run):
    run.config.eval.ood.noise_std = 0.0
    result = ood_task.compute(run, PROGRESS)
    arrays = np.load(_file(result.files["ood_scores.npz"]))
    x = run.splits().test.image[:50]
    np.testing.assert_allclose(
        arrays["test/log_density"], run.log_density(x), rtol=1e-5
    )
    pair = arrays["test/max_logit"], arrays["constant/max_logit"]
    metrics = result.numbers["sets"]["constant"]["scores"]["max_logit"]
    assert metrics["auroc"] == ood.auroc(*pair)
    assert metrics["fpr95_out"] == ood.fpr_at_tpr(*pair, positive="out")
    mean = np.mean(
        [s["scores"]["max_logit"]["aupr_in"] for s in result.numbers["sets"].values()]
    )
    assert result.numbers["mean"]["max_logit"]["aupr_in"] == mean


def test_ood_sets_from_files_are_brought_to_size(run, tmp_path):
    path = tmp_path / "other.npz"
    images = np.random.default_rng(0).integers(0, 256, (30, 20, 16, 3))
    np.savez(path, image=images.astype(np.uint8))
    run.config.eval.ood.sets = (str(path), "uniform")
    numbers = ood_task.compute(run, PROGRESS).numbers
    assert numbers["sets"][str(path)]["num_images"] == 30


def test_an_ood_set_that_is_not_there_leaves_the_others_whole(run):
    run.config.eval.ood.sets = ("/nowhere/at/all.npz", "uniform")
    results = evaluation.evaluate(run, tasks=["ood"])
    assert (
        "/nowhere/at/all.npz" in results["ood"]["sets"]["/nowhere/at/all.npz"]["error"]
    )
    assert results["ood"]["sets"]["uniform"]["scores"]["log_density"]["auroc"] > 0.5
    assert list(evaluation.failures(results)) == ["ood: /nowhere/at/all.npz"]


@pytest.mark.parametrize(
    "broken, reason",
    [
        (RuntimeError("decompression bomb"), "photos: RuntimeError: decompression"),
        (np.zeros((0, 8, 8, 1), np.uint8), "photos has no examples"),
        (
            np.zeros((9, 4, 4, 1), np.uint8),
            "photos has examples of uint8 (4, 4, 1)",
        ),
        (np.zeros((9, 8, 8, 1), np.float32), "photos has examples of float32"),
    ],
)
def test_an_odd_ood_set_fails_alone_and_by_name(run, monkeypatch, broken, reason):
    def load_split(name, **kwargs):
        if isinstance(broken, Exception):
            raise broken
        return data.Dataset(broken, np.zeros(len(broken), np.int32))

    run.config.eval.ood.sets = ("photos", "test", "uniform")
    run.splits()  # which are kept
    monkeypatch.setattr(data, "load_split", load_split)
    numbers = ood_task.compute(run, PROGRESS).numbers
    assert numbers["sets"]["photos"]["error"].startswith(reason)
    assert "no set may be called 'test'" in numbers["sets"]["test"]["error"]
    assert numbers["mean"] == numbers["sets"]["uniform"]["scores"]
    verdict = ood_report.ood_verdict(numbers)
    assert "failed: photos, test" in verdict.detail


def mean_of_pixels(logits_fn, x):
    return x.mean(axis=(1, 2, 3))


def test_an_own_ood_score_is_computed_and_shown(run):
    run.config.eval.ood.sets, run.config.eval.ood.noise_std = ("uniform",), 0.0
    own = ood_task.Score(mean_of_pixels, "mean of the pixels")
    task = ood_task.task(ood_task.SCORES | {"mine": own})
    results = evaluation.evaluate(run, tasks={"ood": task})
    test = run.splits().test.image[:50] / 127.5 - 1
    arrays = np.load(pathlib.Path(run.workdir, "eval", "ood_scores.npz"))
    np.testing.assert_allclose(arrays["test/mine"], test.mean((1, 2, 3)), rtol=1e-4)
    # Reports know the label without the code that computed the score.
    assert "mean AUROC, mean of the pixels" in evaluation.table(results)
    evaluation.draw(run.workdir)
    page = pathlib.Path(run.workdir, "report.html").read_text()
    assert page.count("mean of the pixels") >= 6  # five tables, a histogram and a curve


def test_a_score_that_is_not_finite_is_left_out_and_named(run):
    run.config.eval.ood.sets = ("uniform", "constant")
    scores = {
        "good": ood_task.SCORES["max_logit"],
        "bad": ood_task.Score(lambda logits_fn, x: jnp.log(x[:, 0, 0, 0]), "bad"),
    }
    results = evaluation.evaluate(run, tasks={"ood": ood_task.task(scores)})
    numbers = results["ood"]
    assert set(numbers["mean"]) == {"good"} | set(numbers["labels"]) - {"bad"}
    (reason,) = evaluation.failures(results).values()
    assert reason.startswith("not finite on ") and reason.endswith("examples of test")


@pytest.mark.parametrize("num", [20, 5_000])
def test_the_curve_of_a_score_encloses_its_auroc(num):
    rng = np.random.default_rng(0)
    arrays = {"test/s": rng.normal(1, 1, num), "set/s": rng.normal(size=num)}
    out, inside = ood_report._roc(arrays, "set", "s")
    assert (out[0], inside[0], out[-1], inside[-1]) == (0, 0, 1, 1)
    assert len(out) == len(inside) <= 200
    auroc = ood.auroc(arrays["test/s"], arrays["set/s"])  # not thinned out
    tolerance = 1e-12 if num == 20 else 2e-3
    assert np.trapezoid(inside, out) == pytest.approx(auroc, abs=tolerance)


def test_scores_of_another_shape_or_name_are_refused(run):
    wrong = ood_task.Score(lambda logits_fn, x: x.mean(axis=(1, 2)), "wrong")
    with pytest.raises(ValueError, match=r"'wrong' returned shape \(\d+, 1\)"):
        ood_task.task({"wrong": wrong}).compute(run, PROGRESS)
    for name in ("a/b", "", "refined_distance"):
        with pytest.raises(ValueError, match="cannot be the name of an OOD score"):
            ood_task.task({name: wrong})


# --- data that are vectors --------------------------------------------


class Scaling(NamedTuple):
    mean: np.ndarray
    std: np.ndarray


def test_sets_that_a_run_saw_as_outliers_are_marked(run, tmp_path):
    paths = [tmp_path / name for name in ("seen.npz", "other.npz")]
    images = np.random.default_rng(0).integers(0, 256, (30, 8, 8, 1), np.uint8)
    for path in paths:
        np.savez(path, x_train=images, x_test=images)
    seen, other = map(str, paths)
    run.config.eval.ood.sets = (seen, other, "uniform")
    run.config.data.outliers = f"{seen}@train"
    sets = {seen: images, other: images}
    assert ood_sets.seen_in_training(run, sets) == []  # no term used them
    run.config.objective.outliers = 0.1
    results = evaluation.evaluate(run, tasks=["ood"])
    numbers = results["ood"]
    assert not evaluation.failures(results)
    assert numbers["seen_in_training"] == [seen]
    warning = "warning: trained on outliers of seen.npz"
    assert warning in ood_report.ood_verdict(numbers).detail
    evaluation.draw(run.workdir)
    page = pathlib.Path(run.workdir, "report.html").read_text()
    assert page.lower().count(warning) == 2  # at the top and in the section
    # Of another split, or by another name of the same file.
    name = f"{tmp_path}/../{tmp_path.name}/seen.npz"
    run.config.data.outliers = "svhn_cropped@train[:100]"
    sets = dict.fromkeys(("svhn_cropped", "cifar10", seen), images)
    assert ood_sets.seen_in_training(run, sets) == ["svhn_cropped"]
    run.config.data.outliers = name
    sets = {f"{seen}@test": images}
    assert ood_sets.seen_in_training(run, sets) == [f"{seen}@test"]


def test_outliers_that_were_given_as_arrays_are_known_by_their_images(run):
    rng = np.random.default_rng(1)
    seen, new = rng.integers(0, 256, (2, 30, 8, 8, 1), np.uint8)
    outliers = data.Dataset(seen, np.zeros(30, int))
    run = dataclasses.replace(run, data=run.splits()._replace(outliers=outliers))
    run.config.objective.outliers = 0.1
    half = np.concatenate([seen[:5], new[:5]])
    sets = {"mine": half, "new": new, "one alike": np.concatenate([new, seen[:1]])}
    assert ood_sets.seen_in_training(run, sets) == ["mine"]


class VectorRun(runs.Run):
    """A run of vectors: the digits' pixels, in units of their own."""

    scaling = Scaling(np.full(64, 5.0, np.float32), np.full(64, 2.0, np.float32))

    def splits(self):
        def flat(dataset):
            x = np.float32(dataset.image.reshape(-1, 64) / 127.5 - 1)
            return dataset._replace(image=x * self.scaling.std + self.scaling.mean)

        images = data.load("digits", num_valid=200)
        splits = types.SimpleNamespace(scaling=self.scaling)
        for name in ("train", "valid", "test"):
            setattr(splits, name, flat(getattr(images, name)))
        return splits

    def map(self, fn, *arrays, **options):
        def with_model(model, *args):
            return fn(VectorModel(model.network, model.variables), *args)

        return super().map(with_model, *arrays, **options)

    def logits(self, x):
        return self.map(lambda model, key, x: model.logits(model.to_float(x)), x)


class VectorModel(runs.Model):
    def to_float(self, x):
        return (x - 5.0) / 2.0  # by the scaling of VectorRun


@pytest.fixture
def vectors(run):
    fields = {f.name: getattr(run, f.name) for f in dataclasses.fields(run)}
    return VectorRun(**fields | {"image_shape": (64,)})


def test_vectors_are_classified_and_what_needs_images_is_skipped(vectors, run):
    results = evaluation.evaluate(vectors, tasks=evaluation.TASKS)
    assert not evaluation.failures(results)
    same = evaluation.evaluate(run, tasks=["classification"])["classification"]
    assert results["classification"]["accuracy"] == same["accuracy"]
    for name in ("attacks", "samples"):
        assert "the data are vectors" in results[name]["skipped"]
    sets = results["ood"]["sets"]
    assert "only images" in sets.pop("constant")["skipped"]
    assert set(sets) == {"interpolation", "uniform", "gaussian"}
    assert all(x["scores"]["log_density"]["auroc"] >= 0 for x in sets.values())
    assert "ood_examples.png" not in results["ood"]["files"]
    page = pathlib.Path(run.workdir, "report.html").read_text()
    assert "attacks are bounded in pixels" in page and "ROC by log p(x)" in page


def test_noise_has_the_moments_of_vectors(vectors):
    test = np.zeros((2_000, 64), np.float32)
    for name in ("uniform", "gaussian"):
        noise = ood_sets.read(vectors, name, test)
        assert noise.dtype == np.float32 and noise.shape == test.shape
        np.testing.assert_allclose(noise.mean(0), 5, atol=0.2)
        np.testing.assert_allclose(noise.std(0), 2, atol=0.2)


def _file(content):
    return io.BytesIO(content)


def test_near_and_far_sets_have_means_and_openoods_table(run):
    run.config.eval.ood.sets = ("constant",)
    run.config.eval.ood.near = ("interpolation", "gaussian")
    run.config.eval.ood.far = ("uniform", "constant")
    run.config.eval.ood.temperature = 2.0
    result = ood_task.compute(run, PROGRESS)
    sets = {n: x["scores"] for n, x in result.numbers["sets"].items()}
    assert list(sets) == ["constant", "interpolation", "gaussian", "uniform"]
    for score in ("tempered_log_density", "mahalanobis", "nearest_neighbour", "odin"):
        near = [sets[name][score]["auroc"] for name in ("interpolation", "gaussian")]
        found = result.numbers["groups"]["near"][score]["auroc"]
        np.testing.assert_allclose(found, np.mean(near))
    lines = result.files["openood.csv"].decode().splitlines()
    assert lines[0] == "score,dataset,FPR@95,AUROC,AUPR_IN,AUPR_OUT,ACC"
    assert list(result.numbers["labels"])[:6] == list(ood.SCORES)  # headline: log p(x)
    (row,) = (line for line in lines if line.startswith("max_logit,farood"))
    values = np.float64(row.split(",")[2:])
    far = result.numbers["groups"]["far"]["max_logit"]
    np.testing.assert_allclose(values[0], 100 * far["fpr95_out"], atol=0.005)
    x, y = (a[:50] for a in run.splits().test)
    correct = run.logits(x).argmax(-1) == y
    np.testing.assert_allclose(values[4], 100 * correct.mean(), atol=0.005)


def test_sets_of_one_name_have_rows_of_their_own_in_openoods_table():
    row = {"max_logit": dict.fromkeys(openood.COLUMNS.values(), 0.5)}
    names = ("/a/photos.npz", "/b/photos", "/c/v1.5.npz", "hf:me/v2.0", "mnist")
    numbers = {
        "sets": {name: {"scores": row} for name in names},
        "groups": {"near": row, "far": {}},
        "labels": {"max_logit": "max logit"},
    }
    lines = openood.table(numbers, 0.9).splitlines()[1:]
    found = [line.split(",")[1] for line in lines]
    assert found == ["/a/photos.npz", "/b/photos", "v1.5", "v2.0", "mnist", "nearood"]
    assert lines[-1] == "max_logit,nearood,50.00,50.00,50.00,50.00,90.00"


def test_scores_of_features_are_fitted_to_training_examples(run):
    run.config.eval.ood.update(noise_std=0.0, num_fit=100, sets=("uniform",))
    arrays = np.load(_file(ood_task.compute(run, PROGRESS).files["ood_scores.npz"]))
    splits = run.splits()
    train, test = (
        (s.image.reshape(len(s.image), -1) / 127.5 - 1)[:, ::4]
        for s in (splits.train, splits.test)
    )
    expected = feature_scores.mahalanobis(
        train[:100], splits.train.label[:100], test[:50]
    )
    np.testing.assert_allclose(arrays["test/mahalanobis"], expected, rtol=1e-3)
    run.config.eval.ood.num_fit = 0
    assert "mahalanobis" not in ood_task.compute(run, PROGRESS).numbers["labels"]
