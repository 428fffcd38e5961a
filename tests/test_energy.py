import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from ebmjax import energy

LOGITS = jnp.asarray(np.random.default_rng(0).normal(size=(5, 7)), jnp.float32)
LABELS = jnp.array([0, 6, 3, 3, 1])


def quadratic(x):
    """E = ‖x‖²/2, hence score -x."""
    return 0.5 * jnp.sum(x.reshape(len(x), -1) ** 2, axis=-1)


def test_uniform_logits_have_energy_minus_log_k():
    np.testing.assert_allclose(
        energy.from_logits(jnp.zeros((2, 8))), -np.log(8), rtol=1e-6
    )


def test_adding_a_constant_to_all_logits_lowers_the_energy_by_it():
    np.testing.assert_allclose(
        energy.from_logits(LOGITS + 3), energy.from_logits(LOGITS) - 3, rtol=1e-5
    )


def test_joint_minus_marginal_energy_is_minus_log_softmax():
    gap = energy.joint_from_logits(LOGITS, LABELS) - energy.from_logits(LOGITS)
    expected = -jax.nn.log_softmax(LOGITS)[np.arange(5), LABELS]
    np.testing.assert_allclose(gap, expected, rtol=1e-5)


def test_the_score_of_a_gaussian_points_home():
    x = jax.random.normal(jax.random.key(0), (3, 4, 2))
    np.testing.assert_allclose(energy.score(quadratic, x), -x, rtol=1e-6)


def test_approximate_mass_is_minus_the_norm_of_the_score():
    x = jnp.array([[3.0, 4.0], [0.0, 0.0], [5.0, 12.0]])
    np.testing.assert_allclose(energy.approximate_mass(quadratic, x), [-5, 0, -13])


def test_approximate_mass_is_differentiable_also_at_zero_score():
    x = jnp.array([[3.0, 4.0], [0.0, 0.0]])
    grad = jax.grad(lambda x: energy.approximate_mass(quadratic, x).sum())(x)
    np.testing.assert_allclose(grad, [[-0.6, -0.8], [0, 0]], atol=1e-6)


