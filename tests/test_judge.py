"""The bridge to the official AutoAttack, on images of three channels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_runs

from ebmjax import recipe
from ebmjax.eval import attacks, judge

torch = pytest.importorskip("torch")
pytest.importorskip("pyautoattack")


def images(num):
    """x [num, 6, 5, 3] in [-1, 1]."""
    x = np.random.default_rng(0).uniform(-1, 1, (num, 6, 5, 3))
    return np.float32(x)


def model(num_classes):
    network = recipe.network(small_runs.settings(), num_classes)
    return small_runs.untrained(network, shape=(6, 5, 3)).model


def test_the_bridge_has_the_logits_and_gradients_of_the_model():
    logits_fn, x = model(10).logits, images(5)
    weights = np.float32(np.random.default_rng(1).normal(size=(5, 10)))
    expected = jax.grad(lambda z: jnp.sum(weights * logits_fn(2 * z - 1)))((x + 1) / 2)
    z = torch.tensor((x + 1) / 2).permute(0, 3, 1, 2).requires_grad_()
    logits = judge.torch_module(logits_fn)(z)
    (grad,) = torch.autograd.grad((logits * torch.tensor(weights)).sum(), z)
    np.testing.assert_allclose(logits.detach(), logits_fn(x), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(grad.permute(0, 2, 3, 1), expected, rtol=1e-4, atol=1e-6)
    grad.view(5, -1)  # as pyautoattack does


@pytest.mark.slow
@pytest.mark.parametrize("num_classes", [5, 12])  # AutoAttack has up to 9 targets
def test_all_official_attacks_run_on_colour_images(num_classes):
    m, x = model(num_classes), images(6)
    labels = np.asarray(m.logits(x).argmax(axis=-1))
    eps = 1e-4  # too small to find a mistake: every attack sees every image
    result = judge.official_autoattack(
        m, x, labels, norm="linf", eps=eps, batch_size=6, seed=0
    )
    x_adv = attacks.autoattack(
        jax.random.key(0), m.logits, x, labels, norm="linf", eps=2 * eps, batch_size=6
    )
    ours = attacks.is_correct(m.logits(x_adv), jnp.asarray(labels))
    assert result["accuracy"] == np.mean(ours) == 1
