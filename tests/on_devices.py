"""Two SGD steps of every deterministic objective on so many CPU devices.

python tests/on_devices.py NUM_DEVICES OUT.npz
"""

import functools
import sys

import jax
import numpy as np
import optax
import tiny

from ebmjax import augment, parallel, train_step

BATCH = 16
RATE = 0.1
WEIGHTS = {
    "classifier": dict(cross_entropy=1.0),
    "energy_variance": dict(energy_variance=1.0),
    "approximate_mass": dict(approximate_mass=1.0),
    "ng_ebm": dict(cross_entropy=1.0, energy_variance=1.0, approximate_mass=0.5),
}


def case(weights):
    noisy = augment.standard(pad=1, flip=True, noise_std=0.1)
    return tiny.case(augment=noisy, **weights).replace(optimizer=optax.sgd(RATE))


def program(case, method="shard_map"):
    return parallel.spmd(
        functools.partial(train_step.train_step, **case._asdict()),
        in_axes=(train_step.AXES, None, 0, None),
        out_axes=(train_step.AXES, None),
        method=method,
    )


def arguments(case):
    """Of `program`: state, data, batch, key."""
    x = tiny.batch(BATCH)["image"]
    state = train_step.init_state(jax.random.key(1), x, *case, num_chains=64)
    if state.chains is not None:
        state = state.replace(chains=parallel.split(state.chains))
    batch = {"image": tiny.images(BATCH, 3), "label": tiny.labels(BATCH, 3)}
    batch = parallel.place(parallel.split(batch), 0)
    return (
        parallel.place(state, train_step.AXES),
        None,
        batch,
        parallel.place(jax.random.key(7)),
    )


def two_steps(name):
    """The first step's loss and gradient, and the parameters after the second."""
    chosen = case(WEIGHTS[name])
    run = program(chosen)
    start, *rest = arguments(chosen)
    first, metrics = run(start, *rest)
    second, _ = run(first, *rest)
    difference = jax.tree.map(jax.numpy.subtract, start.params, first.params)
    return {
        "loss": metrics["loss"],
        "gradient": jax.tree.map(lambda d: d / RATE, difference),
        "params": second.params,
    }


def all_objectives():
    found = {name: two_steps(name) for name in WEIGHTS}
    named = jax.tree_util.tree_leaves_with_path(found)
    return {jax.tree_util.keystr(path): np.asarray(x) for path, x in named}


if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", int(sys.argv[1]))
    np.savez(sys.argv[2], **all_objectives())
