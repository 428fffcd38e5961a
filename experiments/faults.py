"""Injects faults into a run and compares it with an undisturbed one.

    python -m experiments.faults [--kills=20] [--seed=0] [--plot=FILE.png]

Trains JEM with an MLP on the digits in a program of its own, kills it again and again
with kill -9, every second time while a checkpoint is being written, restarts it each
time, and compares parameters, chains and log with those of an undisturbed run. Then
injects other faults, one each. Prints tables; the exit code is 1 if anything differs.
With --plot it draws the losses of both, and of each part of the killed one.
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
from matplotlib.figure import Figure

from ebmjax import checkpoint, rundir, writers

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
    step: int  # of the last line in the log
    saved: int | None  # step of the newest complete checkpoint
    cut_off: bool  # whether it left an incomplete one
    log: list[dict]  # what this start, and those before it, had logged


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
    """The training program, which is killed at the end of the block; its output goes to
    WORKDIR.log.

    No file can grow beyond `largest_kib` KiB, as if the disk were full.
    """
    limited = ["bash", "-c", f'ulimit -f {largest_kib}; exec "$@"', "bash"]
    with open(f"{workdir}.log", "w") as log:
        program = subprocess.Popen(
            limited + command(workdir, num_steps), cwd=ROOT, stdout=log, stderr=log
        )
        try:
            yield program
        finally:
            program.kill()
            program.wait()


def train(workdir, num_steps, **limits) -> tuple[int, str]:
    """The exit code and the output of a training."""
    with started(workdir, num_steps, **limits) as program:
        code = program.wait()
    return code, pathlib.Path(f"{workdir}.log").read_text()


def kill(workdir, num_steps, when, rng) -> Kill | None:
    """Starts a training and kills it at a random time after its first new checkpoint,
    or while it writes one; None if the training ended before that."""
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
    cut_off = bool(unfinished(workdir))
    return Kill(when, lines[-1]["step"], newest(workdir), cut_off, lines)


def newest(workdir) -> int | None:
    names = [path.name for path in (workdir / rundir.CHECKPOINTS).glob("*")]
    return max((int(name) for name in names if name.isdigit()), default=None)


def unfinished(workdir) -> list[pathlib.Path]:
    return list((workdir / rundir.CHECKPOINTS).glob("*-tmp*"))


def differences(a, b) -> list[str]:
    """Names of what differs, in any bit, between two finished runs."""
    with checkpoint.manager(a, read_only=True) as ours:
        with checkpoint.manager(b, read_only=True) as theirs:
            steps = ours.latest_step(), theirs.latest_step()
            (one, _), (other, _) = (
                checkpoint.restore_model(stored, step)
                for stored, step in zip((ours, theirs), steps, strict=True)
            )
    different = [] if steps[0] == steps[1] else [f"steps {steps[0]} and {steps[1]}"]
    leaves = zip(
        jax.tree_util.tree_leaves_with_path(one), jax.tree.leaves(other), strict=True
    )
    for path, x, y in ((path, x, y) for (path, x), y in leaves):
        if not np.array_equal(x, y):
            different.append(jax.tree_util.keystr(path))
    if numbers(a) != numbers(b):
        different.append(writers.METRICS)
    return different


def numbers(workdir) -> list[dict]:
    """The log without timings."""
    lines = writers.read(workdir / writers.METRICS)
    return [{k: v for k, v in x.items() if k != "images_per_s"} for x in lines]


def kills(folder, num_kills, num_steps, rng, report, plot=None) -> list[str]:
    """Kills a run `num_kills` times; its differences from an undisturbed one.

    `report` takes the lines of a table, `plot` is the file of a picture.
    """
    parts, start = [], 0
    whole, killed = folder / "whole", folder / "killed"
    code, output = train(whole, num_steps)
    assert code == 0, output
    report("| kill | during | step in the log | newest checkpoint | incomplete one |")
    report("| --- | --- | --- | --- | --- |")
    for i in range(num_kills):
        done = kill(killed, num_steps, ("training", "saving")[i % 2], rng)
        if done is None:
            raise RuntimeError(f"training ended before kill {i + 1}; use more steps")
        parts.append([x for x in done.log if x["step"] >= start])
        start = done.saved
        part = "left" if done.cut_off else "no"
        report(f"| {i + 1} | {done.when} | {done.step} | {done.saved} | {part} |")
    code, output = train(killed, num_steps)
    assert code == 0, output
    if plot:
        parts.append([x for x in numbers(killed) if x["step"] >= start])
        draw(plot, numbers(whole), parts)
    return differences(whole, killed)


def draw(path, whole, parts):
    """The loss of the undisturbed run `whole`, and of each part of a killed one from
    the checkpoint from which it started: lists of lines of their logs."""
    figure = Figure(figsize=(7, 3), layout="constrained")
    axes = figure.subplots()
    axes.plot(*_loss(whole), color="0.8", linewidth=6, label="undisturbed")
    for i, part in enumerate(parts):
        (line,) = axes.plot(*_loss(part), linewidth=1.2, label=f"start {i + 1}")
        if i < len(parts) - 1:
            axes.plot(*[x[-1:] for x in _loss(part)], "X", color=line.get_color())
    axes.set(xlabel="step", ylabel="training loss")
    axes.legend(frameon=False, ncols=2)
    figure.savefig(path, dpi=100)


def _loss(log):
    train = [x for x in log if x["split"] == "train"]
    return [x["step"] for x in train], [x["loss"] for x in train]


def disk_full(folder, num_steps) -> tuple[str, list[str]]:
    """Half of the run with at most 30 KiB a file, less than the chains take."""
    whole, starved = folder / "undisturbed", folder / "starved"
    train(whole, num_steps)
    train(starved, num_steps // 2)
    code, output = train(starved, num_steps, largest_kib=30)
    assert code == 1 and newest(starved) == num_steps // 2, output
    again, _ = train(starved, num_steps)
    return output.strip().splitlines()[-1], differences(whole, starved) + [
        f"exit code {again}"
    ] * bool(again)


def truncated(folder, num_steps) -> tuple[str, list[str]]:
    """Cuts all large files of the newest checkpoint in half."""
    whole, cut = folder / "undisturbed", folder / "starved"
    for file in (cut / rundir.CHECKPOINTS / str(num_steps)).rglob("*"):
        if file.is_file() and file.stat().st_size > 1000:
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    code, output = train(cut, num_steps)
    assert code == 0 and (cut / f"damaged-{num_steps}").exists(), output
    messages = [line for line in output.splitlines() if "cannot be read" in line]
    return messages[0], differences(whole, cut)


def two_at_once(folder, num_steps) -> tuple[str, list[str]]:
    """Two programs with the same workdir."""
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
    "disk full during a save": disk_full,
    "truncated checkpoint": truncated,
    "two programs in one workdir": two_at_once,
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the random times")
    parser.add_argument("--plot", help="a PNG file of the losses")
    args = parser.parse_args()
    logging.set_verbosity("error")  # not orbax's warnings
    report = functools.partial(print, flush=True)
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        rng = random.Random(args.seed)
        different = kills(
            folder, args.kills, 100 * args.kills, rng, report, plot=args.plot
        )
        names = ", ".join(different) or "nothing"
        report(f"\nDifferent after {args.kills} kills: {names}.")
        report("\n| fault | message | different at the end |")
        report("| --- | --- | --- |")
        for name, fault in FAULTS.items():
            message, found = fault(folder, 80)
            message = message.replace(str(folder), "DIR")
            report(f"| {name} | {message} | {', '.join(found) or 'nothing'} |")
            different += found
    sys.exit(bool(different))


if __name__ == "__main__":
    main()
