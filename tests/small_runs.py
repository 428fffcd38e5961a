"""Runs of a few steps on digits, and untrained ones, to be stored and exported."""

import jax
import jax.numpy as jnp

from ebmjax import config, parallel, recipe, runs, train
from ebmjax.facts import Facts

VALUES = {
    "data.name": "digits",
    "data.num_valid": 60,
    "data.pad": 0,
    "model.name": "mlp",
    "model.features": (16,),
    "num_steps": 2,
    "batch_size": 32,
    "objective.p_x": 1.0,
    "sgld.class_conditional": True,
    "sgld.num_steps": 2,
    "sgld.buffer_size": 400,
    "optimizer.warmup_steps": 0,
    "optimizer.ema_decay": 0.5,
    "every.checkpoint": 2,
    "tensorboard": False,
    "eval.batch_size": 50,
}


def settings(**changes):
    """A class-conditional JEM; `changes` have __ for the dots of a key."""
    c = config.default()
    for key, value in VALUES.items():
        config.assign(c, key, value)
    for key, value in changes.items():
        config.assign(c, key.replace("__", "."), value)
    return c


def trained(workdir, *, data=None, network=None, **changes):
    given = recipe.Recipe(network=network) if network else None
    return train.fit(settings(**changes), str(workdir), data=data, recipe=given)


def untrained(network=None, shape=(8, 8, 1), **changes):
    """A run with the initial parameters of a network, that of a config by default."""
    c = settings(**changes)
    network = network or recipe.network(c, 10)
    names = tuple("0123456789")
    example = jnp.zeros((2, *shape))
    return runs.Run(
        config=c,
        workdir="an untrained run",
        step=0,
        image_shape=shape,
        class_names=names,
        recoveries=0,
        model=runs.Model(
            network, parallel.place(network.init(jax.random.key(0), example))
        ),
        buffer=None,
        num_blocks=1,
        facts=Facts(list(names), list(shape), 1),
    )
