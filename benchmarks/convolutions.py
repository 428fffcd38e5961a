"""How much of a JEM step is its convolutions?

    python -m benchmarks.convolutions 10,1,64 [--devices=0]

Times every convolution of the step alone, on all devices, in rounds that the whole
step takes turns with, and prints the step's time over the sum of theirs.
"""

import argparse
import collections
import functools
import os
import statistics
import time

import numpy as np

from benchmarks import cases, ours


def convolutions(case):
    """{(operation, layer, images): how often a step runs it}."""
    found = collections.Counter()
    for i, layer in enumerate(cases.layers(case.depth, case.width)):
        found["correlate", layer, case.batch] += cases.SGLD_STEPS
        found["input_grad", layer, case.batch] += cases.SGLD_STEPS
        found["correlate", layer, 2 * case.batch] += 1
        found["weight_grad", layer, 2 * case.batch] += 1
        if i:  # the images' own gradient is not asked for
            found["input_grad", layer, 2 * case.batch] += 1
    return found


def program(operation, layer, images):
    """(that operation on all devices, its operands)."""
    import jax

    from ebmjax import parallel
    from ebmjax.kernels import conv

    per_device = images // jax.device_count()
    side = layer.image // layer.stride
    shapes = {
        "x": (per_device, layer.image, layer.image, layer.inputs),
        "g": (per_device, side, side, layer.outputs),
        "w": (layer.kernel, layer.kernel, layer.inputs, layer.outputs),
    }
    names = {"correlate": "xw", "input_grad": "gw", "weight_grad": "xg"}[operation]
    geometry = conv.Geometry(
        layer.stride, layer.kernel // 2, (layer.image,) * 2, (layer.kernel,) * 2
    )
    bind = functools.partial(getattr(conv, operation).bind, geometry=geometry)
    rng = np.random.default_rng(0)
    operands = [
        rng.normal(size=(jax.device_count(), *shapes[name])).astype(np.float32)
        for name in names
    ]
    run = parallel.spmd(lambda a, b, axis_name: bind(a, b), in_axes=(0, 0), out_axes=0)
    return run, [parallel.place(operand, 0) for operand in operands]


def timed(run, at_least=0.02):
    """Seconds of wall and CPU that run() takes."""
    import jax

    jax.block_until_ready(run())
    count, wall, cpu = 0, time.perf_counter(), time.process_time()
    while not count or time.perf_counter() - wall < at_least:
        result = run()
        jax.block_until_ready(result)
        count += 1
    return (time.perf_counter() - wall) / count, (time.process_time() - cpu) / count


def main():
    parser = argparse.ArgumentParser("python -m benchmarks.convolutions")
    parser.add_argument("network", help="depth,width,batch")
    parser.add_argument("--devices", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--each", action="store_true", help="print every convolution")
    args = parser.parse_args()
    case = cases.parse("jem," + args.network)
    os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"
    import jax

    from ebmjax import cli, parallel, processes

    processes.start(cpu_devices=args.devices, sizes=(case.batch,))
    cli.set_up_jax()
    step, state, data, batch = ours.build(case)
    key = parallel.place(jax.random.key(0))
    alone = {how: program(*how) for how in convolutions(case)}

    def run_step():
        nonlocal state
        state, metrics = step(state, data, batch(), key)
        return metrics

    ratios = []
    for _ in range(args.rounds):
        whole = np.array(timed(run_step))
        parts = {
            how: np.array(timed(functools.partial(run, *operands)))
            for how, (run, operands) in alone.items()
        }
        count = convolutions(case)
        total = sum(count[how] * seconds for how, seconds in parts.items())
        ratios.append(whole / total)
        print(f"step {whole} s, convolutions {total} s (wall, CPU)", flush=True)
    if args.each:
        for (operation, layer, images), (wall, cpu) in parts.items():
            speed = layer.flops * images / cpu / 1e9
            times = count[operation, layer, images]
            print(
                f"{operation:12}{tuple(layer)!s:22}{images:5} images"
                f"{1e3 * wall:8.2f} ms{1e3 * cpu:8.2f} CPU ms{speed:6.0f} GFLOP/s"
                f"{times * cpu / total[1]:7.1%}"
            )
    wall, cpu = (statistics.median(column) for column in zip(*ratios, strict=True))
    print(f"{case}: step over the sum of its convolutions {wall:.2f}, CPU {cpu:.2f}")


if __name__ == "__main__":
    main()