@pytest.mark.parametrize("jit", [False, True])
def test_approximate_mass_has_the_weights_gradient_of_a_norm_example_by_example(jit):
    x = jax.random.normal(jax.random.key(1), (5, 3))

    def marginal(x, w):
        return energy.from_logits(jnp.tanh(x) @ w)

    def ours(w):
        return energy.approximate_mass(lambda x: marginal(x, w), x).sum()

    def plain(w):
        score = jax.vmap(jax.grad(lambda x: marginal(x[None], w)[0]))(x)
        return -jnp.linalg.norm(score, axis=-1).sum()

    grad = jax.grad(jax.jit(ours) if jit else ours)
    np.testing.assert_allclose(
        grad(LOGITS[:3]), jax.grad(plain)(LOGITS[:3]), rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize("jit", [False, True])
def test_approximate_mass_has_a_zero_gradient_where_the_score_is_zero(jit):
    def total(w):
        zero = jnp.zeros((5, 6))
        return energy.approximate_mass(lambda x: w * jnp.sum(x**2, -1), zero).sum()

    assert jax.grad(jax.jit(total) if jit else total)(2.0) == 0


@pytest.mark.parametrize("jit", [False, True])
def test_energies_are_differentiable_twice(jit):
    def marginal(x):
        return energy.from_logits(jnp.tanh(x) @ LOGITS[:3])

    x = jax.random.normal(jax.random.key(1), (2, 3))
    check_grads(jax.jit(marginal) if jit else marginal, (x,), order=2, rtol=2e-2)


# --- invalid labels, shapes and dtypes -------------------------------------------


def test_a_label_that_does_not_exist_raises_or_is_nan_where_it_is_traced():
    labels = jnp.array([0, 6, 7, -1, 1])
    with pytest.raises(ValueError, match=r"labels lie in -1\.\.7, expected 0\.\.6"):
        energy.joint_from_logits(LOGITS, labels)
    joint = jax.jit(energy.joint_from_logits)(LOGITS, labels)
    np.testing.assert_array_equal(np.isnan(joint), [False, False, True, True, False])


def test_small_label_dtypes_do_not_overflow():
    logits = jnp.arange(300.0)[None]
    joint = jax.jit(energy.joint_from_logits)
    assert joint(logits, jnp.array([200], jnp.uint8)) == -200
    assert np.isnan(joint(logits, jnp.array([-1], jnp.int8)))


@pytest.mark.parametrize(
    "call",
    [
        lambda: energy.from_logits(LOGITS[0]),
        lambda: energy.joint_from_logits(LOGITS, LABELS[:3]),
        lambda: energy.joint_from_logits(LOGITS, LABELS[:, None]),
        lambda: energy.joint_from_logits(LOGITS, jnp.zeros(5)),
        lambda: energy.score(lambda x: quadratic(x).sum(), LOGITS),
        lambda: energy.score(lambda x: quadratic(x)[:, None], LOGITS),
    ],
)
def test_wrong_shapes_and_dtypes_are_refused(call):
    with pytest.raises(AssertionError, match=r"\[Chex\]"):
        call()


# --- the norm --------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1e-37, 1e-30, 1e-19, 1.0, 1e19, 1e30, 2e37])
def test_the_norm_neither_underflows_nor_overflows(scale):
    v = np.float32(scale) * np.array([[3, 4, 0], [0, 5, -12]], np.float32)
    exact = np.linalg.norm(np.float64(v), axis=1)
    np.testing.assert_allclose(np.float64(energy.norm(v)), exact, rtol=3e-7)
    unit = jax.grad(lambda v: energy.norm(v).sum())(jnp.asarray(v))
    np.testing.assert_allclose(unit, v / exact[:, None], rtol=1e-6)


def test_the_norm_has_the_derivatives_of_the_plain_norm_up_to_the_third():
    v = jax.random.normal(jax.random.key(0), (4,))

    def ours(v):
        return energy.norm(v[None])[0]

    plain = jnp.linalg.norm
    for _ in range(4):
        values = (jax.jit(f)(v) for f in (ours, plain))
        np.testing.assert_allclose(*values, rtol=2e-5, atol=1e-6)
        ours, plain = jax.jacfwd(ours), jax.jacfwd(plain)


def test_the_norm_of_zero_is_zero_and_so_are_its_derivatives():
    def total(v):
        return energy.norm(v).sum()

    zero = jnp.zeros((2, 3))
    assert total(zero) == 0
    assert not np.any(jax.grad(total)(zero)) and not np.any(jax.hessian(total)(zero))


def test_the_norm_does_not_hide_nan_or_infinity():
    v = jnp.array([[jnp.nan, 0.0], [jnp.inf, 1.0], [3.0, 4.0]])
    np.testing.assert_array_equal(energy.norm(v), [np.nan, np.inf, 5])
    mass = energy.approximate_mass(lambda x: jnp.sqrt(x[:, 0]) * 0, jnp.zeros((1, 1)))
    assert np.isnan(mass)  # 0 would be the largest mass that there is


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_the_norm_keeps_half_precision(dtype):
    v = jnp.full((1, 4), 300.0, dtype)  # whose square float16 does not hold
    assert energy.norm(v).dtype == dtype and energy.norm(v) == 600


def test_the_norm_takes_any_rank_and_empty_examples():
    v = jnp.ones((2, 2, 3, 4))
    np.testing.assert_allclose(energy.norm(v), np.sqrt(24), rtol=1e-6)
    np.testing.assert_array_equal(energy.norm(jnp.array([-2.0, 3.0])), [2, 3])
    assert energy.norm(jnp.ones((3, 0))).tolist() == [0, 0, 0]
    assert energy.norm(jnp.ones((0, 3))).shape == (0,)
