"""The smallest things of each kind, for tests."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import optax

from ebmjax import augment as augmentation
from ebmjax import models, objectives, sgld
from ebmjax.recipe import Recipe, Settings

NUM_CLASSES = 3
SHAPE = (4, 4, 1)


def mlp():
    return models.network(models.MLP(NUM_CLASSES, features=(8,)), per_example=True)


def batch_norm_net():
    return models.network(
        models.WideResNet(10, 1, NUM_CLASSES, norm="batch"), per_example=False
    )


def images(num, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (num, *SHAPE), np.uint8)


def labels(num, seed=1):
    return np.random.default_rng(seed).integers(0, NUM_CLASSES, num).astype(np.int32)


def batch(num, seed=0):
    """In [-1, 1], as losses take it."""
    x = jnp.asarray(images(num, seed), jnp.float32) / 127.5 - 1
    return {"image": x, "label": jnp.asarray(labels(num, seed + 1))}


class Case(NamedTuple):
    """What `train_step` takes beside arrays: pass it as ``**case._asdict()``."""

    recipe: Recipe
    settings: Settings

    def replace(self, **changes):
        """With other fields of the recipe or of the settings."""
        new = {k: v for k, v in changes.items() if k in Recipe._fields}
        rest = {k: v for k, v in changes.items() if k not in Recipe._fields}
        return Case(self.recipe._replace(**new), self.settings._replace(**rest))


def case(network=None, *, chains=None, augment=None, **weights):
    return Case(
        Recipe(
            network=network or mlp(),
            sampler=sgld.JEM,
            optimizer=optax.adam(1e-2),
            augment=augment or augmentation.standard(),
        ),
        Settings(
            objective=objectives.objective(weights),
            num_classes=NUM_CLASSES,
            chains=chains or objectives.ChainSettings(num_steps=3),
        ),
    )
