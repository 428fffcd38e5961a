"""The cost of training: NG-EBM against JEM and a plain classifier.

    python -m experiments.ng_ebm_cost [--small]

Times the compiled step of each official config on random images, alternately, and
counts the operations of its convolutions. --small uses WRN-10-1 instead of WRN-28-10.
Neither paper gives times; users of the JEM program report 36 and 80 hours on one GPU.
"""

import functools
import math
import statistics
import sys
import time

import jax
import numpy as np

from ebmjax import augment, parallel, plan, recipe, train_step
from ebmjax.kernels import conv
from experiments import common
from experiments.common import Spec

OBJECTIVES = ("classifier", "ng_ebm", "jem")
ROUNDS = 7  # the first one warms up
GPU = 10e12  # operations per second, for an estimate of hours


def convolution_flops(jaxpr) -> int:
    """Operations of all convolutions that a program runs, those in loops included."""
    total = 0
    for eqn in jaxpr.eqns:
        if eqn.primitive in (conv.correlate, conv.input_grad, conv.weight_grad):
            a, b = (v.aval.shape for v in eqn.invars)
            geometry = eqn.params["geometry"]
            weighted = eqn.primitive is conv.weight_grad
            channels = a[3] * b[3] if weighted else b[2] * b[3]
            sides = (*geometry.output, *geometry.kernel)
            total += 2 * a[0] * channels * math.prod(sides)
        times = eqn.params["length"] if eqn.primitive.name == "scan" else 1
        for inner in jax.tree.leaves(list(eqn.params.values()), is_leaf=_is_jaxpr):
            if _is_jaxpr(inner):
                total += times * convolution_flops(getattr(inner, "jaxpr", inner))
    return total


def step_flops(run, state) -> int:
    """Those of `run(state, number)`, a training step, on all devices."""
    traced = jax.make_jaxpr(lambda state: run(state, 0))(state)
    return jax.device_count() * convolution_flops(traced.jaxpr)


def _is_jaxpr(x):
    return hasattr(x, "eqns") or hasattr(x, "jaxpr")


def compiled_step(c):
    """A function that runs one step and waits for it, and the step's operations."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (2 * c.batch_size, 32, 32, 3), np.uint8)
    label = rng.integers(0, 10, len(image)).astype(np.int32)
    code = dict(recipe=recipe.from_config(c, 10), settings=recipe.settings(c, 10))
    program = parallel.spmd(
        functools.partial(train_step.train_step, **code),
        in_axes=(train_step.AXES, None, 0, None),
        out_axes=(train_step.AXES, None),
        method=c.parallel.method,
        donate=(0,),
    )
    resident = parallel.place({"image": image, "label": label})
    index = np.arange(c.batch_size, dtype=np.int32)
    batch = {"index": index}
    if c.data.separate_streams:
        batch["labelled"] = {"index": index + c.batch_size}
    batch = parallel.place(parallel.split(batch), 0)
    key = parallel.place(jax.random.key(0))
    fresh = functools.partial(plan.fresh_state, c, *code.values())
    state = parallel.make(
        fresh, augment.to_float(image[: c.batch_size]), axes=train_step.AXES
    )
    traced = jax.make_jaxpr(program)(state, resident, batch, key)
    flops = jax.device_count() * convolution_flops(traced.jaxpr)

    def one():
        nonlocal state
        state, metrics = program(state, resident, batch, key)
        jax.block_until_ready(metrics)

    return one, flops


def main():
    name, args = common.arguments(__doc__)
    steps, lengths = {}, {}
    for objective in OBJECTIVES:
        c = Spec(objective).config(small=False)
        if args.small:
            c.model.depth, c.model.width = 10, 1
        steps[objective] = compiled_step(c)
        lengths[objective] = c.num_steps
    seconds = {objective: [] for objective in OBJECTIVES}
    for _ in range(ROUNDS):
        for objective, (one, _) in steps.items():
            started = time.monotonic()
            one()
            seconds[objective].append(time.monotonic() - started)
    took = {k: statistics.median(x[1:]) for k, x in seconds.items()}
    rows = []
    for objective in OBJECTIVES:
        flops, length = steps[objective][1], lengths[objective]
        spread = np.ptp(seconds[objective][1:]) / 2
        rows.append(
            (
                common.label(Spec(objective)),
                f"{took[objective]:.3f} ± {spread:.3f} s",
                f"{took[objective] / took['classifier']:.1f}",
                f"{flops / 1e12:.3g}",
                f"{flops / steps['classifier'][1]:.1f}",
                f"{took[objective] * length / 3600:.1f}",
                f"{flops * length / GPU / 3600:.1f}",
            )
        )
    columns = ("model", "step", "times a classifier's", "10¹² operations")
    columns += ("times", "hours here", "hours at 10 TFLOP/s")
    note = f"{jax.device_count()} {jax.devices()[0].device_kind} device(s),"
    note += f" {c.model.name} {c.model.depth}-{c.model.width}, batches of"
    note += f" {c.batch_size}; hours of the official number of steps."
    print(
        common.write(args.runs, name, __doc__, common.Report(columns, rows, {}, note))
    )


if __name__ == "__main__":
    sys.exit(main())
