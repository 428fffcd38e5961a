"""Runs that are killed, starved and damaged, against one that is left alone.

    python -m experiments.faults [--kills=20] [--seed=0]

Trains JEM with an MLP on the digits as a program of its own, ends it with kill -9
again and again, half of the times while a checkpoint is being written, starts it again
each time, and compares parameters, chains and log with those of an undisturbed run.
Then other faults, one each. Prints tables; ends with 1 if something is not the same.
"""

import argparse
import contextlib
import functools
import pathlib
import random
import subprocess
import sys
import tempfile
import time
from typing import NamedTuple

import jax
import numpy as np
from absl import logging

from ebmjax import checkpoint, writers

ROOT = pathlib.Path(__file__).parent.parent
SETTINGS = {
    "data.num_valid": 60,
    "model.name": "mlp",
    "model.features": (16,),
    "sgld.num_steps": 2,
    "sgld.buffer_size": 400,
    "batch_size": 32,
    "every.log": 10,
    "every.checkpoint": 40,
    "every.samples": 1_000_000,
    "eval.tasks": (),
    "parallel.cpu_devices": 2,
    "tensorboard": False,
}


class Kill(NamedTuple):
    when: str  # "training" or "saving"
    step: int  # of the last line of the log
    saved: int | None  # the newest checkpoint that is whole
    cut_off: bool  # did it leave a part of one?


def command(workdir, num_steps) -> list[str]:
    settings = [f"--config.{key}={value}" for key, value in SETTINGS.items()]
    program = [sys.executable, *"-m ebmjax.main --config=configs/jem_digits.py".split()]
    return [
        *program,
        f"--workdir={workdir}",
        f"--config.num_steps={num_steps}",
    ] + settings


@contextlib.contextmanager
def started(workdir, num_steps, largest_kib="unlimited"):
    """The program; it does not outlive the block. What it tells is in *.log.

    No file may grow beyond `largest_kib` KiB, as if the disk were full.
    """
    limited = ["bash", "-c", f'ulimit -f {largest_kib}; exec "$@"', "bash"]
    with open(f"{workdir}.log", "w") as told:
        program = subprocess.Popen(
            limited + command(workdir, num_steps), cwd=ROOT, stdout=told, stderr=told
        )
        try:
            yield program
        finally:
            program.kill()
            program.wait()


def train(workdir, num_steps, **limits) -> tuple[int, str]:
    """-> exit code, and what it told."""
    with started(workdir, num_steps, **limits) as program:
        code = program.wait()
    return code, pathlib.Path(f"{workdir}.log").read_text()


def kill(workdir, num_steps, when, rng) -> Kill | None:
    """Starts it, and ends it with kill -9 at a random moment after its first new
    checkpoint, or in the middle of one; None if it came to its end before that."""
    before = newest(workdir)
    with started(workdir, num_steps) as program:
        while newest(workdir) == before and program.poll() is None:
            time.sleep(0.001)
        if when == "training":
            time.sleep(rng.uniform(0, 0.3))
        else:
            while not unfinished(workdir) and program.poll() is None:
                pass
            time.sleep(rng.uniform(0, 0.03))
        if program.poll() is not None:
            return None
        program.kill()
        program.wait()
    lines = list(writers.read(workdir / writers.METRICS))
    return Kill(when, lines[-1]["step"], newest(workdir), bool(unfinished(workdir)))


def newest(workdir) -> int | None:
    names = [path.name for path in (workdir / checkpoint.FOLDER).glob("*")]
    return max((int(name) for name in names if name.isdigit()), default=None)


def unfinished(workdir) -> list[pathlib.Path]:
    return list((workdir / checkpoint.FOLDER).glob("*-tmp*"))


