"""python -m ebmjax.eval"""

import json
import subprocess
import sys

import programs
import pytest
from eval_runs import results, write_run

from ebmjax import config


def command(*args, **variables):
    return subprocess.run(
        [sys.executable, "-m", "ebmjax.eval", *map(str, args)],
        capture_output=True,
        text=True,
        env=programs.environment() | variables,
    )


def compared(tmp_path):
    runs = []
    for name, weight in (("plain", 0.0), ("jem", 1.0)):
        c = config.default()
        c.objective.p_x = weight
        runs.append(str(write_run(tmp_path / name, results(name), c)))
    return ["--compare", *runs, f"--workdir={tmp_path / 'out'}"]


def test_compare_on_the_command_line(tmp_path):
    done = command(*compared(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "accuracy at L∞ 8/255" in done.stdout
    assert (tmp_path / "out" / "report.html").exists()


def test_a_terminal_without_unicode_gets_a_replacement(tmp_path):
    done = command(*compared(tmp_path), PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr
    assert "accuracy at L? 8/255" in done.stdout


@pytest.mark.parametrize(
    "args, sentence",
    [
        (
            ["--eval.ood.stes=1"],
            "error: config has no key 'eval.ood.stes'; did you mean 'eval.ood.sets'?",
        ),
        ([], "error: --workdir is missing: a run directory"),
        (["--workdir=no"], "error: no is not a run directory: it has no config.json"),
        (["--workdir=no", "else"], "error: unexpected argument 'else'; flags have the"),
        (["--config.seed=1"], "error: unexpected argument '--config.seed=1'; flags"),
    ],
)
def test_mistakes_on_the_command_line_end_in_one_sentence(args, sentence):
    done = command(*args)
    assert done.returncode == 1 and done.stderr.startswith(sentence)
    assert done.stderr.count("\n") == 1 and not done.stdout


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("trained") / "run"
    flags = ["--config.num_steps=4", programs.CLASSIFIER, programs.NO_EVAL]
    programs.run(workdir, *flags)
    return workdir


@pytest.mark.slow
def test_sets_are_given_by_commas_and_fail_one_by_one(trained, tmp_path):
    sets = f"--eval.ood.sets=uniform,{tmp_path}/photos"
    done = command(f"--workdir={trained}", "--tasks=ood", sets)
    assert done.returncode == 1
    assert f"ood: {tmp_path}/photos" in done.stdout and "mean AUROC" in done.stdout
    ood = programs.results(trained)["ood"]
    assert list(ood["sets"]) == ["uniform", f"{tmp_path}/photos"]
    assert ood["settings"]["sets"] == list(ood["sets"])


@pytest.mark.slow
def test_two_programs_at_the_same_time_keep_the_numbers_of_both(trained):
    tasks = ("classification", "calibration")
    started = [
        subprocess.Popen(
            [*programs.command(trained, f"--tasks={task}", **EVALUATION)],
            env=programs.environment(),
        )
        for task in tasks
    ]
    assert [program.wait(timeout=120) for program in started] == [0, 0]
    assert set(tasks) <= set(programs.results(trained))
    page = (trained / "report.html").read_text()
    assert "Classification" in page and "Calibration errors" in page


EVALUATION = {"devices": 1, "processes": 1, "evaluation": True}


@pytest.mark.slow
def test_data_that_have_moved_lose_no_numbers_and_can_be_named(trained, tmp_path):
    good = command(f"--workdir={trained}", "--tasks=classification")
    assert good.returncode == 0, good.stderr
    # As if the run's data set had been prepared elsewhere.
    path = trained / "config.json"
    c = json.loads(path.read_text())
    path.write_text(json.dumps(c | {"data": c["data"] | {"name": "mnist"}}))
    flags = [f"--data_dir={tmp_path}/moved", "--tasks=classification", "--v=1"]
    done = command(f"--workdir={trained}", *flags)
    path.write_text(json.dumps(c))
    assert done.returncode == 1
    assert "Traceback" in done.stderr and "in compute" in done.stderr
    numbers = programs.results(trained)["classification"]
    assert numbers["accuracy"] is not None
    assert "moved does not exist" in numbers["last_error"]["error"]
    assert "accuracy" in done.stdout and "failed:" in done.stdout
