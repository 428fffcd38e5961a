"""The tasks of the evaluation, on a small classifier of the digits."""

import dataclasses
import io
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from eval_runs import make_run, ridge_weights, small_config

from ebmjax import config, runs, sgld
from ebmjax.eval import attacks, calibration
from ebmjax.eval import evaluate as evaluation
from ebmjax.eval.result import Progress
from ebmjax.eval.tasks import attacks as attacks_task
from ebmjax.eval.tasks import calibration as calibration_task
from ebmjax.eval.tasks import samples as samples_task


@pytest.fixture
def run(tmp_path):
    return make_run(tmp_path)


PROGRESS = Progress()
slow = pytest.mark.slow  # for what the attacks take to compile


# --- calibration --------------------------------------------------


def test_calibration_before_and_after_a_temperature(run):
    numbers = calibration_task.compute(run, PROGRESS).numbers
    splits = run.splits()
    logits = run.logits(splits.test.image)
    fitted = calibration.fit_temperature(
        run.logits(splits.valid.image), splits.valid.label
    )
    assert numbers["temperature"]["value"] == fitted
    probs = calibration.softmax(logits / fitted)
    ece = calibration.ece(probs, splits.test.label, 15)
    assert numbers["temperature"]["ece"] == ece < numbers["as_trained"]["ece"]
    assert numbers["as_trained"]["reliability"]["counts"].sum() == 360


def test_without_validation_images_no_temperature_is_fitted(tmp_path):
    c = small_config()
    c.data.num_valid = 0
    numbers = calibration_task.compute(make_run(tmp_path, c), PROGRESS).numbers
    assert "no validation examples" in numbers["temperature"]["skipped"]
    assert numbers["as_trained"]["ece"] > 0


# --- attacks ------------------------------------------------------


@pytest.fixture(scope="module")
def attacked(tmp_path_factory):
    run = make_run(tmp_path_factory.mktemp("attacked"))
    return run, attacks_task.compute(run, PROGRESS)


@slow
def test_the_sweep_falls_with_eps_from_the_clean_accuracy(attacked):
    run, result = attacked
    sweep = result.numbers["norms"]["linf"]["sweep"]
    assert [row["eps_text"] for row in sweep] == ["4/255", "8/255", "32/255"]
    np.testing.assert_allclose(
        [row["eps"] for row in sweep], np.array([4, 8, 32]) / 255
    )
    accuracies = [result.numbers["clean_accuracy"], *(row["accuracy"] for row in sweep)]
    assert accuracies == sorted(accuracies, reverse=True)
    assert accuracies[0] > accuracies[-1] + 0.1
    assert result.numbers["norms"]["linf"]["pictured_eps"] == "8/255"


@slow
def test_eps_is_in_units_of_zero_to_one(attacked):
    # Logits are linear but for a term common to all classes: within eps of x and in
    # the bounds, class k gains at most Σ |w_k - w_y| min(2 eps, room) on class y.
    run, result = attacked
    test = run.splits().test
    x = test.image[:20].reshape(20, 1, 64) / 127.5 - 1
    w, labels = ridge_weights(), test.label[:20]
    logits = x[:, 0] @ w
    gap = logits[np.arange(20), labels][:, None] - logits
    slope = w.T[None] - w.T[labels][:, None]
    room = np.where(slope > 0, 1 - x, x + 1)

    def is_wrong(eps):  # in units of [0, 1]
        gain = np.sum(np.abs(slope) * np.minimum(2 * eps, room), axis=-1)
        return np.any((gain > gap) & (np.arange(10)[None] != labels[:, None]), axis=1)

    grid = np.linspace(0, 32 / 255, 1001)
    wrong = np.stack([is_wrong(eps) for eps in grid])
    exact = np.where(wrong.any(axis=0), grid[wrong.argmax(axis=0)], np.inf)
    distances = np.array(result.numbers["norms"]["linf"]["distances"])
    # No attack can do better, and this one comes near: it follows one class, which
    # need not be the nearest, and six bisections leave 0.004.
    some = np.isfinite(exact)
    assert 10 < some.sum() < 20 and np.all(np.isinf(distances[~some]))
    assert np.all(distances[some] >= exact[some] - 2e-4)
    assert np.all(distances[some] <= 1.1 * exact[some] + 0.004)
    for row in result.numbers["norms"]["linf"]["sweep"]:
        bound = np.mean(~is_wrong(row["eps"]))
        assert bound <= row["accuracy"] <= bound + 1 / 20