def differences(a, b) -> list[str]:
    """What is not the same in two finished runs, to the bit: nothing, one hopes."""
    with checkpoint.manager(a, read_only=True) as ours:
        with checkpoint.manager(b, read_only=True) as theirs:
            steps = ours.latest_step(), theirs.latest_step()
            (one, _), (other, _) = (
                checkpoint.restore_model(stored, step)
                for stored, step in zip((ours, theirs), steps, strict=True)
            )
    found = [] if steps[0] == steps[1] else [f"steps {steps[0]} and {steps[1]}"]
    leaves = zip(
        jax.tree_util.tree_leaves_with_path(one), jax.tree.leaves(other), strict=True
    )
    for path, x, y in ((path, x, y) for (path, x), y in leaves):
        if not np.array_equal(x, y):
            found.append(jax.tree_util.keystr(path))
    if numbers(a) != numbers(b):
        found.append(writers.METRICS)
    return found


def numbers(workdir) -> list[dict]:
    """The log without what depends on the clock."""
    lines = writers.read(workdir / writers.METRICS)
    return [{k: v for k, v in x.items() if k != "images_per_s"} for x in lines]


def kills(folder, num_kills, num_steps, rng, tell) -> list[str]:
    """Kills a run so many times.  -> how it differs from an undisturbed one."""
    whole, killed = folder / "whole", folder / "killed"
    code, told = train(whole, num_steps)
    assert code == 0, told
    tell("| kill | while | step of the log | newest whole checkpoint | a part of one |")
    tell("| --- | --- | --- | --- | --- |")
    for i in range(num_kills):
        done = kill(killed, num_steps, ("training", "saving")[i % 2], rng)
        if done is None:
            raise RuntimeError(f"it ended before kill {i + 1}: take more steps")
        part = "left" if done.cut_off else "no"
        tell(f"| {i + 1} | {done.when} | {done.step} | {done.saved} | {part} |")
    code, told = train(killed, num_steps)
    assert code == 0, told
    return differences(whole, killed)


def disk_full(folder, num_steps) -> tuple[str, list[str]]:
    """Half of the run with 30 KiB for a file, which is less than the chains take."""
    whole, starved = folder / "undisturbed", folder / "starved"
    train(whole, num_steps)
    train(starved, num_steps // 2)
    code, told = train(starved, num_steps, largest_kib=30)
    assert code == 1 and newest(starved) == num_steps // 2, told
    again, _ = train(starved, num_steps)
    return told.strip().splitlines()[-1], differences(whole, starved) + [
        f"exit code {again}"
    ] * bool(again)


def truncated(folder, num_steps) -> tuple[str, list[str]]:
    """All large files of the newest checkpoint lose their second half."""
    whole, cut = folder / "undisturbed", folder / "starved"
    for file in (cut / checkpoint.FOLDER / str(num_steps)).rglob("*"):
        if file.is_file() and file.stat().st_size > 1000:
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    code, told = train(cut, num_steps)
    assert code == 0 and (cut / f"damaged-{num_steps}").exists(), told
    said = [line for line in told.splitlines() if "cannot be read" in line]
    return said[0], differences(whole, cut)


def two_at_once(folder, num_steps) -> tuple[str, list[str]]:
    """The same workdir for two programs."""
    workdir = folder / "contested"
    with started(workdir, 1_000_000) as program:
        while not (workdir / writers.METRICS).exists() and program.poll() is None:
            time.sleep(0.01)
        second = subprocess.run(
            command(workdir, num_steps), cwd=ROOT, capture_output=True, text=True
        )
        alive = program.poll() is None
    refused = second.returncode == 1 and alive
    return second.stderr.strip(), [] if refused else ["both ran"]


FAULTS = {
    "disk full while saving": disk_full,
    "checkpoint cut off": truncated,
    "two programs in one workdir": two_at_once,
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    args = parser.parse_args()
    logging.set_verbosity("error")  # orbax warns of what is only read
    tell = functools.partial(print, flush=True)
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        rng = random.Random(args.seed)
        wrong = kills(folder, args.kills, 100 * args.kills, rng, tell)
        tell(f"\nAfter {args.kills} kills, different: {', '.join(wrong) or 'nothing'}.")
        tell("\n| fault | what it said | different in the end |")
        tell("| --- | --- | --- |")
        for name, fault in FAULTS.items():
            said, found = fault(folder, 80)
            said = said.replace(str(folder), "DIR")
            tell(f"| {name} | {said} | {', '.join(found) or 'nothing'} |")
            wrong += found
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
