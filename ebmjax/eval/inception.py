"""The Inception-v3 network of FID, IS and KID, in Flax.

Its weights are not part of ebmjax: they are the file
`pt_inception-2015-12-05-6726825d.pth` of pytorch-fid's release `fid_weights` (or
`weights-inception-2015-12-05-6726825d.pth` of torch-fidelity's), the TensorFlow weights
of Heusel et al. (2017). `load` reads it, which needs PyTorch, and so does

    python -m ebmjax.eval.inception FILE.pth FILE.npz

which converts it to a file that needs nothing else. The network differs from
torchvision's `inception_v3`: other weights, 1,008 classes, averages over the pixels
inside the image only, and a maximum in place of the average of the last block.
"""

import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import traverse_util

from ebmjax import batching, interop, parallel, rundir

SIZE = 299  # height and width of its input
INPUTS = ("tensorflow", "pytorch")
BN_EPS = 1e-3
BATCH_SIZE = 50  # images, over all devices


# --- the network --------------------------------------------------------------


class Conv(nn.Module):
    """A convolution and ReLU; batch norm is part of its weights, see `from_torch`."""

    features: int
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1
    same: bool = False  # padded to keep the size; else not padded

    @nn.compact
    def __call__(self, x):
        pad = [(k // 2, k // 2) if self.same else (0, 0) for k in self.kernel]
        strides = (self.stride, self.stride)
        return nn.relu(
            nn.Conv(self.features, self.kernel, strides, pad, name="conv")(x)
        )


def _chain(x, prefix, *layers):
    """Convolutions one after another, PREFIX_1, PREFIX_2, ...: (features, kernel)."""
    for i, (features, kernel) in enumerate(layers, start=1):
        x = Conv(features, kernel, same=True, name=f"{prefix}_{i}")(x)
    return x


def _average(x):
    """3 x 3 means over the pixels inside the image."""
    return nn.avg_pool(x, (3, 3), (1, 1), "SAME", count_include_pad=False)


def _maximum(x, stride=2, padding="VALID"):
    return nn.max_pool(x, (3, 3), (stride, stride), padding)


class BlockA(nn.Module):
    pool_features: int

    @nn.compact
    def __call__(self, x):
        branches = [
            Conv(64, name="branch1x1")(x),
            _chain(x, "branch5x5", (48, (1, 1)), (64, (5, 5))),
            _chain(x, "branch3x3dbl", (64, (1, 1)), (96, (3, 3)), (96, (3, 3))),
            Conv(self.pool_features, name="branch_pool")(_average(x)),
        ]
        return jnp.concatenate(branches, axis=-1)


class BlockB(nn.Module):
    @nn.compact
    def __call__(self, x):
        double = _chain(x, "branch3x3dbl", (64, (1, 1)), (96, (3, 3)))
        branches = [
            Conv(384, (3, 3), 2, name="branch3x3")(x),
            Conv(96, (3, 3), 2, name="branch3x3dbl_3")(double),
            _maximum(x),
        ]
        return jnp.concatenate(branches, axis=-1)


class BlockC(nn.Module):
    channels: int

    @nn.compact
    def __call__(self, x):
        c, row, column = self.channels, (1, 7), (7, 1)
        double = ((c, (1, 1)), (c, column), (c, row), (c, column), (192, row))
        branches = [
            Conv(192, name="branch1x1")(x),
            _chain(x, "branch7x7", (c, (1, 1)), (c, row), (192, column)),
            _chain(x, "branch7x7dbl", *double),
            Conv(192, name="branch_pool")(_average(x)),
        ]
        return jnp.concatenate(branches, axis=-1)


class BlockD(nn.Module):
    @nn.compact
    def __call__(self, x):
        seven = ((192, (1, 1)), (192, (1, 7)), (192, (7, 1)))
        branches = [
            Conv(320, (3, 3), 2, name="branch3x3_2")(_chain(x, "branch3x3", seven[0])),
            Conv(192, (3, 3), 2, name="branch7x7x3_4")(
                _chain(x, "branch7x7x3", *seven)
            ),
            _maximum(x),
        ]
        return jnp.concatenate(branches, axis=-1)


class BlockE(nn.Module):
    pool: Callable  # of the last branch, at stride 1

    @nn.compact
    def __call__(self, x):
        def both(x, prefix):
            row = Conv(384, (1, 3), same=True, name=f"{prefix}a")(x)
            return [row, Conv(384, (3, 1), same=True, name=f"{prefix}b")(x)]

        single = _chain(x, "branch3x3", (384, (1, 1)))
        double = _chain(x, "branch3x3dbl", (448, (1, 1)), (384, (3, 3)))
        branches = [
            Conv(320, name="branch1x1")(x),
            *both(single, "branch3x3_2"),
            *both(double, "branch3x3dbl_3"),
            Conv(192, name="branch_pool")(self.pool(x)),
        ]
        return jnp.concatenate(branches, axis=-1)


class InceptionV3(nn.Module):
    """Images as `prepare` makes them [B, 299, 299, 3] -> features [B, 2048] and logits
    without their bias [B, 1008], from which the Inception Score is computed."""

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        x = Conv(32, (3, 3), 2, name="Conv2d_1a_3x3")(x)
        x = Conv(32, (3, 3), name="Conv2d_2a_3x3")(x)
        x = _maximum(Conv(64, (3, 3), same=True, name="Conv2d_2b_3x3")(x))
        x = Conv(80, name="Conv2d_3b_1x1")(x)
        x = _maximum(Conv(192, (3, 3), name="Conv2d_4a_3x3")(x))
        for letter, features in zip("bcd", (32, 64, 64), strict=True):
            x = BlockA(features, name=f"Mixed_5{letter}")(x)
        x = BlockB(name="Mixed_6a")(x)
        for letter, channels in zip("bcde", (128, 160, 160, 192), strict=True):
            x = BlockC(channels, name=f"Mixed_6{letter}")(x)
        x = BlockD(name="Mixed_7a")(x)
        x = BlockE(_average, name="Mixed_7b")(x)
        x = BlockE(lambda x: _maximum(x, 1, "SAME"), name="Mixed_7c")(x)
        features = x.mean(axis=(1, 2))
        return features, nn.Dense(1008, use_bias=False, name="fc")(features)


# --- its input ----------------------------------------------------------------


def prepare(image: jax.Array, input: str = "tensorflow") -> jax.Array:
    """uint8 images [B, H, W, 1 or 3] -> what the network takes [B, 299, 299, 3].

    "tensorflow" is what FID's own program and torch-fidelity do: pixel i of the output
    is at i H / 299 of the input, and (x - 128) / 128. "pytorch" is pytorch-fid:
    (i + 1/2) H / 299 - 1/2, and x / 127.5 - 1. Both are bilinear, without antialiasing.
    """
    x = jnp.broadcast_to(image.astype(jnp.float32), (*image.shape[:3], 3))
    rows, columns = (jnp.asarray(_bilinear(n, input)) for n in image.shape[1:3])
    x = jnp.einsum("ih,bhwc,jw->bijc", rows, x, columns, precision="highest")
    return (x - 128) / 128 if input == "tensorflow" else x / 127.5 - 1


def _bilinear(size: int, input: str) -> np.ndarray:
    """Weights [299, size] of the pixels of an input, beyond which its edges go on."""
    at = np.arange(SIZE) * size / SIZE
    if input == "pytorch":
        at = (np.arange(SIZE) + 0.5) * size / SIZE - 0.5
    at = np.clip(at, 0, size - 1)
    low = np.floor(at).astype(int)
    weights = np.zeros((SIZE, size), np.float32)
    np.add.at(weights, (np.arange(SIZE), low), 1 - (at - low))
    np.add.at(weights, (np.arange(SIZE), np.minimum(low + 1, size - 1)), at - low)
    return weights


# --- its weights --------------------------------------------------------------


def load(path: str | os.PathLike) -> dict[str, Any]:
    """The parameters of `InceptionV3` in a .pth file, or in an .npz made from one.

    Raises OSError for a file that cannot be read, ValueError for another content and
    ImportError for a .pth file without PyTorch. Nothing in a file is executed.
    """
    path = rundir.expand(path)
    if path.suffix == ".npz":
        with path.open("rb") as file:
            arrays = dict(np.load(file, allow_pickle=False))
        params = traverse_util.unflatten_dict(arrays, sep="/")
    else:
        params = from_torch(interop.read_state_dict(path))
    expected = jax.eval_shape(
        InceptionV3().init, jax.random.key(0), jnp.zeros((1, SIZE, SIZE, 3))
    )["params"]
    shapes = [_shapes(tree) for tree in (params, expected)]
    if shapes[0] != shapes[1]:
        odd = sorted(set(shapes[0].items()) ^ set(shapes[1].items()))[0]
        raise ValueError(f"{path} does not hold FID's Inception network: see {odd}")
    return params


def _shapes(tree):
    return {k: x.shape for k, x in traverse_util.flatten_dict(tree, sep="/").items()}


def from_torch(state: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """A state dict with torchvision's names -> parameters of `InceptionV3`.

    Batch norm on running moments is a factor and a bias of the convolution before it.
    Raises ValueError for a missing tensor.
    """
    params = {}
    try:
        for name in (k.removesuffix(".conv.weight") for k in state if ".conv." in k):
            scale, bias, mean, var = (
                np.float64(state[f"{name}.bn.{part}"])
                for part in ("weight", "bias", "running_mean", "running_var")
            )
            scale = scale / np.sqrt(var + BN_EPS)
            kernel = np.float64(state[f"{name}.conv.weight"]).transpose(2, 3, 1, 0)
            where = name.replace(".", "/") + "/conv"
            params[f"{where}/kernel"] = np.float32(kernel * scale)
            params[f"{where}/bias"] = np.float32(bias - mean * scale)
        params["fc/kernel"] = np.float32(state["fc.weight"]).T
    except KeyError as error:
        raise ValueError(f"FID's Inception network has a tensor {error}") from error
    return traverse_util.unflatten_dict(params, sep="/")


def save(params: dict[str, Any], path: str | os.PathLike) -> None:
    """Writes the parameters as an .npz file, which `load` reads without PyTorch."""
    with rundir.expand(path).open("wb") as file:
        np.savez(file, **traverse_util.flatten_dict(params, sep="/"))


# --- its features -------------------------------------------------------------


class Extractor:
    """Features and logits of images by the network with the weights of a file."""

    def __init__(self, path: str | os.PathLike, input: str = "tensorflow"):
        self.input = input
        self._params = parallel.place(load(path))
        self._program = batching.program(
            lambda params, key, x: InceptionV3().apply(
                {"params": params}, prepare(x, input)
            )
        )

    def __call__(
        self, image: np.ndarray, progress: Callable = lambda batches: batches
    ) -> tuple[np.ndarray, np.ndarray]:
        """uint8 [N, H, W, 1 or 3] -> features [N, 2048], logits [N, 1008]."""
        return batching.over_batches(
            self._program, self._params, image, batch_size=BATCH_SIZE, progress=progress
        )


def main(argv: list[str]) -> None:
    if len(argv) != 3 or not argv[2].endswith(".npz"):
        sys.exit("usage: python -m ebmjax.eval.inception FILE.pth FILE.npz")
    try:
        save(load(argv[1]), argv[2])
    except (OSError, ValueError, ImportError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main(sys.argv)
