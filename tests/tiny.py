"""The smallest things of each kind, for tests."""

import jax.numpy as jnp
import numpy as np
import optax

from ebmjax import models, objectives, train_step

NUM_CLASSES = 3
SHAPE = (4, 4, 1)


def mlp():
    return models.network(models.MLP(NUM_CLASSES, features=(8,)))


def batch_norm_net():
    return models.network(models.WideResNet(10, 1, NUM_CLASSES, norm="batch"))


def images(num, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (num, *SHAPE), np.uint8)


def labels(num, seed=1):
    return np.random.default_rng(seed).integers(0, NUM_CLASSES, num).astype(np.int32)


def batch(num, seed=0):
    """In [-1, 1], as losses take it."""
    x = jnp.asarray(images(num, seed), jnp.float32) / 127.5 - 1
    return {"image": x, "label": jnp.asarray(labels(num, seed + 1))}


def settings(network=None, *, sampling=None, inputs=None, **weights):
    return train_step.Settings(
        network=network or mlp(),
        optimizer=optax.adam(1e-2),
        weights=objectives.Weights(**weights),
        num_classes=NUM_CLASSES,
        sampling=sampling or objectives.Sampling(num_steps=3),
        inputs=inputs or train_step.Inputs(),
    )
