"""Our training step against PyTorch's: `python -m benchmarks [--tuned [--compile]]`.

For each case two processes take turns, so that what else the machine does meets both.
First PyTorch finds loss, gradient and chains of the same weights, batch and noise, and
they must agree with those that our compiled step found. Then come the times: a ratio
is that of one round, PyTorch's over ours, and the medians and quartiles of rounds are
printed.

PyTorch's threads wait for each other in every operation, and spin meanwhile: what else
runs on the machine costs it far more than us, in wall and in CPU time. So the quietest
of up to four times as many rounds are kept, and what others used then is printed. On a
busy machine only the CPU times of `--cores=1` mean something.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time

from benchmarks import cases

NETWORKS = [(10, 1, 64), (16, 2, 64), (16, 4, 32)]
LARGE = (28, 10, 32)
ALLOCATOR = {  # of glibc, read when a process starts
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(2**32),
    "MALLOC_TRIM_THRESHOLD_": str(2**34),
}


def main():
    parser = argparse.ArgumentParser("python -m benchmarks")
    parser.add_argument("--full", action="store_true", help="WRN-28-10 too, in hours")
    parser.add_argument(
        "--tuned", action="store_true", help="PyTorch in channels_last; its allocator"
    )
    parser.add_argument(
        "--compile", action="store_true", help="the tuned network by torch.compile"
    )
    parser.add_argument("--cores", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="a turn, at least")
    parser.add_argument("--only", default="", help="cases with this in their names")
    args = parser.parse_args()
    if args.compile and not args.tuned:
        parser.error("--compile needs --tuned")

    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.cores])
    peak = matmul_peak()
    print(f"{machine()}; {args.cores} cores; matrix products: {peak / 1e9:.0f} GFLOP/s")
    print(TITLE)
    networks = NETWORKS + [LARGE] * args.full
    for objective in cases.OBJECTIVES:
        for depth, width, batch in networks:
            case = cases.Case(objective, depth, width, batch)
            if args.only not in str(case):
                continue
            if args.compile and objective == "ng_ebm":
                print(f"| {case} | torch.compile cannot differentiate twice |")
                continue
            row(case, args, peak)


TITLE = """
| case | PyTorch / ours, wall (quartiles) | the same, CPU | others' use of a core \
| ours, images/s | of peak: ours, PyTorch | MiB: ours, PyTorch \
| compiled in s (CPU s) | gradient off by |
| --- | --- | --- | --- | --- | --- | --- | --- | --- |"""
QUIET = 0.1  # of a core


def row(case, args, peak):
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/found.npz"
        ours, theirs = Worker("ours", case, path), None
        try:
            about = ours.hear()
            theirs = Worker("official", case, path, args.tuned, args.compile)
            differ = theirs.hear()["differ"]
            rounds = []
            while len(rounds) < 4 * args.rounds and quiet(rounds) < args.rounds:
                before = others(ours, theirs)
                began = time.perf_counter()
                turns = ours.turn(args.seconds), theirs.turn(args.seconds)
                used = others(ours, theirs) - before
                rounds.append((used / (time.perf_counter() - began), turns))
        finally:
            ours.end()
            if theirs:
                theirs.end()
    rounds = sorted(rounds, key=lambda r: r[0])[: args.rounds]
    disturbance = statistics.median(used for used, _ in rounds)
    turns = [turns for _, turns in rounds]

    def spread(kind):
        ratios = [theirs[kind] / ours[kind] for ours, theirs in turns]
        low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
        return f"{middle:.2f} ({low:.2f} to {high:.2f})"

    def median(of, kind):
        return statistics.median(turn[of][kind] for turn in turns)

    clock = "wall" if args.cores > 1 else "cpu"
    share = [cases.step_flops(case) / median(of, clock) / peak for of in (0, 1)]
    print(
        f"| {case} | {spread('wall')} | {spread('cpu')} | {disturbance:.0%}"
        f" | {case.batch / median(0, clock):.0f}"
        f" | {share[0]:.0%}, {share[1]:.0%}"
        f" | {median(0, 'peak_mib'):.0f}, {median(1, 'peak_mib'):.0f}"
        f" | {about['compile_s']:.1f} ({about['compile_cpu_s']:.1f})"
        f" | {differ['gradient']:.0e} |",
        flush=True,
    )


def quiet(rounds):
    return sum(used < QUIET for used, _ in rounds)


def others(*workers) -> float:
    """Seconds that all cores have worked so far, but for these workers."""
    with open("/proc/stat") as file:
        user, nice, system, _, _, irq, softirq, *_ = map(
            int, file.readline().split()[1:]
        )
    used = user + nice + system + irq + softirq
    for worker in workers:
        with open(f"/proc/{worker.process.pid}/stat") as file:
            used -= sum(map(int, file.read().rsplit(")", 1)[1].split()[11:13]))
    return used / os.sysconf("SC_CLK_TCK")


class Worker:
    """A process of its own that times its steps when told to."""

    def __init__(self, module, case, path, tuned=False, compiled=False):
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                f"benchmarks.{module}",
                ",".join(map(str, case)),
                path,
                *["tuned"] * tuned,
                *["compiled"] * compiled,
            ],
            env={**os.environ, **(ALLOCATOR if tuned else {})},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.count = None

    def hear(self):
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.process.args} ended: {self.process.wait()}")
        return json.loads(line)

    def say(self, count):
        self.process.stdin.write(f"{count}\n")
        self.process.stdin.flush()
        return self.hear()

    def turn(self, seconds):
        if self.count is None:
            self.count = max(1, round(seconds / self.say(1)["wall"]))
        return self.say(self.count)

    def end(self):
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait()


def matmul_peak() -> float:
    """Operations a second of NumPy's float32 matrix product, at best."""
    import numpy as np  # not before the cores are chosen: its threads go by them

    a = np.ones((1536, 1536), np.float32)
    best = float("inf")
    for _ in range(20):
        began = time.perf_counter()
        a @ a
        best = min(best, time.perf_counter() - began)
    return 2 * len(a) ** 3 / best


def machine() -> str:
    with open("/proc/cpuinfo") as file:
        names = [line.split(":")[1].strip() for line in file if "model name" in line]
    return f"{names[0] if names else platform.processor()}, {platform.system()}"


if __name__ == "__main__":
    main()
