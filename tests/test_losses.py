import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ebmjax import energy, losses

RNG = np.random.default_rng(0)
W = jnp.asarray(RNG.normal(size=(6, 4)), jnp.float32)
X = jnp.asarray(RNG.normal(size=(5, 6)), jnp.float32)


def energy_fn(x, w=W):
    return energy.from_logits(jnp.tanh(x) @ w)


def test_cross_entropy_is_that_of_optax():
    logits, labels = jnp.tanh(X) @ W, jnp.array([0, 1, 2, 3, 0])
    np.testing.assert_allclose(
        losses.cross_entropy(logits, labels),
        optax.softmax_cross_entropy_with_integer_labels(logits, labels),
        rtol=1e-5,
    )


def test_the_contrast_has_the_gradient_of_minus_log_p():
    # E(x) = a x²/2 has p = N(0, 1/a), -log p = a x²/2 - log(a)/2 + const, whose
    # derivative is x²/2 - 1/(2a). Exact samples of the model: quantiles.
    a = 2.0
    data = jnp.array([0.3, -1.0, 2.0])
    uniform = (jnp.arange(200_000) + 0.5) / 200_000
    model = jax.scipy.stats.norm.ppf(uniform) / a**0.5
    grad = jax.grad(lambda a: losses.contrast(a * data**2 / 2, a * model**2 / 2))(a)
    expected = jnp.mean(data**2 / 2) - 1 / (2 * a)
    np.testing.assert_allclose(grad, expected, rtol=1e-3)


def test_energy_variance_is_that_of_numpy():
    energies = jnp.array([1.0, 4.0, -2.0])
    np.testing.assert_allclose(losses.energy_variance(energies), 6.0, rtol=1e-6)


def test_energy_variance_does_not_detach_the_mean():
    energies = jnp.array([1.0, 4.0, -2.0])
    grad = jax.grad(losses.energy_variance)(energies)
    # d/dE_k mean (E - m)² = 2 (E_k - m) / N either way in one batch, so look at
    # the second derivative: 2/N (1 - 1/N) on the diagonal, 2/N if detached.
    np.testing.assert_allclose(grad, 2 * (energies - 1) / 3, atol=1e-6)
    hessian = jax.hessian(losses.energy_variance)(energies)
    np.testing.assert_allclose(jnp.diag(hessian), 2 / 3 * (1 - 1 / 3), rtol=1e-5)


def test_energy_variance_is_over_the_batch_of_all_devices():
    energies = jnp.arange(8.0).reshape(4, 2)
    parts = jax.vmap(lambda e: losses.energy_variance(e, "i"), axis_name="i")(energies)
    np.testing.assert_allclose(parts.mean(), np.arange(8.0).var(), rtol=1e-6)


def test_gradient_norm_is_that_of_the_gradient_example_by_example():
    # E = -logsumexp(tanh(x) W): dE/dx = -(1 - tanh² x) (W softmax).
    share = jax.nn.softmax(jnp.tanh(X) @ W)
    gradient = (1 - np.tanh(X) ** 2) * np.asarray(share @ W.T)
    np.testing.assert_allclose(
        losses.gradient_norm(energy_fn, X),
        np.linalg.norm(gradient, axis=-1),
        rtol=1e-5,
    )


def test_energy_l2_of_known_energies():
    data, model = jnp.array([1.0, 3.0]), jnp.array([-2.0, 0.0, 5.0])
    np.testing.assert_allclose(losses.energy_l2(data, model), 5 + 29 / 3, rtol=1e-6)
    np.testing.assert_allclose(
        losses.energy_l2(data, model, form="square_mean"), 4 + 1, rtol=1e-6
    )


def test_energy_l2_pulls_energies_to_zero_one_by_one_or_by_their_mean():
    data, model = jnp.array([1.0, 3.0]), jnp.array([-2.0, 0.0, 5.0])
    each = jax.grad(losses.energy_l2, argnums=(0, 1))(data, model)
    np.testing.assert_allclose(each[0], 2 * data / 2, rtol=1e-6)
    np.testing.assert_allclose(each[1], 2 * model / 3, rtol=1e-6)
    mean = jax.grad(lambda e: losses.energy_l2(data, e, form="square_mean"))(model)
    np.testing.assert_allclose(mean, np.full(3, 2 * 1 / 3), rtol=1e-6)


def test_the_means_of_energy_l2_are_over_all_devices():
    data, model = jnp.arange(8.0).reshape(4, 2), jnp.arange(4.0).reshape(4, 1) - 1
    each = jax.vmap(
        lambda d, m: losses.energy_l2(d, m, form="square_mean", axis_name="i"),
        axis_name="i",
    )(data, model)
    np.testing.assert_allclose(each, np.full(4, 3.5**2 + 0.5**2), rtol=1e-6)


def test_an_unknown_form_is_named():
    with pytest.raises(ValueError, match="'l2', expected 'mean_square'"):
        losses.energy_l2(jnp.ones(2), jnp.ones(2), form="l2")


def test_gradient_norm_shares_its_pass_and_all_of_it_is_differentiated():
    """Norms and logits of one pass have the gradient of those of two."""

    def both(w):
        def with_logits(x):
            logits = jnp.tanh(x) @ w
            return energy.from_logits(logits), logits

        norms, logits = losses.gradient_norm(with_logits, X, has_aux=True)
        return norms.mean() + energy.from_logits(logits).var()

    def apart(w):
        norms = losses.gradient_norm(lambda x: energy_fn(x, w), X)
        return norms.mean() + energy_fn(X, w).var()

    ours, plain = (jax.value_and_grad(f)(W) for f in (both, apart))
    np.testing.assert_allclose(ours[0], plain[0], rtol=1e-6)
    np.testing.assert_allclose(ours[1], plain[1], rtol=1e-4, atol=1e-6)
    dots = [str(jax.make_jaxpr(f)(W)).count("dot_general") for f in (both, apart)]
    assert dots[0] < dots[1]


def test_wrong_shapes_are_refused():
    for call in (
        lambda: losses.contrast(jnp.ones((2, 1)), jnp.ones(2)),
        lambda: losses.energy_variance(jnp.ones((2, 1))),
        lambda: losses.energy_l2(jnp.ones(2), jnp.ones((2, 1))),
        lambda: losses.gradient_norm(lambda x: energy_fn(x).sum(), X),
        lambda: losses.cross_entropy(jnp.ones((2, 3)), jnp.ones((2, 1), int)),
    ):
        with pytest.raises(AssertionError, match=r"\[Chex\]"):
            call()
