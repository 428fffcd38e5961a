"""python -m ebmjax.export and python -m ebmjax.push, as programs."""

import subprocess
import sys

import hub_server
import numpy as np
import programs
import pytest
import small_runs

import ebmjax
from ebmjax import portable


def command(module, *args, **variables):
    return subprocess.run(
        [sys.executable, "-m", module, *map(str, args)],
        capture_output=True,
        text=True,
        cwd=programs.ROOT,
        env=programs.environment() | variables,
    )


@pytest.mark.slow
def test_a_run_is_exported_evaluated_and_exported_again(tmp_path):
    small_runs.trained(tmp_path / "run")
    flags = (f"--workdir={tmp_path}/run", "--chains=30", "--note=For a test.")
    done = command("ebmjax.export", *flags, "--ema", f"--to={tmp_path}/digits/")
    assert done.returncode == 0 and f"written to {tmp_path}/digits/" in done.stdout
    averaged = ebmjax.load(tmp_path / "run", ema=True)
    run = ebmjax.load(tmp_path / "digits")
    x = run.splits().test.image[:4]
    np.testing.assert_array_equal(run.logits(x), averaged.logits(x))
    assert len(run.buffer) == 30
    flags = (f"--workdir={tmp_path}/digits", "--tasks=classification")
    done = command("ebmjax.eval", *flags)
    assert done.returncode == 0 and "accuracy" in done.stdout, done.stderr
    assert (tmp_path / "digits" / "report.html").exists()
    for name in ("m.jaxexport", "m.safetensors"):
        flags = (f"--workdir={tmp_path}/digits", f"--to={tmp_path / name}")
        assert command("ebmjax.export", *flags).returncode == 0
        assert (tmp_path / name).stat().st_size > 4_000


@pytest.mark.parametrize(
    "module, args, sentence",
    [
        ("export", ["--to=a/"], "usage: python -m ebmjax.export --workdir=RUN --to"),
        ("export", ["--workdir=no", "--to=a/"], "no is not a run directory"),
        ("push", ["--workdir=a"], "usage: python -m ebmjax.push --workdir=RUN --to="),
        ("push", ["--workdir=a", "--to=b"], "'b' is not the name of a repository"),
        ("push", ["--workdir=a", "--to=b/c", "d"], "unexpected argument 'd'"),
    ],
)
def test_mistakes_end_in_one_sentence(module, args, sentence):
    done = command(f"ebmjax.{module}", *args)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(f"error: {sentence}"), done.stderr


LOAD = """
import sys, numpy as np, ebmjax
run = ebmjax.load("hf://me/digits")
print(run.step, float(run.log_density(np.zeros((1, 8, 8, 1), np.uint8))[0]))
"""


@pytest.mark.slow
def test_a_run_goes_to_a_hub_and_comes_back(tmp_path):
    """With the real `huggingface_hub`, and a server that knows its requests."""
    small_runs.trained(tmp_path / "run")
    run = ebmjax.load(tmp_path / "run")
    with hub_server.started(tmp_path / "hub") as variables:
        flags = (f"--workdir={tmp_path}/run", "--to=me/digits")
        done = command("ebmjax.push", *flags, **variables)
        assert done.returncode == 0, done.stderr
        assert 'load it by ebmjax.load("hf://me/digits")' in done.stdout
        repository = tmp_path / "hub/me/digits"
        names = {path.name for path in repository.iterdir()}
        assert names == set(portable.FILES) - {"eval.json"}
        (repository / "sitecustomize.py").write_text("raise SystemExit")
        done = subprocess.run(
            [sys.executable, "-c", LOAD],
            capture_output=True,
            text=True,
            cwd=programs.ROOT,
            env=programs.environment() | variables,
        )
        assert done.returncode == 0, done.stderr
        step, log_p = done.stdout.split()
        expected = run.log_density(np.zeros((1, 8, 8, 1), np.uint8))[0]
        assert int(step) == run.step
        assert float(log_p) == pytest.approx(expected, rel=1e-6)
        downloaded = {path.name for path in tmp_path.glob("hub-cache/**/snapshots/*/*")}
        assert downloaded == names
        flags = ("--workdir=hf://me/gone", f"--to={tmp_path}/out/")
        done = command("ebmjax.export", *flags, **variables)
        assert done.returncode == 1
        error = done.stderr.splitlines()[-1]
        assert "hf://me/gone cannot be loaded: 404" in error, error
        assert "Repository Not Found" in error, error
