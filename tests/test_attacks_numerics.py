"""The attacks where gradients are NaN, tiny or huge, and for other dtypes; what they
refuse."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attacked import images, linear, network, pgd

from ebmjax.eval import attacks

KEY = jax.random.key(0)
NORMS = ("linf", "l2")


# --- gradients that are NaN, tiny or huge ------------------------------------------


def fragile(x):
    """`linear` of the first entry; the gradient of the last is NaN where it is 0."""
    score = x[:, 0] - 0.1 + 0.0 * jnp.sqrt(jnp.abs(x[:, -1]))
    return jnp.stack([score, jnp.zeros(len(x))], axis=-1)


# Four images that the classifier gets right, two of them with a NaN.
FRAGILE = jnp.full((4, 3), 0.2).at[:2, -1].set(0.0)
HAS_NAN = np.array([True, True, False, False])
ZEROS = jnp.zeros(4, int)
NAN = "2 of 4 images has NaN"


@pytest.mark.parametrize("norm", NORMS)
def test_nan_entries_of_a_gradient_do_not_stop_an_attack_and_are_reported(norm):
    options = dict(norm=norm, eps=0.3, step_size=0.06, num_steps=8, random_start=False)
    attack = functools.partial(attacks.pgd, KEY, fragile, labels=ZEROS, **options)
    x_adv, info = jax.jit(lambda x: attack(x, return_info=True))(FRAGILE)
    assert np.isfinite(x_adv).all()  # and not wrong because it is NaN itself
    assert not np.any(attacks.is_correct(fragile(x_adv), ZEROS))
    np.testing.assert_array_equal(info.nan_gradient, HAS_NAN)
    with pytest.warns(RuntimeWarning, match=NAN):
        np.testing.assert_allclose(attack(FRAGILE), x_adv, rtol=1e-6)


@pytest.mark.parametrize("norm", NORMS)
def test_nan_gradients_in_fgsm_distances_and_distal_examples(norm):
    fgsm = functools.partial(attacks.fgsm, fragile, labels=ZEROS, norm=norm, eps=0.3)
    x_adv, info = jax.jit(lambda x: fgsm(x, return_info=True))(FRAGILE)
    assert np.isfinite(x_adv).all()  # and not wrong because it is NaN itself
    assert not np.any(attacks.is_correct(fragile(x_adv), ZEROS))
    np.testing.assert_array_equal(info.nan_gradient, HAS_NAN)
    with pytest.warns(RuntimeWarning, match=NAN):
        fgsm(FRAGILE)
    with pytest.warns(RuntimeWarning, match=NAN):
        nearest = attacks.minimal_distance(
            KEY,
            fragile,
            FRAGILE,
            ZEROS,
            norm=norm,
            max_eps=0.5,
            relative_step_size=0.2,
            num_steps=20,
            random_start=False,
        )
    assert np.isfinite(nearest.x).all()
    np.testing.assert_allclose(nearest.distance, 0.1, rtol=0.02)
    np.testing.assert_array_equal(nearest.nan_gradient, HAS_NAN)
    with pytest.warns(RuntimeWarning, match=NAN):
        climbed = attacks.distal(
            fragile, FRAGILE, ZEROS + 1, step_size=0.1, num_steps=50, confidence=0.6
        )
    assert np.all(climbed.num_steps < 50)
    np.testing.assert_array_equal(climbed.nan_gradient, HAS_NAN)


def test_nan_logits_are_a_mistake_and_never_the_target():
    def breaks(x):  # right until x_0 falls below 0.1, and NaN from there on
        logits = jnp.stack([x[:, 0] + 1, jnp.zeros(len(x))], axis=-1)
        return jnp.where(x[:, :1] < 0.1, jnp.nan, logits)

    x, labels = jnp.full((1, 2), 0.2), jnp.zeros(1, int)
    attack = jax.jit(
        lambda x, labels, **options: attacks.pgd(
            KEY, breaks, x, labels, eps=0.3, step_size=0.06, num_steps=5, **options
        ),
        static_argnames="targeted",
    )
    logits = breaks(attack(x, labels))
    assert np.isnan(logits).all() and not attacks.is_correct(logits, labels)[0]
    assert logits.argmax() == labels[0]  # argmax alone would call it right
    assert np.isfinite(breaks(attack(x, labels + 1, targeted=True))).all()


def test_is_correct_is_argmax_where_there_is_no_nan():
    logits = jnp.array([[1.0, 2.0], [2.0, 2.0], [2.0, 2.0], [jnp.nan, 0.0]])
    labels = jnp.array([1, 0, 1, 0])
    np.testing.assert_array_equal(
        attacks.is_correct(logits, labels), [True, True, False, False]
    )


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("slope", [1e-37, 1e-25, 1e25, 1e37])
def test_the_size_of_the_gradient_does_not_matter(norm, slope):
    w = jnp.array([3.0, -4.0])
    x, labels = jnp.array([[0.3, 0.1], [0.4, 0.2]]), jnp.zeros(2, int)
    direction = np.sign(w) if norm == "linf" else w / 5

    def logits(x):
        return slope * linear(x, w / 4)

    options = dict(norm=norm, eps=0.4, loss="margin")
    x_adv = pgd(KEY, logits, x, labels, step_size=0.1, random_start=False, **options)
    np.testing.assert_allclose(x_adv, x + 0.4 * direction[None], atol=1e-3)


def test_the_steepest_direction_of_a_gradient_whose_norm_overflows():
    g = jnp.full((1, 100), 3e38)
    np.testing.assert_allclose(attacks.NORMS["l2"].steepest(g), 0.1, rtol=1e-6)


def test_distal_examples_move_where_the_gradient_is_tiny():
    # Sixty nats against the target: the derivative of log p is that of the logits,
    # which are 1e-30 of x.
    x, targets = jnp.zeros((1, 2)), jnp.ones(1, int)
    example = attacks.distal(
        lambda x: 1e-30 * linear(x, jnp.array([3.0, 4.0])),
        x,
        targets,
        step_size=0.1,
        num_steps=3,
    )
    np.testing.assert_allclose(example.x, [[0.18, 0.24]], rtol=1e-5)


# --- dtypes, bounds, labels ------------------------------------------------------


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32, jnp.float64])
@pytest.mark.parametrize("logits_dtype", [jnp.bfloat16, jnp.float64])
@pytest.mark.parametrize("norm", NORMS)
def test_the_dtype_of_x_decides(dtype, logits_dtype, norm):
    number = np.float64

    def logits(x):
        return linear(x.astype(logits_dtype), jnp.arange(3, dtype=logits_dtype))

    def all_attacks(x, labels):
        options = dict(norm=norm, bounds=(number(-1), number(1)))
        x_adv = attacks.pgd(
            KEY,
            logits,
            x,
            labels,
            eps=number(0.1),
            step_size=number(0.03),
            num_steps=np.int64(2),
            **options,
        )
        nearest = attacks.minimal_distance(
            KEY,
            logits,
            x,
            labels,
            max_eps=number(1),
            relative_step_size=number(0.3),
            num_steps=2,
            **options,
        )
        step = attacks.fgsm(logits, x, labels, eps=number(0.1), **options)
        climbed = attacks.distal(
            logits,
            x,
            labels,
            step_size=number(0.1),
            num_steps=2,
            confidence=number(0.5),
        )
        return x_adv, nearest.x, nearest.distance, step, climbed.x

    with jax.enable_x64(True), jax.numpy_dtype_promotion("strict"):
        args = jnp.zeros((2, 3), dtype), jnp.zeros(2, int)
        assert {a.dtype for a in jax.eval_shape(all_attacks, *args)} == {
            jnp.dtype(dtype)
        }


def test_x_outside_its_bounds_is_refused_where_it_is_known():
    x, labels = images(size=2)
    sizes = dict(eps=0.1, step_size=0.05, num_steps=1)
    with pytest.raises(ValueError, match=r"x lies in \[-.*pass bounds="):
        attacks.pgd(KEY, network, x, labels, bounds=(0.0, 1.0), **sizes)
    with pytest.raises(ValueError, match="expected finite values"):
        attacks.fgsm(network, x.at[0].set(jnp.nan), labels, eps=0.1)
    with pytest.raises(ValueError, match="labels lie in"):
        attacks.fgsm(network, x, labels + 4, eps=0.1)


@pytest.mark.parametrize(
    "change",
    [
        dict(x=jnp.zeros((2, 3, 3, 1), jnp.uint8)),
        dict(labels=jnp.zeros(3, int)),
        dict(labels=jnp.zeros((2, 1), int)),
        dict(eps=jnp.ones(3)),
        dict(logits_fn=lambda x: network(x)[:, 0]),
    ],
)
def test_wrong_shapes_and_dtypes_are_refused(change):
    x, labels = images(size=2)
    options = dict(logits_fn=network, x=x, labels=labels, eps=0.1) | change
    with pytest.raises(AssertionError, match=r"\[Chex\]"):
        attacks.pgd(KEY, step_size=0.05, num_steps=1, **options)
