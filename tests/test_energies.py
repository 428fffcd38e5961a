"""Energies under attack and counterfactuals: by algebra, and on linear logits."""

import dataclasses
import functools
import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from eval_runs import make_run, small_config
from scipy import special

from ebmjax import sgld
from ebmjax.eval import attacks, energies
from ebmjax.eval import evaluate as evaluation
from ebmjax.eval.result import Progress
from ebmjax.eval.tasks import counterfactuals as counterfactuals_task
from ebmjax.eval.tasks import energies as energies_task

RNG = np.random.default_rng(0)


def test_their_difference_is_the_cross_entropy():
    logits, labels = RNG.normal(0, 3, (7, 4)), RNG.integers(0, 4, 7)
    marginal, joint = energies.of_logits(logits, labels)
    np.testing.assert_allclose(marginal, -special.logsumexp(logits, axis=1), rtol=1e-5)
    log_prob = special.log_softmax(logits, axis=1)[np.arange(7), labels]
    np.testing.assert_allclose(joint - marginal, -log_prob, atol=1e-5)


def test_each_example_has_one_outcome():
    before, after = [True, True, False, False], [True, False, True, False]
    found = energies.outcomes(before, after)
    assert {k: v.tolist() for k, v in found.items()} == {
        "withstood": [True, False, False, False],
        "fooled": [False, True, False, False],
        "wrong": [False, False, True, True],
    }


def test_a_chain_on_linear_logits_is_known():
    """dE(x, y)/dx is minus the weights of y, wherever x is."""
    w = np.float32(RNG.normal(size=(6, 3)))
    x, targets = np.float32(RNG.normal(size=(5, 6))), np.array([0, 1, 2, 1, 0])
    found = energies.counterfactual(
        jax.random.key(0),
        lambda x: x @ w,
        jnp.asarray(x),
        targets,
        num_steps=4,
        sampler=functools.partial(sgld.sgld, step_size=0.05, noise_std=0.0),
    )
    end = x + 4 * 0.05 * w.T[targets]
    np.testing.assert_allclose(found.x, end, rtol=1e-4, atol=1e-6)
    probs = special.softmax(end @ w, axis=1)[np.arange(5), targets]
    np.testing.assert_allclose(found.confidence, probs, rtol=1e-4)
    log_density = special.logsumexp(end @ w, axis=1)
    np.testing.assert_allclose(found.log_density, log_density, rtol=1e-4)
    length = 0.2 * np.linalg.norm(w.T[targets], axis=1)
    np.testing.assert_allclose(found.distance, length, rtol=1e-4)


# --- the task of energies ------------------------------------------------------------


def test_changes_are_means_by_outcome():
    labels = np.array([0, 0, 1])  # right both times, fooled, wrong before
    before = np.log([[3.0, 1], [3, 1], [3, 1]])
    after = np.log([[2.0, 1], [2, 6], [2, 1]])
    found = energies_task.changes(before, after, labels)
    groups = found["groups"]
    assert {k: x["num"] for k, x in groups.items()} == {
        "all": 3,
        "withstood": 1,
        "fooled": 1,
        "wrong": 1,
    }
    fooled = groups["fooled"]
    assert fooled["marginal"]["clean"] == pytest.approx(-np.log(4))
    assert fooled["marginal"]["attacked"] == pytest.approx(-np.log(8))
    assert fooled["marginal"]["change"] == pytest.approx(-np.log(2))
    assert fooled["joint"]["change"] == pytest.approx(np.log(3 / 2))
    # Of nine pairs of log p(x), clean against attacked, six have the clean one above.
    assert found["auroc"] == pytest.approx(6 / 9)


def test_what_is_not_a_number_is_a_mistake_and_has_no_auroc():
    before, after = np.zeros((1, 2)) + [1, 0], np.full((1, 2), np.nan)
    found = energies_task.changes(before, after, np.array([0]))
    assert found["auroc"] is None and found["groups"]["fooled"]["num"] == 1


@pytest.fixture
def run(tmp_path):
    c = small_config()
    c.eval.energies.update(eps_linf=(4.0, 48.0), eps_l2=(0.5,))
    run = make_run(tmp_path, c)
    sampler = functools.partial(sgld.sgld, step_size=0.5, noise_std=0.0)
    return dataclasses.replace(run, sampler=sampler)


