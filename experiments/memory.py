"""Estimates memory per device and arithmetic of large runs.

    python -m experiments.memory
    python -m experiments.memory --compile v5e:2x4

Neither command trains anything. The first computes sizes of state, chains and images
from their shapes. "Kept" is what the forward pass of a device's batch (or of one part
of it) keeps for the gradient, by the shapes of JAX's residuals before compilation, and
with FSDP the parameters that a step gathers. Operations are those of the convolutions
in the traced step. The second also compiles the step for eight chips of that kind,
which need not be present (`pip install libtpu`; minutes per row), and reports memory
and operations of the compiled program. It counts the body of a loop once: of the 20
steps of JEM's chains only one.
"""

import argparse
import functools
import os
from typing import NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jax.experimental import topologies

from ebmjax import config, objectives, parallel, recipe, train_step
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
FSDP = {"parallel.fsdp": True}
WIDE = {"model.width": 40}


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
    Plan("JEM, 4 parts", ADD["JEM"] | {"optimizer.accumulation_steps": 4}),
    Plan("JEM, bfloat16, remat", ADD["JEM"] | REMAT | HALF),
    Plan("JEM, bfloat16, remat, FSDP", ADD["JEM"] | REMAT | HALF | FSDP),
    Plan("WRN-28-40, JEM, bfloat16, remat", ADD["JEM"] | REMAT | HALF | WIDE),
    Plan("WRN-28-40, the same, FSDP", ADD["JEM"] | REMAT | HALF | WIDE | FSDP),
    imagenet("NG-EBM, bfloat16, remat", ADD["NG-EBM"] | REMAT | HALF),
    imagenet("JEM, bfloat16, remat", ADD["JEM"] | REMAT | HALF),
]


def num_bytes(tree, axes=None) -> int:
    """Bytes on one device, which holds a part of each array that is `Spread`."""

    def one(axis, part):
        size = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(part))
        return size // (DEVICES if isinstance(axis, parallel.Spread) else 1)

    sizes = jax.tree.map(one, axes, tree, is_leaf=lambda axis: axis is None)
    return sum(jax.tree.leaves(sizes))


def arguments(plan: Plan):
    """Shapes of the arguments of one device's step: state, data, batch, key."""
    c = plan.config
    x = jax.ShapeDtypeStruct((8, 32, 32, 3), jnp.float32)
    key = jax.eval_shape(jax.random.key, 0)
    init = functools.partial(
        train_step.init_state,
        recipe=recipe.from_config(c, plan.num_classes),
        settings=recipe.settings(c, plan.num_classes),
        num_chains=c.sgld.buffer_size // DEVICES,
    )
    count = c.batch_size // DEVICES
    batch = {
        "image": jax.ShapeDtypeStruct((count, 32, 32, 3), jnp.uint8),
        "label": jax.ShapeDtypeStruct((count,), jnp.int32),
    }
    return jax.eval_shape(init, key, x), None, batch, key


def kept(plan: Plan) -> int:
    """Bytes that the forward pass keeps for the backward pass."""
    c = plan.config
    settings = recipe.settings(c, plan.num_classes)
    state, *_, key = arguments(plan)
    count = c.batch_size // DEVICES // settings.accumulation_steps
    image = jax.ShapeDtypeStruct((count, 32, 32, 3), jnp.float32)
    batch = {"image": image, "label": jax.ShapeDtypeStruct((count,), jnp.int32)}
    drawn = {"samples": image} if settings.objective.sampled else {}
    network = recipe.network(c, plan.num_classes)
    kept_by = dict(network=network, objective=settings.objective)

    def pullback(params, stats, batch, drawn, key):
        def loss(params):
            return objectives.loss(params, stats, batch, drawn, key, **kept_by)

        return jax.vjp(loss, params, has_aux=True)[1]

    left = jax.eval_shape(pullback, state.params, state.model_state, batch, drawn, key)
    return num_bytes(left) - num_bytes(state.params)


def step_of(plan: Plan, **kwargs):
    return functools.partial(
        train_step.train_step,
        recipe=recipe.from_config(plan.config, plan.num_classes),
        settings=recipe.settings(plan.config, plan.num_classes),
        **kwargs,
    )


def layout(plan: Plan, state):
    return (
        train_step.fully_sharded(state)
        if plan.config.parallel.fsdp
        else train_step.AXES
    )


def row(plan: Plan) -> list[str]:
    state, *rest = arguments(plan)
    flops = convolution_flops(jax.make_jaxpr(step_of(plan))(state, *rest).jaxpr)
    resident = plan.num_images * 32 * 32 * 3
    if resident > plan.config.data.resident_mib * 2**20:
        resident = 0  # they stay on the host
    chains = num_bytes(state.chains)
    here = num_bytes(state, layout(plan, state)) - chains
    gathered = num_bytes(state.params) if plan.config.parallel.fsdp else 0
    sizes = [here, chains, resident, kept(plan) + gathered]
    cells = [f"{size / 2**20:,.0f}" for size in (*sizes, sum(sizes))]
    return [plan.name, *cells, f"{DEVICES * flops / 1e12:,.0f}"]


def compiled(plan: Plan, topology: str) -> jax.stages.Compiled:
    """The step compiled for all devices of a topology, which need not be present."""
    chips = topologies.get_topology_desc(topology, platform="tpu").devices
    if len(chips) != DEVICES:
        raise ValueError(f"{topology} has {len(chips)} chips: choose one of {DEVICES}")
    on_chips = jax.sharding.Mesh(np.array(chips), (parallel.AXIS,))
    with mock.patch.object(parallel, "mesh", lambda: on_chips):
        state, data, batch, key = arguments(plan)
        axes = layout(plan, state)
        state = state.replace(chains=of_all(state.chains))
        program = parallel.spmd(
            step_of(plan, axes=axes),
            in_axes=(axes, None, 0, None),
            out_axes=(axes, None),
            donate=(0,),
        )
        return program.lower(state, data, of_all(batch), key).compile()


def of_all(tree):
    """[...] of one device -> [D, ...]."""
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((DEVICES, *x.shape), x.dtype), tree
    )


def compiled_row(plan: Plan, topology: str) -> list[str]:
    try:
        program = compiled(plan, topology)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return ["does not fit", "", ""]
    memory, cost = program.memory_analysis(), program.cost_analysis()
    sizes = memory.temp_size_in_bytes, memory.peak_memory_in_bytes
    cells = [f"{size / 2**20:,.0f}" for size in sizes]
    return [*cells, f"{DEVICES * cost['flops'] / 1e12:,.0f}"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--compile", metavar="TOPOLOGY", help="for instance v5e:2x4")
    parser.add_argument("--only", default="", help="only runs whose name contains this")
    flags = parser.parse_args()
    os.environ["TPU_SKIP_MDS_QUERY"] = "1"  # libtpu would query the metadata server
    jax.config.update("jax_num_cpu_devices", DEVICES)  # for FSDP
    columns = "run|state|chains|images|kept|together".split("|")
    columns += ["10¹² operations per step"]
    if flags.compile:
        columns += ["compiled: temporaries", "peak", "10¹² operations"]
    print(f"| {' | '.join(columns)} |\n|{' --- |' * len(columns)}")
    for plan in (plan for plan in PLANS if flags.only in plan.name):
        cells = row(plan) + (compiled_row(plan, flags.compile) if flags.compile else [])
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
