"""AutoAttack as a whole, against the official package and its own rules."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from autoattacked import (  # noqa: F401
    KEY,
    OFFICIAL,
    images,
    network,
    norms,
    one_thread_of_torch,
    robust,
    slow,
    torch_network,
)
from jax import monitoring

from ebmjax.eval import attacks
from ebmjax.eval.autoattack import driver
from ebmjax.norms import NORMS


@slow
@norms
def test_examples_are_in_the_ball_and_no_weaker_than_those_of_pgd(norm):
    eps = {"linf": 0.02, "l2": 0.15}[norm]
    x, labels = images(60)
    labels[:3] = (labels[:3] + 1) % 10  # wrong already
    x_adv = attacks.autoattack(
        KEY, network, x, labels, norm=norm, eps=eps, bounds=(0, 1), batch_size=60
    )
    assert NORMS[norm].size(jnp.asarray(x_adv - x)).max() <= eps * 1.00001
    assert x_adv.min() >= 0 and x_adv.max() <= 1
    stands = robust(x_adv, labels)
    np.testing.assert_array_equal(x_adv[stands], x[stands])
    np.testing.assert_array_equal(x_adv[:3], x[:3])
    worst = attacks.pgd(
        KEY,
        network,
        jnp.asarray(x),
        jnp.asarray(labels),
        norm=norm,
        eps=eps,
        step_size=eps / 10,
        num_steps=40,
        num_restarts=4,
        loss=("cross_entropy", "margin"),
        bounds=(0, 1),
    )
    assert 5 < stands.sum() <= robust(worst, labels).sum()


@slow
def test_results_do_not_depend_on_the_batch_or_on_the_units():
    x, labels = images(20)
    options = dict(norm="linf", eps=0.02)
    one = attacks.autoattack(
        KEY, network, x, labels, **options, bounds=(0, 1), batch_size=20
    )
    few = attacks.autoattack(
        KEY, network, x, labels, **options, bounds=(0, 1), batch_size=8
    )
    np.testing.assert_array_equal(robust(one, labels), robust(few, labels))
    np.testing.assert_allclose(one, few, atol=1e-3)

    def doubled(z):
        return network((z + 1) / 2)

    other = attacks.autoattack(
        KEY, doubled, 2 * x - 1, labels, norm="linf", eps=0.04, batch_size=20
    )
    np.testing.assert_array_equal(robust(one, labels), robust((other + 1) / 2, labels))


def test_batches_are_not_much_larger_than_their_images():
    sizes = {0: 28, 1: 28, 53: 76, 113: 128, 152: 152, 153: 176, 201: 128, 613: 176}
    assert jax.device_count() == 4
    assert {num: driver.padded_size(num, 200) for num in sizes} == sizes


def test_nothing_is_compiled_for_another_eps():
    """Where all images stand, so that batches are of one size."""
    x, labels = images(8)
    compiled = []

    def listen(name, *args, **more):
        if "backend_compile" in name:
            compiled.append(name)

    options = dict(norm="linf", bounds=(0, 1), batch_size=8)
    monitoring.register_event_duration_secs_listener(listen)
    try:
        attacks.autoattack(KEY, network, x, labels, eps=1e-5, **options)
        assert len(compiled) >= 4  # an attack each
        compiled.clear()
        x_adv = attacks.autoattack(KEY, network, x, labels, eps=2e-5, **options)
    finally:
        monitoring.unregister_event_duration_listener(listen)
    assert not compiled and np.array_equal(x_adv, x)


def test_too_few_classes_are_refused():
    x = np.zeros((2, 8, 8, 1), np.float32)
    labels = np.zeros(2, np.int32)

    def three(x):
        return network(x)[:, :3]

    with pytest.raises(ValueError, match="needs 4 classes, not 3"):
        attacks.autoattack(KEY, three, x, labels, eps=0.1)


def test_probabilities_and_randomness_are_reported():
    logits = np.random.default_rng(0).normal(size=(5, 4))
    assert driver.check_logits(logits, logits) == []
    probs = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    assert "probabilities" in driver.check_logits(probs)[0]
    assert "random" in driver.check_logits(logits, logits + 0.01)[0]


def test_doubts():
    steps = driver.steps("standard", 10)
    assert len(steps) == 1 + 9 + 9 + 1
    no = np.zeros(4, bool)
    state = driver.State(np.array([-1, 1, 20, 0]), np.full(4, 20), no, ~no)
    assert driver.accuracies(state, steps) == {
        "clean": 0.75,
        "APGD-CE": 0.5,
        "APGD-T": 0.5,
        "FAB-T": 0.5,
        "Square": 0.25,
    }
    nan, weak = driver.doubts(state, steps)
    assert "4 images has NaN" in nan and "by 25.00%" in weak
    zero = driver.doubts(state._replace(zero_gradient=~no, nan_gradient=no), steps)
    assert "is 0 for 4 images" in zero[0]


# --- the same numbers as the official program -------------------------------


@slow
@norms
def test_robust_accuracy_is_the_official_one(norm):
    torch = pytest.importorskip("torch")
    official = pytest.importorskip("pyautoattack.autoattack")
    eps = {"linf": 0.015, "l2": 0.1}[norm]
    x, labels = images(100, seed=2)
    x_adv = attacks.autoattack(
        KEY, network, x, labels, norm=norm, eps=eps, bounds=(0, 1), batch_size=100
    )
    attack = official.AutoAttack(
        torch_network(torch), norm=OFFICIAL[norm], eps=eps, seed=0
    )
    theirs, _ = attack.run_standard_evaluation(
        torch.tensor(x).permute(0, 3, 1, 2), torch.tensor(labels).long(), batch_size=100
    )
    theirs = robust(theirs.permute(0, 2, 3, 1).numpy(), labels)
    ours = robust(x_adv, labels)
    assert 10 < theirs.sum() < 90 and abs(int(ours.sum()) - int(theirs.sum())) <= 1


def test_rand_fools_a_linear_classifier_where_it_can_be_fooled():
    """A logit is the sum of two pixels of its own: within eps an image falls if and
    only if the margin is below 4 eps."""
    x = np.float32(np.random.default_rng(3).uniform(-0.3, 0.3, (12, 2, 3, 1)))
    w = np.float32(np.repeat(np.eye(3), 2, axis=0))
    logits = x.reshape(12, 6) @ w
    labels, ordered = logits.argmax(-1), np.sort(logits, axis=-1)
    margins = np.sort(ordered[:, -1] - ordered[:, -2])
    eps = float(margins[5] + margins[6]) / 8

    x_adv = attacks.autoattack(
        KEY,
        lambda key, x: x.reshape(len(x), 6) @ w,
        jnp.asarray(x),
        jnp.asarray(labels),
        norm="linf",
        eps=eps,
        version="rand",
    )
    assert eps < 0.7  # nothing is clipped
    assert np.abs(x_adv - x).max() <= eps + 1e-6
    assert np.sum((x_adv.reshape(12, 6) @ w).argmax(-1) != labels) == 6
