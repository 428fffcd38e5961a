import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ebmjax import sgld


def quadratic(x):
    """E = ‖x‖²/2: a unit Gaussian at temperature 1."""
    return 0.5 * jnp.sum(x**2, axis=-1)


def chain(key, x, num_steps, energy_fn=quadratic, **settings):
    sampler = sgld.sgld(energy_fn, **settings)
    state, info = sgld.run(key, sampler, sampler.init(x), num_steps)
    return state.position, info


def test_without_noise_it_is_gradient_descent():
    x = jnp.array([[1.0, -2.0]])
    found, info = chain(jax.random.key(0), x, 3, step_size=0.5, noise_std=0.0)
    np.testing.assert_allclose(found, x / 8, rtol=1e-6)  # each step halves x
    np.testing.assert_allclose(info.energy[:, 0], [2.5, 2.5 / 4, 2.5 / 16], rtol=1e-6)
    np.testing.assert_allclose(
        info.grad_norm[:, 0], 5**0.5 / np.array([1, 2, 4]), rtol=1e-6
    )


def test_without_a_step_it_is_a_random_walk():
    x = jnp.zeros((20_000, 1))
    found, _ = chain(jax.random.key(0), x, 4, step_size=0.0, noise_std=0.3)
    # Its variance is 4 * 0.09, known to 1 % from 20,000 walks.
    np.testing.assert_allclose(found.var(), 0.36, rtol=0.04)


@pytest.mark.parametrize("temperature", [1.0, 0.25])
def test_a_gaussian_is_sampled_with_the_variance_of_the_discrete_chain(temperature):
    step_size = 0.2
    noise_std = sgld.langevin_noise_std(step_size, temperature)
    x = jnp.zeros((20_000, 2))
    x, _ = chain(jax.random.key(0), x, 100, step_size=step_size, noise_std=noise_std)
    # x' = (1 - a) x + s n has the stationary variance s² / (1 - (1 - a)²), which
    # is T / (1 - a/2): the exact temperature up to the bias of the step.
    expected = temperature / (1 - step_size / 2)
    np.testing.assert_allclose(x.var(axis=0), expected, rtol=0.04)
    np.testing.assert_allclose(x.mean(axis=0), 0, atol=0.05)


def test_jem_settings_have_temperature_5e_5():
    np.testing.assert_allclose(sgld.langevin_noise_std(1.0, 5e-5), 0.01, rtol=1e-6)


def test_jit_and_no_jit_and_the_same_key_give_the_same_chain():
    x = jax.random.normal(jax.random.key(1), (4, 3))
    run = lambda key: chain(key, x, 5, step_size=0.1, noise_std=0.1)[0]  # noqa: E731
    plain = run(jax.random.key(2))
    np.testing.assert_allclose(plain, jax.jit(run)(jax.random.key(2)), rtol=1e-6)
    with jax.disable_jit():
        np.testing.assert_allclose(plain, run(jax.random.key(2)), rtol=1e-6)
    assert not np.allclose(plain, run(jax.random.key(3)))


def test_a_position_may_be_any_pytree():
    def energy_fn(position):
        return quadratic(position["a"]) + 2 * quadratic(position["b"])

    start = {"a": jnp.ones((2, 3)), "b": jnp.ones((2, 1))}
    found, info = chain(
        jax.random.key(0), start, 1, energy_fn, step_size=0.1, noise_std=0.0
    )
    np.testing.assert_allclose(found["a"], 0.9 * np.ones((2, 3)), rtol=1e-6)
    np.testing.assert_allclose(found["b"], 0.8 * np.ones((2, 1)), rtol=1e-6)
    np.testing.assert_allclose(info.grad_norm[0], 7**0.5, rtol=1e-6)  # 3 * 1² + 2²


def test_the_leaves_of_a_pytree_get_different_noise():
    start = {"a": jnp.zeros((2, 3)), "b": jnp.zeros((2, 3))}
    found, _ = chain(
        jax.random.key(0),
        start,
        1,
        lambda position: quadratic(position["a"]) + quadratic(position["b"]),
        step_size=0.0,
        noise_std=1.0,
    )
    assert not np.allclose(found["a"], found["b"])
