import jax
import jax.numpy as jnp
import numpy as np
import optax

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
