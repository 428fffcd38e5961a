"""A step of each method of the family against a classifier's and JEM's.

    python -m benchmarks.family [--network=10,1] [--rounds=5] [--only=jem,m_jem]

The configs of CIFAR-10 with a smaller network and random images. The compiled steps
take turns in one process; a ratio is that of one round, and medians (quartiles) are
printed. "Arithmetic" is the ratio of the operations of the convolutions in the traced
steps, loops included.
"""

import argparse
import contextlib
import statistics
import time

import jax
import numpy as np

import ebmjax
from ebmjax import cli, config_file, plan, processes, train
from experiments.ng_ebm_cost import step_flops

CONFIGS = {  # and keys that differ
    "classifier": {},
    "ng_ebm": {},
    "hdge": {},
    "m_jem": {},
    "sada_jem": {},
    "jem_pp": {},
    "jem": {},
}
NUM_IMAGES = 2_000


def config_of(name, depth, width):
    c = config_file.load_config(f"{name}_cifar10")
    c.model.update(depth=depth, width=width)
    c.data.num_valid = 0
    c.sgld.buffer_size = NUM_IMAGES
    return c


def images():
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (NUM_IMAGES, 32, 32, 3), np.uint8)
    y = np.arange(NUM_IMAGES) % 10
    return ebmjax.data.from_arrays(x, y, x[:100], y[:100])


class Step:
    """A compiled step, taken again and again from where it left off."""

    def __init__(self, name, args, stack, splits):
        made = plan.make_plan(config_of(name, *args.network), None, splits)
        self.run = stack.enter_context(train.step_program(made))
        self.state, self.count = made.make_state(), 0
        self.flops = step_flops(self.run, self.state)
        self.seconds = []

    def take(self):
        began = time.perf_counter()
        self.state, metrics = self.run(self.state, self.count)
        jax.block_until_ready(metrics)
        self.count += 1
        return time.perf_counter() - began

    def turn(self, at_least):
        """Mean seconds of as many steps as take so long."""
        spent = [self.take()]
        while sum(spent) < at_least:
            spent.append(self.take())
        self.seconds.append(statistics.fmean(spent))


def ratio(step, other):
    values = [a / b for a, b in zip(step.seconds, other.seconds, strict=True)]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


def main():
    parser = argparse.ArgumentParser("python -m benchmarks.family")
    parser.add_argument(
        "--network", type=lambda text: tuple(map(int, text.split(","))), default=(10, 1)
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="a turn, at least")
    parser.add_argument("--only", default=",".join(CONFIGS))
    args = parser.parse_args()
    processes.start(sizes=(64,))
    cli.set_up_jax()
    splits = images()
    with contextlib.ExitStack() as stack:
        names = ["classifier", "jem"]
        names += [n for n in args.only.split(",") if n not in names]
        steps = {name: Step(name, args, stack, splits) for name in names}
        for step in steps.values():  # compiles
            step.take()
        for _ in range(args.rounds):
            for step in steps.values():
                step.turn(args.seconds)
    first, jem = steps["classifier"], steps["jem"]
    print(f"WRN-{args.network[0]}-{args.network[1]}, {jax.device_count()} devices")
    print("| | s a step | over classifier | arithmetic | over JEM | arithmetic |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name in sorted(steps, key=lambda name: steps[name].flops):
        step = steps[name]
        print(
            f"| {name} | {statistics.median(step.seconds):.3f} | {ratio(step, first)}"
            f" | {step.flops / first.flops:.2f} | {ratio(step, jem)}"
            f" | {step.flops / jem.flops:.2f} |"
        )


if __name__ == "__main__":
    main()