@pytest.mark.slow
def test_the_task_attacks_at_each_eps(run):
    result = energies_task.compute(run, Progress())
    rows = result.numbers["attacks"]
    at = [(row["norm"], row["eps_text"]) for row in rows]
    assert at == [("linf", "4/255"), ("linf", "48/255"), ("l2", "0.5")]
    test = run.splits().test.take(slice(20))
    logits = run.logits(test.image)
    right = np.mean(logits.argmax(-1) == test.label)
    assert result.numbers["clean_accuracy"] == right >= rows[0]["accuracy"]
    assert rows[0]["accuracy"] > rows[1]["accuracy"]  # the larger eps
    for row in rows:
        means = row["groups"]["all"]
        clean = -special.logsumexp(logits, axis=-1).mean()
        assert means["marginal"]["clean"] == pytest.approx(clean, rel=1e-4)
        # The attack raises the cross-entropy, which is the difference.
        assert means["joint"]["change"] > means["marginal"]["change"]
        of_outcomes = [x for k, x in row["groups"].items() if k != "all"]
        total = sum(x["num"] * x["joint"]["change"] for x in of_outcomes)
        assert total / 20 == pytest.approx(means["joint"]["change"], rel=1e-4)
        withstood = row["groups"]["withstood"]["num"] / 20
        assert withstood == pytest.approx(row["accuracy"])
    arrays = np.load(io.BytesIO(result.files["attack_energies.npz"]))
    changed = arrays["linf_1/joint"] - arrays["clean/joint"]
    found = rows[1]["groups"]["all"]["joint"]["change"]
    assert changed.mean() == pytest.approx(found, rel=1e-4)


@pytest.mark.slow
def test_attacked_images_are_those_of_a_plain_attack(run):
    """Without a random key the first step of any is the sign of the gradient, and on a
    ball so small that no sign changes every attack ends in its corner."""
    run.config.eval.energies.update(eps_linf=(0.01,), eps_l2=())
    (row,) = energies_task.compute(run, Progress()).numbers["attacks"]
    test = run.splits().test.take(slice(20))
    x, eps = run.to_float(test.image), 2 * 0.01 / 255

    def corner(model, key, x, labels):
        return attacks.fgsm(model.logits, x, labels, eps=eps)

    logits = run.logits(run.map(corner, x, test.label))
    log_prob = special.log_softmax(logits, axis=-1)[np.arange(20), test.label]
    after = row["groups"]["all"]
    cross_entropy = after["joint"]["attacked"] - after["marginal"]["attacked"]
    assert cross_entropy == pytest.approx(-log_prob.mean(), rel=1e-4)


# --- the task of counterfactuals -------------------------------------------------


@pytest.mark.slow
def test_the_chains_are_those_of_the_run(run):
    result = counterfactuals_task.compute(run, Progress())
    numbers, test = result.numbers, run.splits().test
    first = numbers["test_images"]
    assert test.label[first].tolist() == [*range(10)]
    assert all(np.all(test.label[:i] != k) for k, i in enumerate(first))
    labels = np.tile(np.arange(10), 10)
    start = run.to_float(test.image[np.repeat(first, 10)])
    x = run.sample(jax.random.key(1), 100, 6, labels, start=start)
    distance = np.linalg.norm((x - start).reshape(100, -1), axis=1).reshape(10, 10) / 2
    np.testing.assert_allclose(numbers["distance"], distance, rtol=1e-3)
    confidence = run.predict_proba(x)[np.arange(100), labels].reshape(10, 10)
    np.testing.assert_allclose(numbers["confidence"], confidence, rtol=1e-3)
    gain = (run.log_density(x) - run.log_density(start)).reshape(10, 10)
    off = ~np.eye(10, dtype=bool)
    mean = numbers["mean"]["log_density_gain"]
    assert mean == pytest.approx(gain[off].mean(), rel=1e-3)
    images = np.load(io.BytesIO(result.files["counterfactuals.npz"]))["x"]
    assert images.shape == (10, 11, 8, 8, 1)
    np.testing.assert_array_equal(images[:, 0], test.image[first])
    expected = np.clip(np.rint((x[37] + 1) * 127.5), 0, 255)
    assert np.abs(images[3, 8] - expected).max() <= 1


def test_means_are_over_pairs_of_two_classes_that_have_not_diverged():
    numbers = {
        "confidence": np.array([[9.0, 0.5, 0.7], [0.9, 9, np.nan], [0.1, 0.3, 9]]),
        "log_density": np.array([[9.0, 1, 2], [3, 9, np.inf], [4, 5, 9]]),
        "distance": np.array([[9.0, 1, 1], [1, 9, np.inf], [1, 6, 9]]),
        "log_density_of_image": [1.0, 0.0, 0.0],
    }
    assert counterfactuals_task.mean_of_pairs(numbers) == {
        "num": 6,
        "num_diverged": 1,
        "confidence": pytest.approx(0.5),
        "log_density": pytest.approx(3.0),
        "log_density_gain": pytest.approx(2.6),
        "distance": pytest.approx(2.0),
    }


@pytest.mark.slow
def test_the_report_shows_both(run, tmp_path):
    names = ("energies", "counterfactuals")
    results = evaluation.evaluate(run, tasks=names)
    assert not evaluation.failures(results)
    text = (tmp_path / "report.html").read_text()
    for said in ("Marginal energy, L∞ 48/255", "0 to 1", "fooled", "Wachter et al."):
        assert said in text, said
