import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ebmjax import replay

KEY = jax.random.key(0)


def numbered(size):
    """A buffer whose chains tell their slots."""
    return replay.Buffer(jnp.arange(size, dtype=jnp.float32).reshape(size, 1, 1, 1))


def labels_of(*counts):
    return jnp.repeat(jnp.arange(len(counts)), jnp.array(counts))


def test_a_fresh_buffer_is_uniform_between_minus_one_and_one():
    samples = replay.init(KEY, 5_000, (2, 1, 3)).samples
    assert samples.shape == (5_000, 2, 1, 3)
    assert -1 <= samples.min() < -0.99 and 0.99 < samples.max() < 1
    np.testing.assert_allclose(samples.var(), 1 / 3, rtol=0.03)


@pytest.mark.parametrize("key", range(3))
def test_slots_are_all_different(key):
    draw = replay.draw(
        jax.random.key(key), numbered(40), jnp.zeros(40, int), reinit_prob=0.0
    )
    assert sorted(draw.slot.tolist()) == list(range(40))
    np.testing.assert_array_equal(draw.x[:, 0, 0, 0], draw.slot)


def test_with_replacement_slots_repeat_and_stay_in_range():
    draw = replay.draw(
        KEY, numbered(10), jnp.zeros(500, int), reinit_prob=0.0, replace=True
    )
    assert set(draw.slot.tolist()) == set(range(10))


@pytest.mark.parametrize("replace", [False, True])
def test_a_conditional_draw_stays_in_its_class(replace):
    labels = labels_of(7, 0, 10, 3)[jnp.array(np.random.default_rng(0).permutation(20))]
    draw = replay.draw(
        KEY, numbered(40), labels, reinit_prob=0.0, num_blocks=4, replace=replace
    )
    np.testing.assert_array_equal(draw.slot // 10, labels)
    if not replace:
        assert len(set(draw.slot.tolist())) == 20


def test_reinit_prob_is_the_share_of_fresh_starts():
    zeros = jnp.zeros(20_000, int)
    buffer = replay.Buffer(jnp.full((20_000, 1, 1, 1), 7.0))
    for prob in (0.0, 0.05, 1.0):
        x = replay.draw(KEY, buffer, zeros, reinit_prob=prob).x
        fresh = np.asarray(x != 7).mean()
        # A standard deviation is 0.0015 at 5 %; 0 and 1 must be exact.
        assert abs(fresh - prob) <= (0.006 if 0 < prob < 1 else 0)
        assert np.all(np.abs(x[x != 7]) <= 1)


def test_put_and_draw_are_a_round_trip():
    buffer = numbered(6)
    draw = replay.draw(KEY, buffer, jnp.zeros(4, int), reinit_prob=0.0)
    buffer = replay.put(buffer, draw.slot, draw.x + 100)
    expected = np.arange(6.0)
    expected[np.asarray(draw.slot)] += 100
    np.testing.assert_array_equal(buffer.samples[:, 0, 0, 0], expected)


def test_of_equal_slots_the_last_wins():
    slot, x = jnp.array([2, 0, 2, 2]), jnp.arange(10.0, 14.0).reshape(4, 1, 1, 1)
    found = jax.jit(replay.put)(numbered(3), slot, x).samples[:, 0, 0, 0]
    np.testing.assert_array_equal(found, [11, 1, 13])
