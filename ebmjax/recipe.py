"""From a config to what the pure modules take: networks, optimisers, settings."""

from collections.abc import Callable

import jax.numpy as jnp
import ml_collections
import numpy as np

from ebmjax import data, models, objectives, optim, parallel, processes, train_step


def splits(c: ml_collections.ConfigDict) -> data.Splits:
    """The data set of `c.data`."""
    return data.load(
        c.data.name,
        data_dir=c.data.data_dir or None,
        num_valid=c.data.num_valid,
        split_seed=c.data.split_seed,
    )


def read_by_all(read: Callable[[], data.Splits]) -> data.Splits:
    """`read()`, the same in all processes.

    Raises ValueError in all where one cannot read, or has other data; and what `read`
    raises where none can.
    """
    found = processes.on_every_process(read)
    for part in (found.train, found.valid, found.test):
        for x in part:
            processes.check_same("the data set", np.ascontiguousarray(x).data)
    return found


def network(c: ml_collections.ConfigDict, num_classes: int) -> models.Network:
    """The network of `c.model`."""
    m, dtype = c.model, jnp.dtype(c.model.dtype)
    if m.name == "wide_resnet":
        module = models.WideResNet(
            depth=m.depth,
            width=m.width,
            num_classes=num_classes,
            norm=m.norm or None,
            dropout_rate=m.dropout_rate,
            dtype=dtype,
            axis_name=parallel.AXIS,
            remat=m.remat,
        )
    else:
        kind = {"convnet": models.ConvNet, "mlp": models.MLP}[m.name]
        module = kind(num_classes, features=tuple(m.features), dtype=dtype)
    return models.network(module)


def settings(c: ml_collections.ConfigDict, num_classes: int) -> train_step.Settings:
    """What is fixed during the run of `c`."""
    o = c.optimizer
    schedule = optim.schedule(
        o.learning_rate,
        num_steps=c.num_steps,
        warmup_steps=o.warmup_steps,
        decay=o.decay,
        boundaries=tuple(o.boundaries),
        decay_factor=o.decay_factor,
    )
    optimizer = optim.optimizer(
        o.name,
        schedule,
        weight_decay=o.weight_decay,
        b1=o.b1,
        b2=o.b2,
        momentum=o.momentum,
    )
    return train_step.Settings(
        network=network(c, num_classes),
        optimizer=optimizer,
        weights=objectives.Weights(**{k: w for k, w in c.objective.items() if w}),
        num_classes=num_classes,
        sampling=sampling(c),
        inputs=train_step.Inputs(c.data.pad, c.data.flip, c.data.noise_std),
        clip_norm=o.clip_norm,
        ema_decay=o.ema_decay,
        recovery_lr_factor=c.recovery.lr_factor,
        parts=o.accumulation_steps,
    )


def sampling(c: ml_collections.ConfigDict) -> objectives.Sampling:
    """How `c.sgld` draws negatives."""
    return objectives.Sampling(
        step_size=c.sgld.step_size,
        noise_std=c.sgld.noise_std,
        num_steps=c.sgld.num_steps,
        reinit_prob=c.sgld.reinit_prob,
        class_conditional=c.sgld.class_conditional,
        replace=c.sgld.replace,
        train_mode=c.sgld.train_mode,
    )


def num_blocks(c: ml_collections.ConfigDict, num_classes: int) -> int:
    """Into how many blocks of classes the replay buffer falls."""
    by_class = c.objective.p_x_y or (c.objective.p_x and c.sgld.class_conditional)
    return num_classes if by_class else 1
