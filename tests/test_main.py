"""The command line, as a user types it."""

import json
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from ebmjax import main

ROOT = pathlib.Path(__file__).parent.parent
CONFIG = "--config=configs/jem_digits.py:smoke"


def command(*args):
    return [sys.executable, "-m", "ebmjax.main", *map(str, args)]


def run(*args):
    done = subprocess.run(command(*args), capture_output=True, text=True, cwd=ROOT)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    "args, message",
    [
        ((), "--config is missing"),
        (("--config=configs/nothing.py",), "nothing.py"),
        ((CONFIG, "--config.sgld.stepsize=1"), "Did you mean \"step_size\""),
        ((CONFIG, "--config.batch_size=many"), "batch_size"),
        ((CONFIG, "--config.model.norm=bach"), "did you mean 'batch'"),
        (("--config=configs/jem_digits.py:tiny",), "'full', 'small', 'smoke'"),
        ((CONFIG, "--config.data.name=cifr10"), "nearest are cifar10"),
        ((CONFIG, "--config.data.name=cifar10", "--config.data.data_dir=/no/where"),
         "data_dir /no/where does not exist"),
        ((CONFIG, "config.seed=1"), "--config.key=value"),
    ],
    ids=lambda x: x if isinstance(x, str) else None,
)  # fmt: skip
def test_a_mistake_ends_in_one_sentence(args, message, tmp_path):
    code, out, err = run(*args, f"--workdir={tmp_path / 'run'}")
    assert code != 0 and message in out + err
    assert "Traceback" not in err
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.slow
def test_it_trains_evaluates_and_goes_on(tmp_path):
    code, out, err = run(CONFIG, f"--workdir={tmp_path}")
    assert code == 0, err
    assert "step 4/4" in out and "accuracy" in out
    results = json.loads((tmp_path / "eval.json").read_text())
    assert results["classification"]["num_images"] == 360
    code, out, err = run(CONFIG, f"--workdir={tmp_path}", "--config.num_steps=6")
    assert code == 0 and "step 6/6" in out and "step 4/" not in out, out + err


@pytest.mark.slow
@pytest.mark.parametrize("name, code", [("SIGTERM", 75), ("SIGINT", 130)])
def test_a_signal_saves_and_tells_by_the_exit_code(name, code, tmp_path):
    args = (CONFIG, f"--workdir={tmp_path}", "--config.num_steps=1000000")
    with subprocess.Popen(
        command(*args), stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT
    ) as process:
        log = tmp_path / "metrics.jsonl"
        while process.poll() is None and not (log.exists() and log.read_text()):
            time.sleep(0.1)
        process.send_signal(getattr(signal, name))
        _, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    assert f"after {name}; start again to go on".encode() in err
    assert list((tmp_path / "checkpoints").iterdir())


@pytest.mark.parametrize(
    "config, workdir",
    [
        ("configs/jem_cifar10.py:small", "runs/jem_cifar10-small"),
        ("/a/b/mine.py", "runs/mine"),
        ("mine", "runs/mine"),
    ],
)
def test_the_default_workdir_is_named_after_the_config(config, workdir):
    assert main.default_workdir(config) == workdir
