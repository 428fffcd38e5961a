"""What large runs need, before one has the machines: memory a device, and arithmetic.

    python -m experiments.memory [--compile]

Nothing is run. State, chains and data are counted from their shapes; "kept" is what the
forward pass of a device's batch (or of one part of it) leaves for the gradient, by the
shapes of JAX's own residuals, before a compiler fuses any of it away; operations are
those of the convolutions in the traced step. --compile compiles the first two steps for
a CPU as well, minutes each, and reads the temporaries off the programs.
"""

import argparse
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_collections

from ebmjax import build, config, objectives, step
from experiments.ng_ebm_cost import convolution_flops

DEVICES = 8
BATCH = 1024  # over all devices
ADD = {
    "classifier": {},
    "NG-EBM": {"objective.energy_variance": 1.0, "objective.approximate_mass": 1.0},
    "JEM": {"objective.p_x": 1.0},
}
REMAT = {"model.remat": True}
HALF = {"model.dtype": "bfloat16"}


class Plan(NamedTuple):
    name: str
    changes: dict
    num_classes: int = 10
    num_images: int = 45_000

    @property
    def config(self) -> ml_collections.ConfigDict:
        c = config.default()
        for key, value in {"batch_size": BATCH, **self.changes}.items():
            config.assign(c, key, value)
        config.check(c)
        return c


def imagenet(name, changes):
    return Plan(f"ImageNet-32, {name}", changes, 1000, 1_281_167)


PLANS = [
    *(Plan(name, changes) for name, changes in ADD.items()),
    *(Plan(f"{name}, remat", changes | REMAT) for name, changes in ADD.items()),
    Plan("JEM, 4 parts", ADD["JEM"] | {"optimizer.accumulate": 4}),
    Plan("JEM, bfloat16, remat", ADD["JEM"] | REMAT | HALF),
    imagenet("NG-EBM, bfloat16, remat", ADD["NG-EBM"] | REMAT | HALF),
    imagenet("JEM, bfloat16, remat", ADD["JEM"] | REMAT | HALF),
]


def num_bytes(tree) -> int:
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))


def arguments(plan: Plan):
    """Shapes of what one device's step takes: state, data, batch, key."""
    c = plan.config
    x = jax.ShapeDtypeStruct((8, 32, 32, 3), jnp.float32)
    key = jax.eval_shape(jax.random.key, 0)
    init = functools.partial(
        step.init_state,
        settings=build.settings(c, plan.num_classes),
        num_chains=c.sgld.buffer_size // DEVICES,
    )
    count = c.batch_size // DEVICES
    batch = {
        "image": jax.ShapeDtypeStruct((count, 32, 32, 3), jnp.uint8),
        "label": jax.ShapeDtypeStruct((count,), jnp.int32),
    }
    return jax.eval_shape(init, key, x), None, batch, key


def kept(plan: Plan) -> int:
    """Bytes that wait for the backward pass."""
    c = plan.config
    settings = build.settings(c, plan.num_classes)
    state, *_, key = arguments(plan)
    count = c.batch_size // DEVICES // settings.parts
    image = jax.ShapeDtypeStruct((count, 32, 32, 3), jnp.float32)
    batch = {"image": image, "label": jax.ShapeDtypeStruct((count,), jnp.int32)}
    drawn = objectives.Negatives(p_x=image if settings.weights.p_x else None)
    kept_by = dict(network=settings.network, weights=settings.weights)

    def pullback(params, stats, batch, drawn, key):
        def loss(params):
            return objectives.loss(params, stats, batch, drawn, key, **kept_by)

        return jax.vjp(loss, params, has_aux=True)[1]

    left = jax.eval_shape(pullback, state.params, state.stats, batch, drawn, key)
    return num_bytes(left) - num_bytes(state.params)


def train_step(plan: Plan):
    return functools.partial(
        step.train_step, settings=build.settings(plan.config, plan.num_classes)
    )


def row(plan: Plan, compiles: bool) -> str:
    state, *rest = arguments(plan)
    flops = convolution_flops(jax.make_jaxpr(train_step(plan))(state, *rest).jaxpr)
    resident = plan.num_images * 32 * 32 * 3
    if resident > plan.config.data.resident_mib * 2**20:
        resident = 0  # it stays on the host
    chains = num_bytes(state.chains)
    sizes = [num_bytes(state) - chains, chains, resident, kept(plan)]
    cells = [f"{size / 2**20:,.0f}" for size in (*sizes, sum(sizes))]
    cells += [f"{DEVICES * flops / 1e12:,.0f}"]
    if compiles:
        lowered = jax.jit(train_step(plan)).lower(state, *rest)
        temporary = lowered.compile().memory_analysis().temp_size_in_bytes
        cells += [f"{temporary / 2**20:,.0f}"]
    return f"| {plan.name} | {' | '.join(cells)} |"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--compile", action="store_true")
    compiles = parser.parse_args().compile
    columns = "run|state|chains|images|kept|together|10¹² operations a step".split("|")
    columns += ["temporaries on a CPU"] * compiles
    print(f"| {' | '.join(columns)} |\n|{' --- |' * len(columns)}")
    for plan in PLANS[:2] if compiles else PLANS:
        print(row(plan, compiles), flush=True)


if __name__ == "__main__":
    main()
