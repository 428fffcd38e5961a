"""A network that PyTorch has trained on digits, for tests against it."""

import functools

import numpy as np
import torch
import torch_reference as reference
from sklearn.datasets import load_digits

torch.set_num_threads(1)  # two, beside XLA's own, wait for each other
NORMS = list(reference.NORMS)


SIZE = 16  # pixels, half of the official images'


def digits(num, start=0):
    """float [num, 16, 16, 3] in [-1, 1], int [num]; noisy, so that no pixels tie."""
    x, y = load_digits(return_X_y=True)
    x = np.kron(x.reshape(-1, 8, 8, 1) / 10 - 0.9, np.ones((1, 2, 2, 3)))
    x += np.random.default_rng(0).uniform(-0.1, 0.1, x.shape)
    return x[start : start + num].astype(np.float32), y[start : start + num]


def uniform(num, seed=1):
    shape = (num, SIZE, SIZE, 3)
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


def to_torch(x):
    """NHWC -> NCHW."""
    return torch.tensor(np.asarray(x).transpose(0, 3, 1, 2))


def to_numpy(x):
    """NCHW -> NHWC."""
    return x.detach().numpy().transpose(0, 2, 3, 1)


@functools.cache
def trained(norm):
    """The state dict of a WRN-10-1 that has learned to tell digits."""
    torch.manual_seed(0)
    model = reference.Classifier(norm=norm)
    optimizer = reference.adam(model, 1e-2)
    x, y = digits(1280)
    x, y = to_torch(x), torch.tensor(y)
    for step in range(100):
        part = torch.arange(32 * step, 32 * step + 32) % len(x)
        loss = torch.nn.functional.cross_entropy(model(x[part]), y[part])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.state_dict()


def assert_close(ours, theirs, atol, what=""):
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=atol, err_msg=what)
