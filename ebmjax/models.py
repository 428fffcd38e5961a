"""Networks: x [B, H, W, C] in [-1, 1] -> logits [B, K].

The Wide-ResNet is that of the official JEM code to the last bias: stride on a
block's second convolution, raw input into the shortcut, PyTorch's padding and
initialisation, no normalisation unless asked for.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from ebmjax.kernels import conv

NORMS = (None, "batch", "instance", "layer", "act")


class Network(NamedTuple):
    """A network as pure functions. `stats` are norm statistics, {} without any."""

    init: Callable  # (key, x) -> params, stats
    apply: Callable  # (params, stats, x) -> logits
    train: Callable  # (params, stats, x, key) -> logits, stats
    features: Callable  # (params, stats, x) -> what enters the last layer, [B, F]
    separable: bool  # do an example's training logits depend on it alone?


def network(module: nn.Module) -> Network:
    """The functions of a linen module of this file."""

    def init(key, x):
        variables = module.init(key, x)
        return variables["params"], variables.get("batch_stats", {})

    def apply(params, stats, x):
        return module.apply({"params": params, "batch_stats": stats}, x)

    def train(params, stats, x, key):
        logits, new = module.apply(
            {"params": params, "batch_stats": stats},
            x,
            train=True,
            mutable=["batch_stats"],
            rngs={"dropout": key},
        )
        return logits, new.get("batch_stats", stats)

    def features(params, stats, x):
        variables = {"params": params, "batch_stats": stats}
        _, sown = module.apply(variables, x, mutable=["intermediates"])
        return sown["intermediates"]["features"][0]

    separable = getattr(module, "norm", None) != "batch"
    return Network(init, apply, train, features, separable)


class WideResNet(nn.Module):
    """WRN-depth-width (Zagoruyko & Komodakis, 2016) as JEM has it.

    `norm` is one of `NORMS`; "batch" takes its statistics over `axis_name` too
    when that is given. Logits, and the layer that makes them, are float32
    whatever `dtype` the convolutions compute in. Depth must be 6n + 4. With
    `remat` only what enters a block is kept for the gradient, and the rest is
    computed again: less memory, more arithmetic.
    """

    depth: int
    width: int
    num_classes: int
    norm: str | None = None
    dropout_rate: float = 0.0
    leak: float = 0.2
    dtype: Any = jnp.float32
    axis_name: str | None = None
    remat: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        if self.depth < 10 or (self.depth - 4) % 6:
            raise ValueError(f"depth must be 10, 16, 22, 28, ..., not {self.depth}")
        blocks_per_group = (self.depth - 4) // 6
        x = Conv(16, dtype=self.dtype, name="conv1")(x)
        block = Block
        if self.remat:  # twice, or a gradient of a gradient keeps what the inner makes
            block = nn.remat(nn.remat(Block, static_argnums=2), static_argnums=2)
        for group in range(3):
            for i in range(blocks_per_group):
                x = block(
                    16 * self.width * 2**group,
                    stride=2 if group > 0 and i == 0 else 1,
                    norm=self.norm,
                    dropout_rate=self.dropout_rate,
                    leak=self.leak,
                    dtype=self.dtype,
                    axis_name=self.axis_name,
                    name=f"layer{group + 1}_{i}",
                )(x, train)
        x = Norm(self.norm, self.axis_name, name="norm")(x, train)
        x = nn.leaky_relu(x, self.leak)
        # The official 8x8 average pool is a global one at 32x32 images.
        return _head(self, _full(x).mean(axis=(1, 2)))


class Block(nn.Module):
    """norm, leaky ReLU, conv, dropout, norm, leaky ReLU, strided conv; plus x."""

    features: int
    stride: int
    norm: str | None
    dropout_rate: float
    leak: float
    dtype: Any
    axis_name: str | None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        y = Norm(self.norm, self.axis_name, name="norm1")(x, train)
        y = nn.leaky_relu(y, self.leak)
        y = Conv(self.features, dtype=self.dtype, name="conv1")(y)
        y = nn.Dropout(self.dropout_rate, deterministic=not train)(y)
        y = Norm(self.norm, self.axis_name, name="norm2")(y, train)
        y = nn.leaky_relu(y, self.leak)
        y = Conv(self.features, stride=self.stride, dtype=self.dtype, name="conv2")(y)
        if self.stride != 1 or x.shape[-1] != self.features:
            x = Conv(
                self.features,
                size=1,
                stride=self.stride,
                dtype=self.dtype,
                name="shortcut",
            )(x)
        return x + y


class ConvNet(nn.Module):
    """3x3 convolutions, stride 1 and 2 in turn, SiLU, no norm; a linear head.

    For images of 28x28 and less. Smooth, as the energy of an image should be.
    """

    num_classes: int
    features: Sequence[int] = (32, 32, 64, 64)
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        del train
        for i, features in enumerate(self.features):
            name = f"conv{i + 1}"
            x = Conv(features, stride=1 + i % 2, dtype=self.dtype, name=name)(x)
            x = nn.silu(x)
        return _head(self, x.reshape(len(x), -1))


class MLP(nn.Module):
    """Fully connected, SiLU; for points of the plane and other vectors."""

    num_classes: int
    features: Sequence[int] = (128, 128)
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        del train
        x = x.reshape(len(x), -1)
        for i, features in enumerate(self.features):
            x = nn.silu(Dense(features, dtype=self.dtype, name=f"dense{i + 1}")(x))
        return _head(self, x)


def _head(module, features):
    """features [B, F] -> logits [B, K], in float32 whatever came before."""
    features = _full(features)
    module.sow("intermediates", "features", features)  # for `Network.features`
    return Dense(module.num_classes, dtype=features.dtype, name="head")(features)


def _full(x):
    """At least float32."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _torch_init(fan_in: int) -> Callable:
    """PyTorch's default for weights and biases: U(-1/√fan_in, 1/√fan_in)."""

    def init(key, shape, dtype=jnp.float32):
        bound = fan_in**-0.5
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


