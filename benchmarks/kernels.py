"""A step with the convolutions of `ebmjax.kernels` against one with XLA's own.

    python -m benchmarks.kernels [CASE ...] [--rounds=5] [--seconds=1]

A case is objective,depth,width,batch. Its two compiled steps take turns in one process;
printed are the medians (quartiles) of XLA's time over ours in a round, with the version
of JAX, since what XLA makes of a convolution is its compiler's matter.
"""

import argparse
import statistics
import time
from unittest import mock

import jax
import jaxlib
from jax import lax

from benchmarks import cases, ours
from ebmjax import cli, kernels, parallel, processes

CASES = ("classifier,10,1,64", "classifier,16,2,64", "ng_ebm,10,1,64", "jem,10,1,64")
XLA = mock.patch.object(kernels, "conv_general_dilated", lax.conv_general_dilated)


class Step:
    """A compiled training step, taken again and again."""

    def __init__(self, case):
        self.key = parallel.place(jax.random.key(0))
        self.run, self.state, self.data, self.batch = ours.build(case)
        self.take()  # compiles, while the convolutions are those of the caller

    def take(self):
        began = time.perf_counter()
        self.state, metrics = self.run(self.state, self.data, self.batch(), self.key)
        jax.block_until_ready(metrics)
        return time.perf_counter() - began

    def turn(self, at_least):
        """Mean seconds of as many steps as take so long."""
        spent = [self.take()]
        while sum(spent) < at_least:
            spent.append(self.take())
        return statistics.mean(spent)


def main():
    parser = argparse.ArgumentParser("python -m benchmarks.kernels")
    parser.add_argument("cases", nargs="*", default=CASES, metavar="CASE")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="a turn, at least")
    args = parser.parse_args()
    chosen = [cases.parse(text) for text in args.cases]
    processes.start(sizes=[case.batch for case in chosen])
    cli.set_up_jax()
    versions = f"jax {jax.__version__}, jaxlib {jaxlib.__version__}"
    print(f"{versions}, {jax.device_count()} devices")
    print("| case | XLA's over ours | s a step: ours, XLA's |")
    print("| --- | --- | --- |")
    for case in chosen:
        with_kernels = Step(case)
        with XLA:
            plain = Step(case)
        seconds = [
            (with_kernels.turn(args.seconds), plain.turn(args.seconds))
            for _ in range(args.rounds)
        ]
        low, middle, high = statistics.quantiles([b / a for a, b in seconds], n=4)
        ours_s, xla_s = map(statistics.median, zip(*seconds, strict=True))
        print(
            f"| {case} | {middle:.2f} ({low:.2f} to {high:.2f})"
            f" | {ours_s:.3f}, {xla_s:.3f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
