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


def test_inner_steps_through_a_linear_layer_are_one_longer_step():
    """JEM++'s inner loop holds the gradient at the first layer's output. Where that
    layer is linear, N clipped steps at rate a are one at rate N a."""
    k_x, k_w, k_v = jax.random.split(jax.random.key(0), 3)
    x = jax.random.uniform(k_x, (6, 12), minval=-1.0, maxval=1.0)
    w = 0.5 * jax.random.normal(k_w, (12, 20))
    v = jax.random.normal(k_v, (20,))
    num_inner, rate = 5, 0.2

    def energy_of_hidden(h):
        return jnp.tanh(h + 0.1) @ v

    adjoint = jax.grad(lambda h: energy_of_hidden(h).sum())(x @ w)
    inner = x
    for _ in range(num_inner):
        _, layer = jax.vjp(lambda x: x @ w, inner)
        slope = jnp.clip(layer(adjoint)[0], -1.0, 1.0)
        inner = jnp.clip(inner - rate * slope, -1.0, 1.0)
    sampler = sgld.sgld(
        lambda x: energy_of_hidden(x @ w),
        step_size=num_inner * rate,
        noise_std=0.0,
        clip_grad=1.0,
        clip_x=1.0,
    )
    one, _ = sampler.step(jax.random.key(1), sampler.init(x))
    np.testing.assert_allclose(one.position, inner, atol=1e-5)
    moved = np.abs(one.position - x)
    assert np.mean(np.abs(one.position) == 1.0) > 0.1  # clipped x
    assert np.mean(np.isclose(moved, 1.0)) > 0.1  # clipped gradients
    assert np.mean(moved < 0.9) > 0.1


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


# --- clipping ---------------------------------------------------------------------


def test_clip_grad_bounds_every_entry_of_the_step():
    x = jnp.array([[3.0, -0.2], [-5.0, 0.0]])
    found, info = chain(
        jax.random.key(0), x, 1, step_size=0.5, noise_std=0.0, clip_grad=1.0
    )
    np.testing.assert_allclose(found, x - 0.5 * jnp.clip(x, -1, 1), rtol=1e-6)
    # The diagnostics are those of the gradient itself.
    np.testing.assert_allclose(info.grad_norm[0], jnp.linalg.norm(x, axis=1), rtol=1e-6)


def test_clip_x_keeps_positions_in_the_cube_noise_included():
    x = jnp.array([[0.9, -0.9, 0.1]])

    def pushed(x):  # dE/dx = (-1, 1, 0)
        return x[:, 1] - x[:, 0]

    found, _ = chain(
        jax.random.key(0), x, 1, pushed, step_size=0.5, noise_std=0.0, clip_x=1.0
    )
    np.testing.assert_allclose(found, [[1.0, -1.0, 0.1]], rtol=1e-6)
    noisy, _ = chain(
        jax.random.key(0), x, 5, pushed, step_size=0.5, noise_std=9.0, clip_x=1.0
    )
    assert np.abs(noisy).max() == 1


def test_a_clipped_gradient_samples_the_energy_with_linear_tails():
    # E = x²/2 with |dE/dx| <= c is the gradient of Huber's function, whose variance
    # at temperature 1 is known by quadrature.
    c, step_size = 0.5, 0.05
    grid = np.linspace(-40, 40, 400_001)
    huber = np.where(abs(grid) < c, grid**2 / 2, c * abs(grid) - c**2 / 2)
    density = np.exp(-huber)
    expected = np.sum(grid**2 * density) / np.sum(density)
    found, _ = chain(
        jax.random.key(0),
        jnp.zeros((20_000, 1)),
        1_500,
        step_size=step_size,
        noise_std=sgld.langevin_noise_std(step_size),
        clip_grad=c,
    )
    assert expected > 8  # far from the 1 of the unclipped chain
    np.testing.assert_allclose(found.var(), expected, rtol=0.05)


