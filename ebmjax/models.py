"""Networks: x [B, H, W, C] in [-1, 1] -> logits [B, K].

The Wide-ResNet is that of the official JEM code to the last bias: stride on a
block's second convolution, raw input into the shortcut, PyTorch's padding and
initialisation, no normalisation unless asked for.
"""

import inspect
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from ebmjax import kernels
from ebmjax.kernels.batch_norm import EPSILON, batch_norm

NORMS = (None, "batch", "instance", "layer", "act")


class Network(NamedTuple):
    """A network as pure functions of its parameters and its model state.

    The model state holds every Flax collection but the parameters, such as
    {"batch_stats": ...}; it is {} for most networks.
    """

    init: Callable  # (key, x) -> params, model_state
    apply: Callable  # (params, model_state, x) -> logits [B, K]
    train: Callable  # (params, model_state, x, key) -> logits [B, K], model_state
    features: Callable  # (params, model_state, x) -> input of the last layer [B, F]
    # Does a training logit depend on its own example alone? Then data and chains share
    # one forward pass. None: `examples_are_independent` finds out.
    per_example: bool | None = None


def network(module: nn.Module, *, per_example: bool | None = None) -> Network:
    """The functions of any linen module that maps x [B, ...] to logits [B, K].

    All collections of the module are carried from step to step. ``train=True`` is
    passed in training if ``__call__`` has such an argument, and dropout gets a key.
    `features` are what the module sows as ("intermediates", "features"), and the
    logits if it sows nothing. Pass `per_example` to say whether the training logits of
    an example depend on that example alone; otherwise training finds out by a probe.
    """
    takes_train = "train" in inspect.signature(type(module).__call__).parameters
    mode = (lambda train: {"train": train}) if takes_train else (lambda train: {})

    def split(variables):
        params = variables.get("params", {})
        kept = ("params", "intermediates")
        return params, {k: v for k, v in variables.items() if k not in kept}

    def init(key, x):
        # Parameters are those of the usual `module.init(key, x)`.
        rngs = {"params": key, "dropout": jax.random.fold_in(key, 1)}
        return split(module.init(rngs, x, **mode(False)))

    def apply(params, model_state, x):
        return module.apply({"params": params, **model_state}, x, **mode(False))

    def train(params, model_state, x, key):
        logits, new = module.apply(
            {"params": params, **model_state},
            x,
            mutable=list(model_state),
            rngs={"dropout": key},
            **mode(True),
        )
        return logits, {**model_state, **new}

    def features(params, model_state, x):
        variables = {"params": params, **model_state}
        out: Any = module.apply(variables, x, mutable=["intermediates"], **mode(False))
        logits, new = out
        return new.get("intermediates", {}).get("features", [logits])[0]

    return Network(init, apply, train, features, per_example)


def examples_are_independent(
    network: Network, x: jax.Array, *, axis_name: str | None = None
) -> bool:
    """Do the training logits of each example depend on that example alone?

    A probe: the first of two examples of x [B, ...] is replaced by NaN, and the logits
    of the second must not change. Batch statistics fail it, also those that a module
    takes over the devices of `axis_name`.
    """

    def second_logits(poison):
        params, model_state = network.init(jax.random.key(0), x[:2])
        pair = jnp.stack([x[0] + poison, x[1]])
        return network.train(params, model_state, pair, jax.random.key(1))[0][1]

    def on_one_device(poison):  # under an axis of the name that the module may use
        return jax.vmap(second_logits, axis_name=axis_name)(poison[None])[0]

    clean, poisoned = (on_one_device(jnp.float32(value)) for value in (0.0, jnp.nan))
    return bool(jnp.array_equal(clean, poisoned))


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
        x = _conv(x, 16, dtype=self.dtype, name="conv1")
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
        y = _conv(y, self.features, dtype=self.dtype, name="conv1")
        y = nn.Dropout(self.dropout_rate, deterministic=not train)(y)
        y = Norm(self.norm, self.axis_name, name="norm2")(y, train)
        y = nn.leaky_relu(y, self.leak)
        y = _conv(y, self.features, stride=self.stride, dtype=self.dtype, name="conv2")
        if self.stride != 1 or x.shape[-1] != self.features:
            x = _conv(
                x,
                self.features,
                size=1,
                stride=self.stride,
                dtype=self.dtype,
                name="shortcut",
            )
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
            x = _conv(x, features, stride=1 + i % 2, dtype=self.dtype, name=name)
            x = nn.silu(x)
        return _head(self, x.reshape(x.shape[0], -1))


