"""Runs that an earlier version of the package left are loaded, resumed, evaluated."""

import json
import shutil

import golden_runs as golden
import numpy as np
import pytest

import ebmjax
from ebmjax import rundir


@pytest.mark.parametrize("name", golden.OBJECTIVES)
def test_a_golden_run_still_computes_the_same(name):
    run = ebmjax.load(golden.FOLDER / name)
    assert run.step == 4
    x = run.splits().test.image[:8]
    expected = np.load(golden.FOLDER / name / golden.LOGITS)
    np.testing.assert_allclose(run.logits(x), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", golden.OBJECTIVES)
def test_a_golden_run_is_resumed_and_evaluated(name, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(golden.FOLDER / name, workdir)
    c = rundir.read_config(workdir)
    c.num_steps = 6
    run = ebmjax.fit(c, workdir)
    assert run.step == 6
    results = ebmjax.evaluate(run)
    assert ebmjax.eval.evaluate.failures(results) == {}
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    steps = [json.loads(line)["step"] for line in lines]
    assert steps == [2, 4, 4, 6, 6]


def test_the_golden_runs_are_small():
    assert {x.name for x in golden.FOLDER.iterdir()} == set(golden.OBJECTIVES)
    files = [path for path in golden.FOLDER.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 300_000
