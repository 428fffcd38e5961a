"""The official AutoAttack, in PyTorch, on a model in JAX."""

import contextlib
import time

import jax
import numpy as np

from ebmjax import runs


def modules():
    """torch and pyautoattack.autoattack. Raises ImportError with what to install."""
    try:
        import pyautoattack.autoattack
        import torch
    except ImportError as error:
        raise ImportError(
            "config.eval.attacks.judge='pyautoattack' needs pyautoattack and PyTorch,"
            " which are not installed: pip install 'ebmjax[autoattack]'"
        ) from error
    return torch, pyautoattack.autoattack


def torch_module(logits_fn):
    """A torch.nn.Module: images [B, C, H, W] in [0, 1] -> logits [B, K].

    `logits_fn` is that of the model in JAX, x [B, H, W, C] in [-1, 1] -> [B, K]; its
    gradient is that of `jax.vjp`. It is compiled for batches of powers of two, to
    which smaller ones are filled up, for the attacks come with any number of images.
    """
    torch, _ = modules()
    forward = jax.jit(logits_fn)
    backward = jax.jit(lambda x, grad: jax.vjp(logits_fn, x)[1](grad)[0])

    def call(fn, *arrays):
        num = len(arrays[0])
        size = 1 << (num - 1).bit_length()
        arrays = [np.resize(a, (size, *a.shape[1:])) for a in arrays]
        return torch.from_numpy(np.array(fn(*arrays)[:num]))

    def to_jax(x):
        return 2 * x.detach().permute(0, 2, 3, 1).numpy() - 1

    class Logits(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return call(forward, to_jax(x))

        @staticmethod
        def backward(ctx, grad):
            (x,) = ctx.saved_tensors
            result = 2 * call(backward, to_jax(x), grad.numpy())
            return result.permute(0, 3, 1, 2).contiguous()  # pyautoattack views it

    class Bridge(torch.nn.Module):
        def forward(self, x):
            return Logits.apply(x)

    return Bridge()


@contextlib.contextmanager
def _one_thread(torch):
    """The network runs in JAX; waiting threads of PyTorch would only take its cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def official_autoattack(
    model: runs.Model,
    x: np.ndarray,
    labels: np.ndarray,
    *,
    norm: str,
    eps: float,
    batch_size: int,
    seed: int,
) -> dict:
    """{"accuracy", "seconds"} under version "standard" of the official package.

    x [N, H, W, C] in [-1, 1], labels [N]; eps is in the units of images in [0, 1]; on
    one device.
    """
    torch, autoattack = modules()
    # Parameters may lie on all devices.
    model = runs.Model(model.network, jax.tree.map(np.asarray, model.variables))
    module = torch_module(model.logits)
    started = time.monotonic()
    attack = autoattack.AutoAttack(
        module, norm={"linf": "Linf", "l2": "L2"}[norm], eps=eps, seed=seed
    )
    images = torch.from_numpy((np.asarray(x, np.float32) + 1) / 2)
    images, classes = (
        images.permute(0, 3, 1, 2).contiguous(),
        torch.tensor(labels).long(),
    )
    with torch.no_grad():
        num_classes = module(images[:1]).shape[-1]
    for targeted in (attack.apgd_targeted, attack.fab):  # it fails for missing ones
        targeted.n_target_classes = min(targeted.n_target_classes, num_classes - 1)
    with torch.random.fork_rng(devices=[]), _one_thread(torch):
        worst, _ = attack.run_standard_evaluation(
            images, classes, batch_size=batch_size
        )
    seconds = round(time.monotonic() - started, 1)
    with torch.no_grad():
        logits = np.concatenate([module(part).numpy() for part in worst.split(1000)])
    right = logits.argmax(axis=-1) == labels
    return {"accuracy": float(np.mean(right)), "seconds": seconds}
