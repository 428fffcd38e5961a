"""Our compiled training step, and what it computes on one batch."""

import functools
import os
import sys
import time

import numpy as np

from benchmarks import cases, worker


def code(case):
    """The recipe and the settings of a case, as `train_step` takes them."""
    from ebmjax import config, recipe

    c = config.default()
    c.model.depth, c.model.width = case.depth, case.width
    c.objective.update(cases.OBJECTIVES[case.objective])
    c.optimizer.update({"learning_rate": cases.LEARNING_RATE, "warmup_steps": 0})
    c.optimizer.update(dict(zip(("b1", "b2"), cases.BETAS, strict=True)))
    c.data.update({"pad": cases.PAD, "flip": True, "noise_std": cases.INPUT_NOISE})
    c.sgld.update({"step_size": cases.STEP_SIZE, "noise_std": cases.CHAIN_NOISE})
    c.sgld.update({"num_steps": cases.SGLD_STEPS, "reinit_prob": cases.REINIT_PROB})
    return {
        "recipe": recipe.from_config(c, cases.NUM_CLASSES),
        "settings": recipe.settings(c, cases.NUM_CLASSES),
    }


def build(case, method="shard_map"):
    """As in `ebmjax.train`: the step, its state, the resident data, and a function
    that gives a batch of their indices."""
    import jax

    from ebmjax import parallel, train_step

    recipe_and_settings = code(case)
    rng = np.random.default_rng(0)
    data = {
        "image": rng.integers(256, size=(cases.NUM_IMAGES, 32, 32, 3), dtype=np.uint8),
        "label": rng.integers(cases.NUM_CLASSES, size=cases.NUM_IMAGES, dtype=np.int32),
    }
    x = np.zeros((1, 32, 32, 3), np.float32)
    init = functools.partial(
        train_step.init_state, **recipe_and_settings, num_chains=cases.NUM_CHAINS
    )
    state = jax.jit(init)(jax.random.key(0), x)  # or every operation keeps its memory
    if state.chains is not None:
        chains = state.chains.samples.reshape(jax.device_count(), -1, *x.shape[1:])
        state = state.replace(chains=state.chains._replace(samples=chains))
    program = parallel.spmd(
        functools.partial(train_step.train_step, **recipe_and_settings),
        in_axes=(train_step.AXES, None, 0, None),
        out_axes=(train_step.AXES, None),
        method=method,
        donate=(0,),
    )

    def batch():
        index = rng.permutation(cases.NUM_IMAGES)[: case.batch].astype(np.int32)
        return parallel.place(parallel.split({"index": index}), 0)

    return program, parallel.place(state, train_step.AXES), parallel.place(data), batch


def check(path, case, program, state, data, batch, key):
    """Runs the program once, and saves what went in and what came out.

    The gradient is read from Adam's first moment, (1 - beta_1) g after one step.
    """
    import jax
    import jax.numpy as jnp

    from ebmjax import augment, replay

    recipe, s = code(case).values()
    devices, count = jax.device_count(), case.batch // jax.device_count()
    k_input, k_chains, _ = jax.random.split(
        jax.random.fold_in(jax.random.fold_in(key, 0), 0), 3
    )
    index = np.asarray(batch["index"]).reshape(-1)
    images = {name: jnp.asarray(np.asarray(x)[index]) for name, x in data.items()}
    prepared = augment.augment_batch(k_input, None, images, augment_fn=recipe.augment)
    found = {"x": prepared["image"], "labels": prepared["label"]}
    slots = []
    if case.objective == "jem":
        start, noise = [], []
        for device in range(devices):
            k = jax.random.split(jax.random.fold_in(k_chains, device), 3)[1]
            k_draw, k_run = jax.random.split(k)
            drawn = replay.draw(
                k_draw,
                replay.Buffer(jnp.asarray(np.asarray(state.chains.samples)[device])),
                jnp.zeros(count, jnp.int32),
                reinit_prob=s.chains.reinit_prob,
            )
            start.append(drawn.x)
            slots.append(np.asarray(drawn.slot))
            keys = jax.random.split(k_run, s.chains.num_steps)
            noise.append([jax.random.normal(k, drawn.x.shape) for k in keys])
        found["start"] = np.concatenate(start)
        found["noise"] = np.concatenate(noise, 1)
    found |= _named("params", state.params)
    state, metrics = program(state, data, batch, key)
    found["loss"] = metrics["loss"]
    if slots:
        after = np.asarray(state.chains.samples)
        found["chains"] = np.concatenate(
            [after[device][slot] for device, slot in enumerate(slots)]
        )
    (moment,) = (
        part.mu
        for part in jax.tree.leaves(state.opt_state, is_leaf=lambda s: hasattr(s, "mu"))
        if hasattr(part, "mu")
    )
    found |= _named("grads", jax.tree.map(lambda m: m / (1 - cases.BETAS[0]), moment))
    np.savez(path, **{name: np.asarray(value) for name, value in found.items()})
    return state


def _named(kind, tree):
    import jax

    leaves = jax.tree.leaves_with_path(tree)
    return {
        f"{kind}/" + jax.tree_util.keystr(path, simple=True, separator="/"): np.array(
            leaf
        )
        for path, leaf in leaves
    }


def main(case, path, devices=0):
    os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"  # to time what it saves
    import jax

    from ebmjax import cli, parallel, processes

    processes.start(cpu_devices=devices, sizes=(case.batch,))
    cli.set_up_jax()
    program, state, data, batch = build(case)
    key = parallel.place(jax.random.key(0))
    first = batch()
    compile_s, used = time.perf_counter(), worker.cpu_seconds()
    program = program.lower(state, data, first, key).compile()
    compile_s = time.perf_counter() - compile_s
    compile_cpu_s = worker.cpu_seconds() - used
    state = check(path, case, program, state, data, first, key)

    def run(count):
        nonlocal state
        for _ in range(count):
            state, metrics = program(state, data, batch(), key)
        jax.block_until_ready((state, metrics))

    run(1)
    worker.serve(run, compile_s=compile_s, compile_cpu_s=compile_cpu_s)


if __name__ == "__main__":
    main(cases.parse(sys.argv[1]), sys.argv[2], *map(int, sys.argv[3:]))
