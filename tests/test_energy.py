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
