"""A small network, in JAX and in PyTorch, and its images, to test AutoAttack on."""

import functools
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ebmjax.eval import attacks

KEY = jax.random.key(0)
OFFICIAL = {"linf": "Linf", "l2": "L2"}
norms = pytest.mark.parametrize("norm", ("linf", "l2"))
slow = pytest.mark.slow


@pytest.fixture(autouse=True)
def one_thread_of_torch():
    """More of them wait for each other where cores are shared."""
    torch = sys.modules.get("torch")
    if torch:
        torch.set_num_threads(1)


@functools.cache
def weights():
    rng = np.random.default_rng(0)
    w = rng.normal(0, 0.4, (64, 32)).astype(np.float32)
    return w, rng.normal(0, 1, (32, 10)).astype(np.float32)


def network(x):
    """x [B, 8, 8, 1] in [0, 1] -> [B, 10]; smooth, unsaturated."""
    w, v = weights()
    return jnp.tanh((2 * x.reshape(len(x), -1) - 1) @ w) @ v


def torch_network(torch, dtype="float32"):
    w, v = (torch.tensor(a.astype(dtype)) for a in weights())

    class Network(torch.nn.Module):
        def forward(self, x):  # [B, 1, 8, 8]
            return torch.tanh((2 * x.reshape(len(x), -1) - 1) @ w) @ v

    return Network()


def images(num, seed=1):
    x = np.random.default_rng(seed).uniform(0.05, 0.95, (num, 8, 8, 1))
    x = np.float32(x)
    return x, np.array(network(x).argmax(axis=-1), np.int32)


def robust(x, labels):
    return np.asarray(attacks.is_correct(network(x), jnp.asarray(labels)))
