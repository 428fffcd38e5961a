import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ebmjax import (
    augment,
    chain_starts,
    config,
    data,
    plan,
    recipe,
    replay,
    train,
)

KEY = jax.random.key(0)


def correlated(num, seed=0):
    """uint8 [num, 1, 2, 2] with correlated columns, one of them constant."""
    z = np.random.default_rng(seed).normal(size=(num, 3))
    x = 128 + z @ np.array([[40, 20, 0], [0, 30, -20], [0, 0, 10]])
    x = np.concatenate([x, np.full((num, 1), 60)], axis=1)
    return x.clip(0, 255).astype(np.uint8).reshape(num, 1, 2, 2)


def test_draws_have_the_mean_and_covariance_of_the_examples(monkeypatch):
    """Those of a part of the examples, which is worked off in several chunks."""
    monkeypatch.setattr(chain_starts, "CHUNK", 7)
    x, index = correlated(50), np.arange(3, 43)
    rng = np.random.default_rng(1)
    draws = chain_starts.gaussian(rng, x, index, 200_000, augment.to_float)
    assert draws.shape == (200_000, 1, 2, 2) and draws.dtype == np.float32
    as_seen = (x[index].astype(np.float64) / 127.5 - 1).reshape(40, 4)
    draws = draws.reshape(-1, 4).astype(np.float64)
    np.testing.assert_allclose(draws.mean(axis=0), as_seen.mean(axis=0), atol=5e-3)
    expected = np.cov(as_seen.T, ddof=0) + 1e-4 * np.eye(4)
    size = np.sqrt(np.outer(np.diag(expected), np.diag(expected)))
    # The constant column has the jitter alone; entries are off by 1/sqrt(200,000).
    np.testing.assert_allclose(np.cov(draws.T) / size, expected / size, atol=0.012)


def test_every_class_has_its_own_gaussian():
    label = np.arange(60, dtype=np.int32) % 3
    x = (100.0 * label[:, None] + np.ones(2)).astype(np.float32)
    starts = chain_starts.pool(0, x, label, size=10, num_classes=3)
    assert starts.shape == (3, 4, 2) and starts.dtype == np.float32
    for k in range(3):
        np.testing.assert_allclose(starts[k], 100 * k + 1, atol=0.06)
    one = chain_starts.pool(0, x, None, size=10)
    assert one.shape == (1, 10, 2) and one.std() > 20


def test_a_pool_is_a_function_of_seed_and_data():
    x = correlated(50)
    make = functools.partial(
        chain_starts.pool, label=None, size=8, to_float=augment.to_float
    )
    np.testing.assert_array_equal(make(3, x), make(3, x))
    assert np.all(make(3, x) != make(4, x))
    assert np.any(make(3, x) != make(3, correlated(50, seed=1)))


def test_starts_are_clipped_where_asked():
    x = np.array([[0], [255]] * 20, np.uint8)
    free = chain_starts.pool(0, x, None, size=100, to_float=augment.to_float)
    clipped = chain_starts.pool(
        0, x, None, size=100, to_float=augment.to_float, bound=1.0
    )
    assert np.abs(free).max() > 1.5
    np.testing.assert_array_equal(clipped, free.clip(-1, 1))


def test_a_class_without_examples_is_named():
    label = np.array([0, 0, 2], np.int32)
    with pytest.raises(ValueError, match="class 1 has no training example"):
        chain_starts.pool(0, correlated(3), label, size=6, num_classes=3)


def numbered(num_groups, num_rows):
    """A pool whose entries tell their class and row."""
    return jnp.arange(num_groups * num_rows).reshape(num_groups, num_rows, 1) * 1.0


