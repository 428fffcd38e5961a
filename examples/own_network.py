"""A network of your own: any Flax module from examples to logits, batch norm included.

python -m ebmjax.main --config=examples/own_network.py
"""

import jax
from flax import linen as nn

import ebmjax


class ResNet(nn.Module):
    """Two residual blocks; flax's own normalisations."""

    num_classes: int

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        x = nn.Conv(32, (3, 3))(x)
        for features in (32, 64):
            y = nn.BatchNorm(use_running_average=not train)(x)
            y = nn.Conv(features, (3, 3), strides=2)(nn.silu(y))
            y = nn.GroupNorm(8)(y)
            y = nn.Conv(features, (3, 3))(nn.silu(y))
            x = nn.Conv(features, (1, 1), strides=2)(x) + y
        return nn.Dense(self.num_classes)(nn.silu(x).mean(axis=(1, 2)))


def get_config():
    c = ebmjax.presets.digits()
    ebmjax.presets.jem(c)
    return c


def get_recipe(c):
    return ebmjax.Recipe(network=ResNet(num_classes=10))
