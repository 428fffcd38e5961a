import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ebmjax import sgld
from ebmjax.eval import samples


def langevin(step_size, noise_std):
    return functools.partial(sgld.sgld, step_size=step_size, noise_std=noise_std)


def energy(x):
    return 0.5 * jnp.sum(x**2, axis=(1, 2, 3))


def test_chains_without_noise_shrink_and_their_energy_with_them():
    start = jax.random.normal(jax.random.key(0), (3, 2, 2, 1))
    chains = samples.chains(
        jax.random.key(1),
        energy,
        start,
        num_steps=5,
        sampler=langevin(0.5, 0.0),
    )
    np.testing.assert_allclose(chains.x, start / 2**5, rtol=1e-5)
    factors = 4.0 ** -np.arange(6)
    np.testing.assert_allclose(
        chains.energy, energy(start)[:, None] * factors[None], rtol=1e-5
    )


def test_chains_are_those_of_sgld():
    start = jnp.ones((3, 2, 2, 1))
    sampler = sgld.sgld(energy, step_size=0.1, noise_std=0.2)
    state, _ = sgld.run(jax.random.key(1), sampler, sampler.init(start), 4)
    chains = samples.chains(
        jax.random.key(1),
        energy,
        start,
        num_steps=4,
        sampler=langevin(0.1, 0.2),
    )
    np.testing.assert_allclose(chains.x, state.position, rtol=1e-6)


def test_extremes_come_from_the_outside_in():
    best, worst = samples.extremes(np.array([3.0, 1.0, 4.0, 1.5, 9.0]), 2)
    np.testing.assert_array_equal(best, [4, 2])
    np.testing.assert_array_equal(worst, [1, 3])
    best, worst = samples.extremes(np.array([1.0, 2.0]), 5)
    np.testing.assert_array_equal(best, [1, 0])


def test_extremes_per_class_stay_in_their_class():
    ends = samples.extremes_per_class(
        np.array([3.0, 1.0, 4.0, 1.5, 9.0, 2.0]), np.array([0, 0, 2, 2, 2, 0]), 2
    )
    assert set(ends) == {0, 2}
    np.testing.assert_array_equal(ends[0], [[0, 5], [1, 5]])
    np.testing.assert_array_equal(ends[2], [[4, 2], [3, 2]])


def test_nearest_against_all_distances():
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (4, 3, 3, 1)).astype(np.uint8)
    train = rng.integers(0, 256, (50, 3, 3, 1)).astype(np.uint8)
    difference = x[:, None].astype(float) - train[None]
    expected = np.argsort(np.sum(difference**2, axis=(2, 3, 4)), axis=1)[:, :6]
    np.testing.assert_array_equal(samples.nearest(x, train, 6), expected)
    np.testing.assert_array_equal(samples.nearest(train[7:9], train, 1), [[7], [8]])


def test_nan_is_no_extreme():
    with pytest.raises(ValueError, match="1 of 3 scores are NaN"):
        samples.extremes(np.array([1.0, np.nan, 2.0]), 1)


def test_neighbours_in_other_units_or_shapes_are_refused():
    x = np.zeros((2, 3, 3, 1), np.float32)
    with pytest.raises(ValueError, match="in the same units"):
        samples.nearest(x, np.zeros((5, 3, 3, 1), np.uint8), 1)
    with pytest.raises(ValueError, match="of one shape"):
        samples.nearest(x, np.zeros((5, 3, 1, 3), np.float32), 1)
