"""What the parts of a training step cost, and what else one might choose.

    python -m benchmarks.parts

Medians over rounds in which everything that is compared takes turns.
"""

import functools
import os
import time
from unittest import mock

import numpy as np

from benchmarks import cases, ours
from benchmarks.convolutions import timed

CLASSIFIER = cases.Case("classifier", 16, 2, 64)
JEM = cases.Case("jem", 10, 1, 64)
ROUNDS = 5
PGD_STEPS = 40


def compiled(case, **how):
    """(run a step, seconds of compilation)."""
    import jax

    from ebmjax import parallel

    program, state, data, batch = ours.build(case, **how)
    key = parallel.place(jax.random.key(0))
    began = time.perf_counter()
    program = program.lower(state, data, batch(), key).compile()
    seconds = time.perf_counter() - began

    def run():
        nonlocal state
        state, metrics = program(state, data, batch(), key)
        return metrics

    return run, seconds


def input_path():
    """(what makes the network's input of indices, on the host and on the device)."""
    import jax

    from ebmjax import augment, parallel

    _, _, data, batch = ours.build(CLASSIFIER)
    augment_fn = ours.code(CLASSIFIER)["recipe"].augment

    def prepare(data, batch, key, axis_name):
        device = jax.lax.axis_index(axis_name)
        return augment.augment_batch(
            key, data, batch, augment_fn=augment_fn, device=device
        )

    program = parallel.spmd(prepare, in_axes=(None, 0, None), out_axes=0)
    key = parallel.place(jax.random.key(0))
    return lambda: program(data, batch(), key)


def buffer():
    """Drawing a batch of chains and putting them back, in place."""
    import jax
    import jax.numpy as jnp

    from ebmjax import parallel, replay, train_step

    count = JEM.batch // jax.device_count()
    _, state, _, _ = ours.build(JEM)
    chains = state.chains

    def turn(chains, key, axis_name):
        drawn = replay.draw(
            key, chains, jnp.zeros(count, jnp.int32), reinit_prob=cases.REINIT_PROB
        )
        return replay.put(chains, drawn.slot, drawn.x + 1)

    axes = train_step.AXES.chains
    program = parallel.spmd(turn, in_axes=(axes, None), out_axes=axes, donate=(0,))
    key = parallel.place(jax.random.key(0))

    def run():
        nonlocal chains
        chains = program(chains, key)
        return chains

    return run


def attack():
    """(PGD in one program, the gradient of the loss that it takes at every look)."""
    import jax
    import jax.numpy as jnp

    from ebmjax import batching, losses, parallel
    from ebmjax.eval import attacks

    network = ours.code(JEM)["recipe"].network
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (JEM.batch, 32, 32, 3)).astype(np.float32)
    labels = rng.integers(cases.NUM_CLASSES, size=JEM.batch, dtype=np.int32)
    model = parallel.place(jax.jit(network.init)(jax.random.key(0), jnp.asarray(x)))
    inputs = parallel.place(parallel.split((x, labels)), 0)
    key = parallel.place(jax.random.key(1))

    def pgd(model, key, x, labels):
        logits = functools.partial(network.apply, *model)
        sizes = dict(eps=8 / 127.5, step_size=1 / 127.5, num_steps=PGD_STEPS)
        return attacks.pgd(key, logits, x, labels, **sizes)

    def gradient(model, key, x, labels):
        def loss(x):
            return losses.cross_entropy(network.apply(*model, x), labels).sum()

        return jax.grad(loss)(x)

    programs = [batching.program(fn) for fn in (pgd, gradient)]
    return [functools.partial(program, model, key, inputs) for program in programs]


def compare(**runs):
    """{name: median seconds of wall and CPU}, taking turns."""
    rounds = [
        {name: timed(run, 0.2) for name, run in runs.items()} for _ in range(ROUNDS)
    ]
    return {name: np.median([r[name] for r in rounds], axis=0) for name in runs}


def main():
    os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"
    import jax

    from ebmjax import cli, processes

    processes.start(sizes=(JEM.batch,))
    cli.set_up_jax()
    print(f"{jax.device_count()} devices; seconds of wall and of CPU")

    classifier, seconds = compiled(CLASSIFIER)
    print(f"compiled: {CLASSIFIER} {seconds:.1f} s")
    found = compare(step=classifier, input=input_path())
    print(f"input path: {found}: {found['input'] / found['step']} of {CLASSIFIER}")

    for depth, width in [(10, 1), (16, 2)]:
        pair = {
            name: compiled(cases.Case(name, depth, width, 64))[0]
            for name in ("classifier", "ng_ebm")
        }
        found = compare(**pair)
        ratio = found["ng_ebm"] / found["classifier"]
        print(f"NG-EBM over classifier, WRN-{depth}-{width}: {found}: {ratio}")

    pgd, gradient = attack()
    found = compare(pgd=pgd, gradient=gradient)
    looks = PGD_STEPS + 2  # at the image itself, at the start, and after each step
    print(f"PGD: {found}: {found['pgd'] / found['gradient'] / looks} a look")

    jem, seconds = compiled(JEM)
    print(f"compiled: {JEM} {seconds:.1f} s")
    scan = jax.lax.scan
    with mock.patch("jax.lax.scan", functools.partial(scan, unroll=cases.SGLD_STEPS)):
        unrolled, seconds = compiled(JEM)
    print(f"compiled, unrolled: {JEM} {seconds:.1f} s")
    pmapped, seconds = compiled(JEM, method="pmap")
    print(f"compiled by pmap: {JEM} {seconds:.1f} s")
    found = compare(scan=jem, unrolled=unrolled, pmap=pmapped, buffer=buffer())
    print(f"{JEM}: {found}: buffer {found['buffer'] / found['scan']} of it")


if __name__ == "__main__":
    main()