def test_without_clips_the_program_is_the_plain_update():
    def plain(key, x):
        energies, vjp = jax.vjp(quadratic, x)
        (grad,) = vjp(jnp.ones_like(energies))
        return x - 0.1 * grad + 0.2 * jax.random.normal(key, x.shape, x.dtype)

    def ours(key, x):
        sampler = sgld.sgld(quadratic, step_size=0.1, noise_std=0.2)
        return sampler.step(key, sampler.init(x))[0].position

    args = jax.random.key(0), jnp.ones((4, 3))
    jitted = [jax.jit(f) for f in (plain, ours)]
    flops = [f.lower(*args).compile().cost_analysis()["flops"] for f in jitted]
    assert flops[0] == flops[1]
    np.testing.assert_array_equal(*(f(*args) for f in jitted))


@pytest.mark.parametrize("clips", [dict(clip_grad=-1.0), dict(clip_x=-1.0)])
def test_negative_bounds_are_refused(clips):
    with pytest.raises(ValueError, match="expected positive bounds"):
        sgld.sgld(quadratic, step_size=0.1, noise_std=0.1, **clips)


# --- values that are not finite, shapes and dtypes -------------------------------


def root(x):
    """Finite everywhere; its gradient is NaN at 0."""
    return quadratic(x) + 0 * jnp.sqrt(x[:, 0])


def test_a_nan_gradient_is_not_silent():
    x = jnp.array([[1.0, 1.0], [0.0, 1.0], [4.0, 1.0]])
    settings = dict(step_size=0.1, noise_std=0.0)
    with pytest.warns(RuntimeWarning, match="1 of 3 chains"):
        found, info = chain(jax.random.key(0), x, 2, root, **settings)
    lost = np.isnan(found).any(axis=1)
    np.testing.assert_array_equal(lost, [False, True, False])
    np.testing.assert_array_equal(np.isnan(info.grad_norm), [lost, lost])
    # Compiled, the diagnostics are the only sign.
    _, info = jax.jit(lambda x: chain(jax.random.key(0), x, 2, root, **settings))(x)
    np.testing.assert_array_equal(np.isnan(info.grad_norm), [lost, lost])


def test_grad_norm_neither_underflows_nor_overflows_over_all_leaves():
    def energy_fn(position):
        return sum(jnp.sum(leaf, axis=-1) for leaf in position.values())

    def scaled(position):
        return energy_fn({k: s * position[k] for k, s in (("a", 3e-25), ("b", 4e-25))})

    start = {"a": jnp.ones((2, 1)), "b": jnp.ones((2, 1))}
    _, info = chain(jax.random.key(0), start, 1, scaled, step_size=1.0, noise_std=0.0)
    np.testing.assert_allclose(info.grad_norm[0], 5e-25, rtol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32, jnp.float64])
@pytest.mark.parametrize("number", [float, np.float64, jnp.float32, np.float16])
def test_the_dtype_of_the_position_decides(dtype, number):
    with jax.enable_x64(True), jax.numpy_dtype_promotion("strict"):
        sampler = sgld.sgld(
            lambda x: quadratic(x.astype(jnp.float32)),
            step_size=number(0.1),
            noise_std=number(0.1),
            clip_grad=np.float64(1),
            clip_x=np.float64(1),
        )
        start = sampler.init(jnp.ones((2, 3), dtype))
        state, info = sgld.run(jax.random.key(0), sampler, start, np.int64(3))
    assert state.position.dtype == dtype and info.grad_norm.dtype == jnp.float32


@pytest.mark.parametrize(
    "start, energy_fn",
    [
        (jnp.ones((2, 3)), lambda x: quadratic(x).sum()),
        (jnp.ones((2, 3)), lambda x: quadratic(x)[:, None]),
        (jnp.ones((2, 3), int), quadratic),
        ({"a": jnp.ones((2, 3)), "b": jnp.ones((3, 3))}, lambda p: quadratic(p["a"])),
    ],
)
def test_wrong_shapes_and_dtypes_are_refused(start, energy_fn):
    with pytest.raises(AssertionError, match=r"\[Chex\]"):
        chain(jax.random.key(0), start, 1, energy_fn, step_size=0.1, noise_std=0.1)