class MLP(nn.Module):
    """Fully connected, SiLU; for points of the plane and other vectors."""

    num_classes: int
    features: Sequence[int] = (128, 128)
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        del train
        x = x.reshape(x.shape[0], -1)
        for i, features in enumerate(self.features):
            x = nn.silu(_dense(x, features, dtype=self.dtype, name=f"dense{i + 1}"))
        return _head(self, x)


def _head(module, features):
    """features [B, F] -> logits [B, K], in float32 whatever came before."""
    features = _full(features)
    module.sow("intermediates", "features", features)  # for `Network.features`
    return _dense(features, module.num_classes, dtype=features.dtype, name="head")


def _full(x):
    """At least float32."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _torch_init(fan_in: int) -> Callable:
    """PyTorch's default for weights and biases: U(-1/√fan_in, 1/√fan_in)."""

    def init(key, shape, dtype=jnp.float32):
        bound = fan_in**-0.5
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def _conv(x, features, *, size=3, stride=1, dtype, name):
    """A convolution with bias, its input padded with size // 2 zeros all around."""
    init = _torch_init(size**2 * x.shape[-1])
    return nn.Conv(
        features,
        (size, size),
        strides=stride,
        padding=size // 2,
        dtype=dtype,
        kernel_init=init,
        bias_init=init,
        conv_general_dilated_cls=lambda: kernels.conv_general_dilated,
        name=name,
    )(x)


def _dense(x, features, *, dtype, name):
    """A linear layer with bias."""
    init = _torch_init(x.shape[-1])
    layer = nn.Dense(features, dtype=dtype, kernel_init=init, bias_init=init, name=name)
    return layer(x)


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

        scale = _channels(self.param("scale", nn.initializers.ones, features))
        bias = _channels(self.param("bias", nn.initializers.zeros, features))
        if self.kind == "batch":
            mean, var = self._running_moments(features)
            if train:
                out: Any = batch_norm(x, scale, bias, self.axis_name)
                y, batch_mean, batch_var = out
                count = x.size // x.shape[-1]
                self._update(mean, var, batch_mean, batch_var, count)
                return y.astype(dtype)
            mean, var = _channels(mean.value), _channels(var.value)
        else:
            axes = (1, 2) if self.kind == "instance" else (1, 2, 3)
            mean = x.mean(axes, keepdims=True)
            var = x.var(axes, keepdims=True)
        return ((x - mean) * lax.rsqrt(var + EPSILON) * scale + bias).astype(dtype)

    def _running_moments(self, features):
        mean = self.variable("batch_stats", "mean", jnp.zeros, features)
        return mean, self.variable("batch_stats", "var", jnp.ones, features)

    def _update(self, running_mean, running_var, mean, var, count):
        """PyTorch normalises by the biased variance and keeps the unbiased one."""
        if self.axis_name is not None:
            count *= lax.axis_size(self.axis_name)
        mean, var = mean.reshape(-1), var.reshape(-1) * count / (count - 1)
        running_mean.value = 0.1 * running_mean.value + 0.9 * mean
        running_var.value = 0.1 * running_var.value + 0.9 * var


def _channels(v: jax.Array) -> jax.Array:
    return v.reshape(1, 1, 1, -1)