@slow
def test_refined_classifiers_are_attacked_by_both_gradients(attacked):
    _, result = attacked
    refined = result.numbers["refined"]["1"]
    assert refined["num_images"] == 5 and refined["num_copies"] == 2
    gradients = refined["norms"]["linf"]["gradients"]
    for rows in gradients.values():
        assert [row["eps_text"] for row in rows] == ["0", "4/255", "8/255", "32/255"]
    assert set(gradients) == {"true", "straight_through"}


@slow
def test_distal_examples_gain_confidence(attacked):
    run, result = attacked
    rows = result.numbers["distal"]
    assert [row["class"] for row in rows] == list("0123456789")
    images = np.load(_file(result.files["distal.npz"]))["x"]
    assert images.shape == (10, 8, 8, 1)
    probs = run.predict_proba(images)  # rounded to bytes
    own = probs[np.arange(10), np.arange(10)]
    np.testing.assert_allclose([row["confidence"] for row in rows], own, atol=0.05)
    assert own.mean() > 0.3


def only_the_sweep(run):
    c = run.config.eval.attacks
    c.distance_rounds, c.distal_steps, c.refine_steps, c.num_steps = 0, 0, (), 2


def one_step(key, logits_fn, x, labels, *, norm, eps):
    def loss(x):
        return jnp.take_along_axis(logits_fn(x), labels[:, None], axis=1).sum()

    return jnp.clip(x - eps * jnp.sign(jax.grad(loss)(x)), -1, 1)


def test_an_own_attack_is_a_curve_beside_pgd(run):
    only_the_sweep(run)
    task = attacks_task.task({"one step": one_step})
    results = evaluation.evaluate(run, tasks={"attacks": task})
    assert not evaluation.failures(results)
    rows = results["attacks"]["norms"]["linf"]["attacks"]["one step"]
    test = run.splits().test.take(slice(20))
    w, x = ridge_weights(), np.float32(test.image.reshape(20, 64) / 127.5 - 1)
    for row in rows:  # the logit's gradient is its weights, but for the common term
        down = w[:, test.label].T - 0.04 * x
        moved = np.clip(x - 2 * row["eps"] * np.sign(down), -1, 1)
        right = ((x @ w).argmax(1) == test.label) & (
            (moved @ w).argmax(1) == test.label
        )
        assert row["accuracy"] == pytest.approx(right.mean())
    assert "accuracy at L∞ 8/255, one step" in evaluation.table(results)
    evaluation.draw(run.workdir)  # without the code of the attack
    page = pathlib.Path(run.workdir, "report.html").read_text()
    assert page.count("one step") >= 2  # the figure and the table


@pytest.mark.parametrize(
    "attack, reason",
    [
        (lambda k, f, x, y, *, norm, eps: x + 1.1 * eps, "'mine' leaves the linf ball"),
        (lambda k, f, x, y, *, norm, eps: x * jnp.nan, "'mine' leaves the linf ball"),
        (lambda k, f, x, y, *, norm, eps: x + eps * jnp.sign(x), "leaves .-1, 1."),
        (lambda k, f, x, y, *, norm, eps: x[:, 0], "'mine' returned"),
    ],
)
def test_attacks_that_break_the_rules_are_refused(run, attack, reason):
    only_the_sweep(run)
    with pytest.raises(ValueError, match=reason):
        attacks_task.task({"mine": attack}).compute(run, PROGRESS)


def test_own_attacks_need_names_of_their_own():
    with pytest.raises(ValueError, match="'PGD' cannot be the name"):
        attacks_task.task({"PGD": one_step})


