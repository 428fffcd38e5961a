"""Runs of digits_mlp.py as programs of their own, one or several of them."""

import contextlib
import json
import os
import pathlib
import socket
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).parent.parent
MAIN = "-m ebmjax.main --config=tests/digits_mlp.py".split()
EVAL = "-m ebmjax.eval".split()
LONG = "--config.num_steps=1000000"
CLASSIFIER = "--config.objective.p_x=0"  # quicker to compile
NO_EVAL = "--config.eval.tasks=()"


def command(workdir, *flags, devices, processes, evaluation=False):
    training = [*MAIN, f"--config.parallel.cpu_devices={devices}"]
    return [
        *(sys.executable, *(EVAL if evaluation else training)),
        *(f"--workdir={workdir}", *flags),
        *(["--distributed"] if processes > 1 else []),
    ]


@contextlib.contextmanager
def started(
    workdir,
    *flags,
    devices=1,
    processes=1,
    evaluation=False,
    different=None,
    surroundings=None,
    logs=None,
):
    """Starts `processes` programs of `devices` CPU devices each; none outlives the
    block.  -> Popen of each, with `told()`: what it printed.

    They train, or do the `evaluation` of a run, whose devices are in its config.
    `different` {i: flags} are those that only process i gets, `surroundings`
    {i: variables} its own environment. They print into files at `logs`, else beside
    `workdir`.
    """
    how = dict(devices=devices, processes=processes, evaluation=evaluation)
    every = command(workdir, *flags, **how)
    shared = environment() | {
        "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{free_port()}",
        "JAX_NUM_PROCESSES": str(processes),
    }
    with contextlib.ExitStack() as stack:
        programs = []
        for i in range(processes):
            log = pathlib.Path(f"{logs or workdir}.{i}.log")
            program = subprocess.Popen(
                every + (different or {}).get(i, []),
                cwd=ROOT,
                env=shared
                | {"JAX_PROCESS_ID": str(i)}
                | (surroundings or {}).get(i, {}),
                stdout=stack.enter_context(log.open("w")),
                stderr=subprocess.STDOUT,
            )
            program.told = log.read_text
            stack.callback(program.wait)
            stack.callback(program.kill)
            programs.append(program)
        yield programs


def run(workdir, *flags, code=0, **kwargs):
    """Runs to the end and expects that exit code of all.  -> all that they told."""
    with started(workdir, *flags, **kwargs) as programs:
        codes = [program.wait(timeout=120) for program in programs]
        told = "\n".join(program.told() for program in programs)
    assert set(codes) == {code}, told
    return told


def until(condition, programs, timeout=60):
    """Waits, as long as all the programs run."""
    limit = time.monotonic() + timeout
    while not condition():
        told = "\n".join(program.told() for program in programs)
        assert time.monotonic() < limit and not any(p.poll() for p in programs), told
        time.sleep(0.01)


def environment():
    """Ours, with the compilation cache of all tests."""
    return os.environ | {
        "JAX_COMPILATION_CACHE_DIR": str(ROOT / ".pytest_cache" / "jax"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
    }


def log_length(workdir):
    path = pathlib.Path(workdir) / "metrics.jsonl"
    return len(path.read_text().splitlines()) if path.exists() else 0


def results(workdir):
    return json.loads((pathlib.Path(workdir) / "eval.json").read_text())


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
