"""The command line, as a user types it."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from ebmjax import cli

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
        (("--config=configs/nothing.py",), "no config 'configs/nothing.py'"),
        (("--confg=configs/jem_digits.py",), "argument '--confg'; flags have the form"
         " --config.key=value; did you mean 'config'?"),
        ((CONFIG, "--config.sgld.stepsize=1"), "did you mean 'sgld.step_size'"),
        ((CONFIG, "--config.batch_size=many"), "config.batch_size must be an integer"),
        ((CONFIG, "--config.model.norm", "bach"), "did you mean 'batch'"),
        ((CONFIG, "--config.sgld.noise_std=nan"), "config.sgld.noise_std must be"),
        (("--config=configs/jem_digits.py:tiny",), "'full', 'small', 'smoke'"),
        ((CONFIG, "--config.data.name=cifr10"), "nearest are cifar10"),
        ((CONFIG, "--config.data.name=cifar10", "--config.data.data_dir=/no/where"),
         "data_dir /no/where does not exist"),
        ((CONFIG, "config.seed=1"), "unexpected argument 'config.seed=1'; flags have"),
        ((CONFIG, "--join_timeout=0"), "flag --join_timeout=0"),
    ],
    ids=lambda x: x if isinstance(x, str) else None,
)  # fmt: skip
def test_a_mistake_ends_in_one_sentence(args, message, tmp_path):
    code, out, err = run(*args, f"--workdir={tmp_path / 'run'}")
    assert code == 1 and message in err and not out
    assert len(err.splitlines()) == 1 and err.startswith("error: ")
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_a_config_json_does_not_name_a_workdir():
    with pytest.raises(
        ValueError, match="--workdir is missing: --config=runs/x/config"
    ):
        cli.default_workdir("runs/x/config.json")


def test_v_shows_the_traceback_and_what_is_logged_for_debugging():
    code, out, err = run(CONFIG, "--config.seed=-1", "--v=1", "--workdir=nowhere")
    assert code == 1 and "Traceback" in err and "config.seed must be" in err
    for flag, lines in {"--v=0": ["seen"], "--v=1": ["debugged", "seen"]}.items():
        program = (
            "import logging, sys; from absl import flags; from ebmjax import cli\n"
            f"flags.FLAGS(['x', '{flag}'])\n"
            "def main(argv):\n"
            "    logging.debug('debugged'); logging.info('seen')\n"
            "    logging.getLogger('library').debug('not this')\n"
            "cli.report_errors(main)([])"
        )
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT
        )
        assert done.stderr.splitlines() == lines, done.stderr


def test_text_is_printed_where_the_encoding_lacks_characters():
    program = "from ebmjax import cli; cli.echo('0.5 \u00b1 0.1 \u2013 \u03b2')"
    for encoding, text in {
        "ascii": b"0.5 ? 0.1 ? ?",
        "latin-1": b"0.5 \xb1 0.1 ? ?",
        "utf-8": "0.5 ± 0.1 – β".encode(),
    }.items():
        done = subprocess.run(
            [sys.executable, "-c", program],
            capture_output=True,
            cwd=ROOT,
            env=os.environ | {"PYTHONIOENCODING": encoding},
        )
        assert (done.returncode, done.stdout.strip()) == (0, text)


@pytest.mark.parametrize(
    "arguments, rest, overrides",
    [
        (["--v=1", "--config.seed=3"], ["--v=1"], ["--config.seed=3"]),
        (["-config.seed", "3", "x"], ["x"], ["--config.seed=3"]),
        (["--config.tensorboard", "x"], ["x"], ["--config.tensorboard=true"]),
        (["--noconfig.tensorboard"], [], ["--config.tensorboard=false"]),
        (["--config=a", "--configs.x=1"], ["--config=a", "--configs.x=1"], []),
        (["--config.data.name=a=b"], [], ["--config.data.name=a=b"]),
    ],
)
def test_overrides_are_told_from_flags(arguments, rest, overrides):
    assert cli._split_overrides(arguments) == (rest, overrides)


@pytest.mark.slow
def test_it_trains_evaluates_and_resumes(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    code, out, err = run(CONFIG, f"--workdir={tmp_path}")
    assert code == 0, err
    assert f"results written to {tmp_path}" in out
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
    assert f"after {name}; run again to resume".encode() in err
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
    assert cli.default_workdir(config) == workdir