@slow
def test_foolbox_attacks_the_same_images(run):
    pytest.importorskip("foolbox")  # an extra
    c = run.config.eval.attacks
    c.crosscheck, c.distance_rounds, c.distal_steps, c.refine_steps = True, 0, 0, ()
    c.num_steps, c.step_share, c.batch_size = 20, 0.1, 8
    numbers = attacks_task.compute(run, PROGRESS).numbers["norms"]["linf"]
    ours = [row["accuracy"] for row in numbers["sweep"]]
    assert numbers["crosscheck"]["confirmed"]
    theirs = numbers["crosscheck"]["accuracies"]  # of last points only, by one loss
    np.testing.assert_allclose(ours[:2], theirs[:2], atol=0.051)
    assert ours[2] <= theirs[2] < 0.6


def test_a_missing_foolbox_is_named(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "foolbox", None)
    c = run.config.eval.attacks
    c.crosscheck, c.distance_rounds, c.distal_steps, c.refine_steps = True, 0, 0, ()
    with pytest.raises(ImportError, match=r"pip install 'ebmjax\[foolbox\]'"):
        attacks_task.compute(run, PROGRESS)


# --- samples ------------------------------------------------------


def test_samples_numbers_and_pictures(run):
    results = evaluation.evaluate(run, tasks=["samples"])
    numbers = results["samples"]
    assert "error" not in numbers, numbers
    start, *_, end = numbers["trace"]["median"]
    assert len(numbers["trace"]["median"]) == 5 and end < start
    assert numbers["mean_energy"]["chains"] < numbers["mean_energy"]["starts"]
    scores = numbers["scores"]
    assert set(scores["sets"]) == {"test", "chains", "buffer"}
    assert (scores["num_samples"], scores["num_reference"]) == (20, 60)
    assert (scores["kid_subset_size"], scores["inception_splits"]) == (20, 10)
    distance = {k: v["frechet_distance"] for k, v in scores["sets"].items()}
    assert distance["test"] < distance["buffer"]  # whose chains are noise here
    for name in numbers["files"]:
        assert pathlib.Path(run.workdir, "eval", name).stat().st_size > 0
    assert "buffer.png" in numbers["files"]


def test_an_extractor_that_is_not_there_says_what_to_pass(run):
    run.config.eval.samples.extractor = "inception"
    with pytest.raises(FileNotFoundError, match="extractor: inception is not a run"):
        samples_task.compute(run, PROGRESS)


def test_another_run_may_be_the_extractor(run, monkeypatch, tmp_path):
    other = make_run(tmp_path)
    monkeypatch.setattr(runs, "load", lambda workdir: {"other": other}[workdir])
    run.config.eval.samples.extractor = "other"
    own_features = samples_task.compute(make_run(tmp_path), PROGRESS).numbers["scores"]
    scores = samples_task.compute(run, PROGRESS).numbers["scores"]
    assert scores["extractor"] == "other" and own_features["extractor"] == "this run"
    assert scores["sets"] == own_features["sets"]  # for it is the same network


def test_chains_that_diverge_are_counted_and_left_out(run):
    def sampler(energy_fn):
        chain = sgld.JEM(energy_fn)

        def step(key, state):
            state, info = chain.step(key, state)
            first = jnp.arange(len(state.position)) == 0  # of each device and batch
            x = jnp.where(first[:, None, None, None], jnp.nan, state.position)
            return state._replace(position=x), info

        return chain._replace(step=step)

    run = dataclasses.replace(run, sampler=sampler)
    result = samples_task.compute(run, PROGRESS)
    assert result.numbers["num_diverged"] == 4  # as there are devices
    images = np.load(_file(result.files["samples.npz"]))
    assert len(images["chains"]) == 16
    assert "4 of 20 chains diverged" in (
        samples_task.sample_quality_verdict(result.numbers).detail
    )


def test_without_a_buffer_there_are_chains(run):
    result = samples_task.compute(dataclasses.replace(run, buffer=None), PROGRESS)
    assert result.numbers["neighbours_of"] == "chains"
    assert "buffer.png" not in result.files


def test_attack_losses_are_those_that_the_config_offers():
    assert set(config.default().eval.attacks.losses) == set(attacks.LOSSES)
    assert jax.device_count() == 4  # the parts are tested on several devices


def _file(content):
    return io.BytesIO(content)
