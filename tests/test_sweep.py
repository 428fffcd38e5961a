"""python -m ebmjax.sweep"""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import programs
import pytest

from ebmjax import config, sweep
from ebmjax.eval.report import comparison

CONFIG = str(programs.ROOT / "tests" / "digits_mlp.py")


def test_a_grid_is_the_cross_product_with_the_seed_last():
    assert sweep.grid("seed=0,1 objective.p_x=0.1,1,1.0") == [
        {"objective.p_x": 0.1, "seed": 0},
        {"objective.p_x": 0.1, "seed": 1},
        {"objective.p_x": 1.0, "seed": 0},
        {"objective.p_x": 1.0, "seed": 1},
    ]
    tuples = sweep.grid("model.features=(8,8),(16) data.flip=true")
    assert [x["model.features"] for x in tuples] == [(8, 8), (16,)]


def test_the_runs_have_configs_and_directories_of_their_own(tmp_path):
    text = "seed=3,4 model.features=(8,4) sgld.step_size=0.5,2"
    runs = sweep.plan(CONFIG, str(tmp_path), text, ["--config.num_steps=5"])
    name = "model.features=(8,4),sgld.step_size=2,seed=4"
    assert runs[-1].name == name and runs[-1].workdir == f"{tmp_path}/{name}"
    for run in runs:
        c = sweep.cli.load_config(CONFIG, run.arguments[2:])
        assert config.to_json(c) == config.to_json(run.config) and c.num_steps == 5
    assert len({config.to_json(run.config) for run in runs}) == 4


@pytest.mark.parametrize(
    "text, message",
    [
        ("seed", "--grid has 'seed'; expected KEY=VALUE"),
        ("seed=1 seed=2", "the key 'seed' twice"),
        ("sead=1,2", "no key 'sead'; did you mean 'seed'"),
        ("seed=1,x", "config.seed must be an integer"),
        ("seed=1", "is 1 run"),
        ("batch_size=16,0", "config.batch_size must be an integer >= 1"),
        ("data.name=a/b,a:b", "two runs for the directory 'data.name=a_b'"),
    ],
)
def test_a_wrong_grid_is_refused_before_anything_starts(text, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        sweep.plan(CONFIG, str(tmp_path), text, [])


def stand_ins(monkeypatch, tmp_path, **codes):
    """Runs that are programs of these codes instead."""

    def start(run):
        with open(f"{run.workdir}.log", "a") as log:
            program = [sys.executable, "-c", codes[run.name]]
            return subprocess.Popen(program, stdout=log, stderr=log)

    monkeypatch.setattr(sweep, "_start", start)
    return [sweep.Planned(name, str(tmp_path / name), None, []) for name in codes]


def test_a_run_that_fails_is_named_and_the_others_go_on(monkeypatch, tmp_path, capsys):
    bad = "print('first'); print('error: no such data'); raise SystemExit(1)"
    runs = stand_ins(monkeypatch, tmp_path, a=bad, b="pass")
    assert sweep.train(runs) == ["a"]
    out = capsys.readouterr().out
    assert "a: failed with exit code 1: error: no such data" in out
    assert "b: finished" in out and f"{tmp_path}/a.log" in out


@pytest.mark.parametrize("jobs", [1, 2])
def test_as_many_at_once_as_asked_for(jobs, monkeypatch, tmp_path):
    code = (
        "import pathlib, time; p = pathlib.Path({!r}); p.write_text(str(time.time()))"
    )
    code += "; time.sleep(0.7); p.with_suffix('.end').write_text(str(time.time()))"
    names = ("a", "b", "c")
    codes = {name: code.format(f"{tmp_path}/{name}.begin") for name in names}
    runs = stand_ins(monkeypatch, tmp_path, **codes)
    assert sweep.train(runs, jobs) == []
    times = [
        (float((tmp_path / f"{n}.{what}").read_text()), change)
        for n in names
        for what, change in (("begin", 1), ("end", -1))
    ]
    running, most = 0, 0
    for _, change in sorted(times):
        running += change
        most = max(most, running)
    assert most == jobs


def test_ctrl_c_is_passed_on_once_and_no_further_run_starts(monkeypatch, tmp_path):
    code = f"""
import os, pathlib, signal, time
def stop(number, frame):
    with open({str(tmp_path / "signals")!r}, "a") as file:
        file.write(f"{{number}} ")
signal.signal(signal.SIGINT, stop)
os.kill({os.getpid()}, signal.SIGINT)
while not pathlib.Path({str(tmp_path / "signals")!r}).exists():
    time.sleep(0.01)
time.sleep(0.5)
raise SystemExit(130)
"""
    never = f"open({str(tmp_path / 'never')!r}, 'w')"
    runs = stand_ins(monkeypatch, tmp_path, a=code, b=never)
    with pytest.raises(SystemExit) as ended:
        sweep.train(runs)
    assert ended.value.code == 130
    assert (tmp_path / "signals").read_text().split() == [str(int(signal.SIGINT))]
    assert not (tmp_path / "never").exists()


def test_seeds_of_a_sweep_are_labelled_by_what_is_swept():
    names = [f"objective.p_x=0.1,seed={i}" for i in (10, 11)]
    assert comparison._label(names) == "objective.p_x=0.1, 2 seeds"
    assert comparison._label(["seed=1", "seed=2"]) == "2 seeds"


def command(workdir, grid, *flags):
    return subprocess.run(
        [
            *(sys.executable, "-m", "ebmjax.sweep", f"--config={CONFIG}"),
            *(f"--workdir={workdir}", f"--grid={grid}", *flags),
            *("--config.parallel.cpu_devices=1", "--config.num_steps=4"),
        ],
        capture_output=True,
        text=True,
        cwd=programs.ROOT,
        env=programs.environment(),
    )


@pytest.mark.slow
def test_a_sweep_from_start_to_comparison(tmp_path):
    """One run fails at first: a file is where its directory should be."""
    names = [f"objective.p_x={p},seed={s}" for p in ("0", "1") for s in (0, 1)]
    (tmp_path / names[3]).write_text("in the way")
    grid = "objective.p_x=0,1 seed=0,1"
    done = command(tmp_path, grid)
    assert done.returncode == 1, done.stderr
    assert f"failed: {names[3]}" in done.stdout
    numbers = json.loads((tmp_path / "compare.json").read_text())
    assert sorted(len(x) for x in numbers["groups"].values()) == [1, 2]
    (tmp_path / names[3]).unlink()
    logs = {name: (tmp_path / f"{name}.log").stat().st_size for name in names[:3]}
    started = time.time()
    done = command(tmp_path, grid)
    assert done.returncode == 0, done.stderr
    assert "4 runs, 3 of them finished" in done.stdout
    for name, size in logs.items():
        assert (tmp_path / f"{name}.log").stat().st_size == size
        assert (tmp_path / name / "eval.json").stat().st_mtime < started
    numbers = json.loads((tmp_path / "compare.json").read_text())
    assert list(numbers["groups"]) == [
        "objective.p_x=0, 2 seeds",
        "objective.p_x=1, 2 seeds",
    ]
    assert numbers["measures"]["accuracy"]["groups"]
    assert pathlib.Path(tmp_path, "report.html").exists()
