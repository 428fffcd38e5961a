"""Bad steps are skipped: what counts as one, what a skipped step leaves alone."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import test_step
import test_train
import tiny

from ebmjax import guard, parallel, recovery, runs, train, train_step, writers
from ebmjax.eval.evaluate import describe

KEY = jax.random.key(3)


def after(values):
    """The guard after these good steps [N, 2]."""
    step = jax.jit(lambda g, v: guard.update(g, v, jnp.bool_(False)))
    return functools.reduce(step, jnp.asarray(values, jnp.float32), guard.init())


def test_moments_are_plain_ones_at_first_and_then_exponentially_weighted():
    values = np.random.default_rng(0).normal([3, 50], [1, 7], (300, 2))
    start = after(values[: guard.WINDOW])
    np.testing.assert_allclose(start.mean, values[:128].mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(start.variance, values[:128].var(axis=0), rtol=1e-4)
    weight = np.full(300, 1 / 128)
    weight[128:] = 1 / 128 * (1 - 1 / 128) ** np.arange(171, -1, -1)
    weight[:128] *= (1 - 1 / 128) ** 172
    np.testing.assert_allclose(weight.sum(), 1)
    mean = weight @ values
    late = after(values)
    np.testing.assert_allclose(late.mean, mean, rtol=1e-5)
    np.testing.assert_allclose(late.variance, weight @ (values - mean) ** 2, rtol=1e-4)


def test_outliers_above_are_bad_once_enough_steps_are_known():
    values = np.random.default_rng(1).normal([0, 10], [2, 1], (guard.MIN_STEPS, 2))
    known, young = after(values), after(values[:-1])
    mean, std = values.mean(axis=0), values.std(axis=0)
    for shift, bad in [([2.9, 0], False), ([3.1, 0], True), ([0, 3.1], True)]:
        there = jnp.asarray(mean + shift * std, jnp.float32)
        assert guard.is_bad(known, there, 3.0) == bad
        assert not guard.is_bad(young, there, 3.0)
    assert not guard.is_bad(known, jnp.asarray(mean - 9 * std, jnp.float32), 3.0)
    for odd in (jnp.nan, jnp.inf, -jnp.inf):
        assert guard.is_bad(guard.init(), jnp.array([0.0, odd]), 3.0)


def test_a_bad_step_counts_and_changes_no_moment():
    known = after([[1, 2], [3, 4]])
    bad = guard.update(known, jnp.array([jnp.nan, 1.0]), jnp.bool_(True))
    chex.assert_trees_all_equal(bad[:3], known[:3])
    assert (bad.num_skipped, bad.skips_in_a_row) == (1, 1)
    good = guard.update(bad, jnp.array([1.0, 1.0]), jnp.bool_(False))
    assert (good.num_good, good.num_skipped, good.skips_in_a_row) == (3, 1, 0)


def spoil_the_brightest(key, x):
    """NaN for images whose first pixel is white."""
    del key
    return jnp.where(x[0, 0, 0] > 0.999, jnp.nan, x)


@pytest.mark.parametrize("method", parallel.METHODS)
def test_a_skipped_step_leaves_all_but_the_counters_on_every_device(method):
    """Though one device alone has the bad example."""
    case = tiny.case(**test_step.JEM, augment=spoil_the_brightest)
    case = case.replace(skip_sigma=5.0, ema_decay=0.9)
    program = parallel.spmd(
        functools.partial(train_step.train_step, **case._asdict()),
        in_axes=(train_step.AXES, None, 0, None),
        out_axes=(train_step.AXES, None),
        method=method,
    )
    state, (batch, _) = test_step.start(case, 4)
    batch["image"][:, :, 0, 0] = 0
    before = parallel.place(state, train_step.AXES)
    key = parallel.place(KEY)
    taken, metrics = program(before, None, parallel.place(batch, 0), key)
    assert metrics["skips_in_a_row"] == 0 and taken.guard.num_good == 1
    assert np.any(jax.tree.leaves(taken.params)[0] != jax.tree.leaves(state.params)[0])
    spoilt = {name: x.copy() for name, x in batch.items()}
    spoilt["image"][2, 1, 0, 0] = 255
    skipped, metrics = program(taken, None, parallel.place(spoilt, 0), key)
    assert metrics["skips_in_a_row"] == 1 and np.isnan(metrics["loss"])
    assert (skipped.step, skipped.guard.num_skipped) == (2, 1)
    same = dict(step=0, guard=None)
    chex.assert_trees_all_equal(skipped.replace(**same), taken.replace(**same))


def test_a_guard_that_skips_nothing_changes_nothing():
    case = tiny.case(**test_step.JEM)
    free, free_metrics = test_step.on_devices(case)
    guarded, metrics = test_step.on_devices(case.replace(skip_sigma=5.0))
    chex.assert_trees_all_close(free, guarded.replace(guard=None), atol=1e-7)
    assert set(metrics) - set(free_metrics) == {"skips_in_a_row"}


def test_a_run_that_skips_is_resumed_bit_for_bit(tmp_path, monkeypatch):
    monkeypatch.setattr(guard, "MIN_STEPS", 2)
    c = test_train.small(recovery__skip_sigma=0.5, objective__p_x=1.0)
    whole, halved = tmp_path / "whole", tmp_path / "halved"
    run = train.fit(c, whole)
    for stop in (3, 5):
        with monkeypatch.context() as patch:
            test_train.interrupt_at(patch, stop)
            with pytest.raises(train.Interrupted):
                train.fit(c, halved)
    train.fit(c, halved)
    chex.assert_trees_all_equal(test_train.state_of(whole), test_train.state_of(halved))
    assert test_train.numbers_of(whole) == test_train.numbers_of(halved)
    # The state, the log and what reports read have one count.
    lines = [x for x in test_train.numbers_of(whole) if x["split"] == "train"]
    assert 0 < run.skipped < 8
    assert sum(x.get("skipped", 0) for x in lines) == run.skipped
    assert describe(run)["skipped"] == run.skipped == runs.load(whole).skipped


def test_a_run_that_only_skips_goes_back(tmp_path):
    c = test_train.small(
        recovery__skip_sigma=6.0,
        optimizer__learning_rate=1e30,
        recovery__lr_factor=1e-32,
        num_steps=20,
        every__checkpoint=20,
    )
    run = train.fit(c, tmp_path)
    (event,) = writers.events(tmp_path)
    assert event["term"] == "the number of skipped steps in a row"
    assert float(event["value"]) == 10
    assert run.recoveries == 1 and run.skipped == 0  # those before the return are gone


def test_the_guard_forgets_steps_that_a_change_of_the_config_makes_unlike(tmp_path):
    """Sharper minimisation raises the loss for good; such steps are not bad."""
    c = test_train.small(recovery__skip_sigma=6.0, num_steps=4)
    train.fit(c, tmp_path)
    c.num_steps = 6
    c.every.log = 1
    train.fit(c, tmp_path)  # of what a loss is nothing has changed
    assert test_train.state_of(tmp_path)[1]["guard"]["num_good"] == 6
    c.optimizer.sam_rho = 0.1
    c.num_steps = 8
    train.fit(c, tmp_path)
    assert test_train.state_of(tmp_path)[1]["guard"]["num_good"] == 2


def test_going_back_forgets_recent_steps_and_no_skipped_ones():
    seen = guard.Guard(jnp.ones(2), jnp.ones(2), *map(jnp.int32, (70, 12, 10)))
    after = guard.forget(seen)
    assert (after.num_good, after.num_skipped, after.skips_in_a_row) == (0, 12, 0)
    assert not guard.is_bad(after, jnp.full(2, 1e6), 6.0)


def test_a_change_of_level_that_goes_unnoticed_is_survived_by_going_back(
    tmp_path, monkeypatch
):
    """With the moments of the checkpoint, skipping would begin again."""
    monkeypatch.setattr(guard, "MIN_STEPS", 8)
    monkeypatch.setattr(recovery, "LOSS_KEYS", ())
    c = test_train.small(recovery__skip_sigma=20.0, objective__contrast=1.0)
    c.hdge.queue_size = 400
    train.fit(c, tmp_path)
    c.hdge.temperature = 1e-3  # and the loss is a hundred times as large
    c.num_steps = 40
    run = train.fit(c, tmp_path)
    assert (run.step, run.recoveries) == (40, 1)


def test_the_guard_may_be_switched_on_and_off(tmp_path):
    """And a run without has no trace of it in its checkpoints."""
    for steps, sigma in [(2, 0.0), (4, 5.0), (6, 5.0), (8, 0.0)]:
        c = test_train.small(num_steps=steps, recovery__skip_sigma=sigma)
        train.fit(c, tmp_path)
        at, state = test_train.state_of(tmp_path)
        assert at == steps and ("guard" in state) == bool(sigma)
        if sigma:
            assert state["guard"]["num_good"] == steps - 2
