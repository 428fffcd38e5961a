import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ebmjax import sgld
from ebmjax.eval import refinement

CURVATURE = 0.3


def langevin(step_size, noise_std):
    return functools.partial(sgld.sgld, step_size=step_size, noise_std=noise_std)


def quadratic(x):
    """One class, so that E(x) = -f(x) = CURVATURE ‖x‖²/2.  [B, D] -> [B, 1]."""
    return -CURVATURE / 2 * jnp.sum(x**2, axis=-1, keepdims=True)


def network(x, hidden=8):
    """Smooth, two layers, three classes.  [B, 4] -> [B, 3]."""
    rng = np.random.default_rng(0)
    w, v = rng.normal(0, 0.5, (4, hidden)), rng.normal(0, 0.5, (hidden, 3))
    return jnp.tanh(x @ w.astype(x.dtype)) @ v.astype(x.dtype)


def test_a_chain_without_noise_on_a_quadratic_energy_shrinks_by_a_known_factor():
    x = jnp.array([[1.0, -2.0], [0.5, 4.0]])
    refined = refinement.refine(
        jax.random.key(0),
        quadratic,
        x,
        num_steps=3,
        sampler=langevin(0.5, 0.0),
    )
    np.testing.assert_allclose(refined, x * (1 - 0.5 * CURVATURE) ** 3, rtol=1e-6)


@pytest.mark.parametrize(
    "gradient, slope",
    [("true", (1 - 0.5 * CURVATURE) ** 3), ("straight_through", 1.0)],
)
def test_the_two_gradients_of_that_chain(gradient, slope):
    refine = functools.partial(
        refinement.refine,
        jax.random.key(0),
        quadratic,
        num_steps=3,
        sampler=langevin(0.5, 0.1),
        gradient=gradient,
    )
    x = jnp.array([[1.0, -2.0]])
    jacobian = jax.jacobian(refine)(x)[0, :, 0, :]
    np.testing.assert_allclose(jacobian, slope * np.eye(2), rtol=1e-6, atol=1e-7)


def test_the_gradient_does_not_change_the_value():
    x = jax.random.uniform(jax.random.key(1), (3, 4))
    true, through = (
        refinement.refine(jax.random.key(0), network, x, num_steps=4, gradient=gradient)
        for gradient in ("true", "straight_through")
    )
    np.testing.assert_array_equal(true, through)
    assert np.abs(true - x).min() > 1e-4


def test_the_true_gradient_is_the_one_of_finite_differences():
    with jax.enable_x64(True):
        classifier = refinement.refined_classifier(network, num_steps=3, num_copies=2)

        @jax.jit
        def loss(x):
            return jax.nn.log_softmax(classifier(jax.random.key(0), x))[0, 1]

        x = jnp.array([[0.3, -0.8, 0.5, 0.1]], jnp.float64)
        step = 1e-5 * np.eye(4)[:, None]
        expected = [(loss(x + e) - loss(x - e)) / 2e-5 for e in step]
        np.testing.assert_allclose(jax.grad(loss)(x)[0], expected, rtol=1e-6)

        # Power: without the chain's derivative it would be something else.
        classifier = refinement.refined_classifier(
            network, num_steps=3, num_copies=2, gradient="straight_through"
        )
        through = jax.grad(
            lambda x: jax.nn.log_softmax(classifier(jax.random.key(0), x))[0, 1]
        )(x)
        assert np.abs(through[0] / np.array(expected) - 1).max() > 0.05


def test_the_way_back_keeps_states_and_no_activations():
    x = jnp.zeros((5, 4))
    wide = functools.partial(network, hidden=1000)
    _, backward = jax.vjp(
        lambda x: refinement.refine(jax.random.key(0), wide, x, num_steps=7), x
    )
    kept = sum(leaf.size for leaf in jax.tree.leaves(backward))
    weights, activations = 4 * 1000 + 1000 * 3, 7 * 5 * 1000
    assert kept < 2 * weights + 4 * 7 * x.size < activations


def test_no_steps_and_no_noise_is_the_plain_classifier():
    x = jax.random.normal(jax.random.key(0), (5, 4))
    classifier = refinement.refined_classifier(
        network, num_steps=0, num_copies=3, input_noise_std=0.0
    )
    np.testing.assert_allclose(
        classifier(jax.random.key(1), x), network(x), rtol=1e-6, atol=1e-7
    )


def test_logits_are_averaged_over_the_copies_of_one_image():
    # Logits = x, so n noised copies leave x + noise of standard deviation std/√n.
    x = jnp.arange(4000.0)[:, None] * jnp.ones((1, 3))
    classifier = refinement.refined_classifier(
        lambda x: x, num_steps=0, num_copies=4, input_noise_std=20.0
    )
    noise = np.asarray(classifier(jax.random.key(0), x) - x)
    np.testing.assert_allclose(noise.std(), 10.0, rtol=0.03)  # 4 standard errors
    assert abs(noise.mean()) < 4 * 10 / np.sqrt(noise.size)
    # Softmax before the mean would be another classifier, and bounded by one.
    assert noise.max() > 1


def test_an_unknown_gradient_is_named():
    with pytest.raises(ValueError, match="'none'"):
        refinement.refine(
            jax.random.key(0), quadratic, jnp.ones((1, 2)), num_steps=1, gradient="none"
        )


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32, jnp.float64])
def test_the_dtype_of_x_decides(dtype):
    with jax.enable_x64(True), jax.numpy_dtype_promotion("strict"):

        def refined_and_logits(x):
            classifier = refinement.refined_classifier(
                network, num_steps=2, input_noise_std=np.float64(0.1)
            )
            key = jax.random.key(0)
            x_k = refinement.refine(key, network, x, num_steps=np.int64(2))
            return x_k, classifier(key, x)

        shapes = jax.eval_shape(refined_and_logits, jnp.zeros((3, 4), dtype))
    assert {a.dtype for a in shapes} == {jnp.dtype(dtype)}
