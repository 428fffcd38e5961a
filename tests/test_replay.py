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


# --- chain starts ------------------------------------------------------------------


def test_the_default_start_is_uniform_by_the_third_of_the_keys():
    # Runs are resumed bit for bit, so this stream must not change.
    buffer = replay.Buffer(jnp.full((6, 2, 1, 1), 7.0))
    x = replay.draw(KEY, buffer, jnp.zeros(4, int), reinit_prob=1.0).x
    k_fresh = jax.random.split(KEY, 3)[2]
    expected = jax.random.uniform(k_fresh, (4, 2, 1, 1), minval=-1.0, maxval=1.0)
    np.testing.assert_array_equal(x, expected)
    np.testing.assert_array_equal(
        replay.init(KEY, 4, (2, 1, 1)).samples,
        jax.random.uniform(KEY, (4, 2, 1, 1), minval=-1.0, maxval=1.0),
    )


def by_label(key, n, labels):
    """Starts that tell their class, and differ."""
    noise = jax.random.uniform(key, (n, 2), maxval=0.5)
    return 10.0 * labels[:, None] + noise


def test_starts_come_from_chain_init_with_the_labels():
    buffer = replay.init(KEY, 12, (2,), num_blocks=3, chain_init=by_label)
    np.testing.assert_array_equal(buffer.samples[:, 0] // 10, np.arange(12) // 4)
    labels = jnp.array([2, 0, 1, 2])
    old = replay.Buffer(jnp.full((12, 2), -7.0))
    draw = replay.draw(
        KEY, old, labels, reinit_prob=0.5, num_blocks=3, chain_init=by_label
    )
    fresh = draw.x[:, 0] >= 0
    assert 0 < fresh.sum() < 4
    np.testing.assert_array_equal(draw.x[fresh, 0] // 10, labels[fresh])


def test_a_chain_init_of_another_shape_is_refused():
    with pytest.raises(AssertionError, match=r"\[Chex\]"):
        replay.init(KEY, 4, (3,), chain_init=by_label)
    with pytest.raises(AssertionError, match=r"\[Chex\]"):
        buffer = replay.Buffer(jnp.zeros((4, 3)))
        zeros = jnp.zeros(2, int)
        replay.draw(KEY, buffer, zeros, reinit_prob=0.0, chain_init=by_label)


# --- invalid labels, sizes and dtypes --------------------------------------------


@pytest.mark.parametrize("replace", [False, True])
def test_a_label_that_does_not_exist_raises_or_is_nan_where_it_is_traced(replace):
    labels = jnp.array([0, -1, 3, 4])
    options = dict(reinit_prob=0.5, num_blocks=4, replace=replace)
    with pytest.raises(ValueError, match=r"labels lie in -1\.\.4, expected 0\.\.3"):
        replay.draw(KEY, numbered(40), labels, **options)
    buffer = numbered(40)
    draw = jax.jit(lambda labels: replay.draw(KEY, buffer, labels, **options))(labels)
    invalid = np.isnan(draw.x[:, 0, 0, 0])
    np.testing.assert_array_equal(invalid, [False, True, False, True])
    after = replay.put(buffer, draw.slot, jnp.full((4, 1, 1, 1), 100.0))
    changed = np.flatnonzero(after.samples != buffer.samples)
    np.testing.assert_array_equal(changed, np.sort(draw.slot[~invalid]))


def test_labels_of_one_byte_reach_every_block():
    labels = jnp.arange(20, dtype=jnp.uint8)
    draw = replay.draw(KEY, numbered(1_000), labels, reinit_prob=0.0, num_blocks=20)
    np.testing.assert_array_equal(draw.slot // 50, np.arange(20))


def test_a_buffer_that_does_not_divide_into_blocks_is_refused():
    for call in (
        lambda: replay.draw(
            KEY, numbered(10), jnp.zeros(2, int), reinit_prob=0.0, num_blocks=3
        ),
        lambda: replay.init(KEY, 10, (2,), num_blocks=3),
    ):
        with pytest.raises(ValueError, match="10 slots does not divide into 3 equal"):
            call()


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32, jnp.float64])
def test_the_buffer_keeps_its_dtype(dtype):
    with jax.enable_x64(True), jax.numpy_dtype_promotion("strict"):
        buffer = replay.Buffer(jnp.zeros((10, 4), dtype))
        draw = replay.draw(KEY, buffer, jnp.zeros(3, int), reinit_prob=np.float64(0.5))
        assert draw.x.dtype == dtype
        after = replay.put(buffer, draw.slot, draw.x.astype(jnp.float64))
        assert after.samples.dtype == dtype