class Conv(nn.Module):
    """A convolution with bias, its input padded with size // 2 zeros all around."""

    features: int
    size: int = 3
    stride: int = 1
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (self.size, self.size, x.shape[-1], self.features)
        init = _torch_init(self.size**2 * x.shape[-1])
        w = self.param("kernel", init, shape).astype(self.dtype)
        b = self.param("bias", init, (self.features,)).astype(self.dtype)
        x = x.astype(self.dtype)
        y = conv.conv(x, w, stride=self.stride, padding=self.size // 2)
        return y + b.reshape(1, 1, 1, -1)


class Dense(nn.Module):
    """A linear layer with bias."""

    features: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        init = _torch_init(x.shape[-1])
        w = self.param("kernel", init, (x.shape[-1], self.features)).astype(self.dtype)
        b = self.param("bias", init, (self.features,)).astype(self.dtype)
        return x.astype(self.dtype) @ w + b[None]


class Norm(nn.Module):
    """The normalisations of the official code, PyTorch's in every constant.

    None: the identity. "batch": the batch's mean and variance in training,
    running ones (weight 0.9 on the newest) otherwise. "instance": per image and
    channel. "layer": per image. "act": a scale and shift that whiten the first
    batch (Kingma & Dhariwal, 2018), so `init` must see real images.
    """

    kind: str | None
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        if self.kind not in NORMS:
            raise ValueError(f"norm must be one of {NORMS}, not {self.kind!r}")
        if self.kind is None:
            return x
        features = (x.shape[-1],)
        dtype, x = x.dtype, _full(x)
        if self.kind == "act":
            loc = self.param("loc", lambda _: -x.mean(axis=(0, 1, 2)))
            std = x.std(axis=(0, 1, 2), ddof=1)
            scale = self.param("scale", lambda _: 1 / (std + 1e-6))
            return (_channels(scale) * (x + _channels(loc))).astype(dtype)

        if self.kind == "batch":
            mean, var = self._batch_moments(x, train)
        else:
            axes = (1, 2) if self.kind == "instance" else (1, 2, 3)
            mean = x.mean(axes, keepdims=True)
            var = x.var(axes, keepdims=True)
        scale = self.param("scale", nn.initializers.ones, features)
        bias = self.param("bias", nn.initializers.zeros, features)
        x = (x - mean) * lax.rsqrt(var + 1e-5)
        return (x * _channels(scale) + _channels(bias)).astype(dtype)

    def _batch_moments(self, x, train):
        features = (x.shape[-1],)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, features)
        running_var = self.variable("batch_stats", "var", jnp.ones, features)
        if not train:
            return _channels(running_mean.value), _channels(running_var.value)
        count = x.size // x.shape[-1]
        over_devices = self.axis_name is not None
        mean = x.mean(axis=(0, 1, 2))
        if over_devices:
            count *= lax.axis_size(self.axis_name)
            mean = lax.pmean(mean, self.axis_name)
        var = ((x - _channels(mean)) ** 2).mean(axis=(0, 1, 2))
        if over_devices:
            var = lax.pmean(var, self.axis_name)
        # PyTorch normalises by the biased variance and keeps the unbiased one.
        running_mean.value = 0.1 * running_mean.value + 0.9 * mean
        running_var.value = 0.1 * running_var.value + 0.9 * var * count / (count - 1)
        return _channels(mean), _channels(var)


def _channels(v: jax.Array) -> jax.Array:
    return v.reshape(1, 1, 1, -1)