def test_starts_are_of_the_labels_classes_and_all_different():
    labels = jnp.array([2, 0, 2, 2, 1, 0, 2])
    starts = chain_starts.from_pool(numbered(3, 4))(KEY, 7, labels)
    np.testing.assert_array_equal(starts[:, 0] // 4, labels)
    assert len(set(starts[:, 0].tolist())) == 7


def test_one_gaussian_serves_all_labels():
    starts = chain_starts.from_pool(numbered(1, 12))(KEY, 12, jnp.arange(12) // 4)
    assert sorted(starts[:, 0].tolist()) == list(range(12))


def test_every_row_is_as_likely_as_any_other():
    starts = chain_starts.from_pool(numbered(2, 5))
    labels = jnp.array([1, 0, 1])
    keys = jax.random.split(KEY, 10_000)
    drawn = jax.jit(jax.vmap(lambda key: starts(key, 3, labels)))(keys)
    for place, label in enumerate(labels):
        rows = np.asarray(drawn[:, place, 0], int) - 5 * int(label)
        np.testing.assert_allclose(
            np.bincount(rows, minlength=5) / 10_000, 0.2, atol=0.02
        )


@pytest.mark.parametrize("num_blocks", [1, 3])
def test_a_buffer_of_the_pools_size_begins_with_each_of_its_starts(num_blocks):
    chain_init = chain_starts.from_pool(numbered(3, 4))
    if num_blocks == 1:
        chain_init = replay.of_every_class(chain_init, 3)
    buffer = replay.init(KEY, 12, (1,), num_blocks=num_blocks, chain_init=chain_init)
    found = np.asarray(buffer.samples[:, 0], int)
    classes = found // 4
    if num_blocks == 3:
        np.testing.assert_array_equal(classes, np.arange(12) // 4)
    else:  # any device's part has all classes
        assert all(len(set(classes[i : i + 3])) == 3 for i in range(0, 12, 3))
        # 12 starts of classes in turn: each class has its four
        assert np.bincount(classes).tolist() == [4, 4, 4]
    assert sorted(found.tolist()) == list(range(12))


def small_config(**changes):
    c = config.default()
    c.update(batch_size=16)
    c.data.update(name="digits", num_valid=40, pad=0, flip=False)
    c.model.update(name="mlp", features=(4,))
    c.sgld.update(num_steps=2, buffer_size=80)
    values = {"sgld.init": "class_gaussian", "objective.p_x": 1.0} | changes
    for key, value in values.items():
        config.assign(c, key, value)
    return c


def test_a_run_begins_with_chains_from_the_pool_of_its_data():
    one, again = (plan.make_plan(small_config()) for _ in range(2))
    assert one.starts.shape == (10, 8, 8, 8, 1)
    np.testing.assert_array_equal(one.starts, again.starts)
    assert np.abs(one.starts).max() == 1.0
    train = one.splits.train
    for k in range(10):
        mean = (train.image[train.label == k] / 127.5 - 1).mean(axis=0).clip(-1, 1)
        assert np.abs(one.starts[k].mean(axis=0) - mean).max() < 0.9
        assert np.corrcoef(one.starts[k].mean(axis=0).ravel(), mean.ravel())[0, 1] > 0.9
    rows = {x.tobytes() for x in one.starts.reshape(80, -1)}
    chains = np.asarray(one.make_state().chains.samples).reshape(80, -1)
    assert {x.tobytes() for x in chains} == rows


def test_vectors_start_as_the_network_takes_them():
    rng = np.random.default_rng(0)
    label = np.arange(90) % 3
    x = 100 + 5 * label[:, None] + rng.normal(size=(90, 4))
    splits = data.from_arrays(x, label, x, label, num_valid=6)
    c = small_config(**{"sgld.init": "gaussian", "sgld.buffer_size": 4_000})
    starts = plan.make_plan(c, splits=splits).starts
    assert starts.shape == (1, 4_000, 4)
    np.testing.assert_allclose(starts.mean(axis=(0, 1)), 0, atol=0.1)
    np.testing.assert_allclose(starts.std(axis=(0, 1)), 1, atol=0.1)
    assert np.abs(starts).max() > 1.5  # not clipped: these are no pixels


@pytest.mark.parametrize(
    "changes, own",
    [
        ({"sgld.init": "uniform"}, None),
        ({"objective.p_x": 0.0}, None),
        ({}, recipe.Recipe(chain_init=replay.uniform((8, 8, 1)))),
    ],
    ids=["uniform", "no chains", "of the recipe"],
)
def test_a_pool_that_nothing_takes_is_not_made(changes, own):
    made = plan.make_plan(small_config(**changes), own)
    assert made.starts is None


def test_class_gaussians_do_not_read_hidden_labels():
    c = small_config(**{"data.labels_per_class": 4})
    with pytest.raises(ValueError, match="labels_per_class hides"):
        plan.make_plan(c)
    assert (
        plan.make_plan(
            small_config(**{"data.labels_per_class": 4, "sgld.init": "gaussian"})
        ).starts
        is not None
    )


@pytest.mark.parametrize("init", ["class_gaussian", "gaussian", "uniform"])
def test_a_trained_run_starts_fresh_chains_as_training_does(tmp_path, init):
    c = small_config(**{"sgld.init": init, "num_steps": 1, "tensorboard": False})
    run = train.fit(c, tmp_path)
    x, label = run.splits().train
    pixels = np.asarray(augment.to_float(x))
    labels = np.repeat(np.array([3, 7], np.int32), 150)
    starts = run.fresh_starts(KEY, 300, labels)
    assert starts.shape == (300, 8, 8, 1) and np.abs(starts).max() <= 1
    means = {k: pixels[label == k].mean(axis=0).ravel() for k in (3, 7)}
    means["all"] = pixels.mean(axis=0).ravel()

    def nearest(part):
        found = part.mean(axis=0).ravel()
        distances = {k: np.abs(found - mean).mean() for k, mean in means.items()}
        return (
            min(distances, key=distances.get) if min(distances.values()) < 0.1 else ""
        )

    found = nearest(starts[:150]), nearest(starts[150:])
    expected = {"class_gaussian": (3, 7), "gaussian": ("all", "all")}
    assert found == expected.get(init, ("", ""))
    assert len({start.tobytes() for start in starts}) == 300
    in_turn = nearest(run.fresh_starts(KEY, 300))
    assert in_turn == ("" if init == "uniform" else "all")
    np.testing.assert_array_equal(starts, run.fresh_starts(KEY, 300, labels))
    assert np.array_equal(run.sample(KEY, 4, 0), run.sample(KEY, 4, 0))


def test_without_the_data_a_run_asks_for_starts(tmp_path):
    c = small_config(**{"num_steps": 1, "tensorboard": False})
    run = train.fit(c, tmp_path)
    away = dataclasses.replace(run, data=None, config=c.copy_and_resolve_references())
    away.config.data.name = "moved.npz"
    with pytest.raises(ValueError, match="pass start=, for instance run.buffer"):
        away.sample(KEY, 4, 1)
    assert away.sample(KEY, 4, 1, start=run.buffer[:4]).shape == (4, 8, 8, 1)


def test_chain_starts_of_the_recipe_are_those_of_evaluation(tmp_path):
    c = small_config(**{"num_steps": 1, "tensorboard": False})
    own = recipe.Recipe(chain_init=lambda key, n, labels: jnp.full((n, 8, 8, 1), 0.25))
    run = train.fit(c, tmp_path, recipe=own)
    assert np.all(run.sample(KEY, 3, 0) == 0.25)
