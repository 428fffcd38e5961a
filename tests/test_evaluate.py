"""What an evaluation keeps and what fails, on a small classifier of the digits."""

import json
import pathlib

import numpy as np
import pytest
from eval_runs import make_run, small_config

from ebmjax import rundir
from ebmjax.eval import calibration
from ebmjax.eval import evaluate as evaluation
from ebmjax.eval.result import Progress, Result, merge
from ebmjax.eval.task import Measure, Task
from ebmjax.eval.tasks import classification


@pytest.fixture
def run(tmp_path):
    return make_run(tmp_path)


PROGRESS = Progress()


# --- evaluate: what is kept, what fails ----------------------------


def test_classification_is_what_calibration_says_of_the_logits(run):
    numbers = evaluation.evaluate(run, tasks=("classification",))["classification"]
    test = run.splits().test
    logits = run.logits(test.image)
    assert numbers["num_images"] == len(test.label) == 360
    assert numbers["accuracy"] == np.mean(logits.argmax(-1) == test.label) > 0.9
    assert numbers["nll"] == calibration.nll_from_logits(logits, test.label)
    assert numbers["ece"] == calibration.ece(
        calibration.softmax(logits), test.label, 15
    )
    assert "noised" not in numbers and "top5_accuracy" not in numbers
    stored = json.loads(pathlib.Path(run.workdir, "eval.json").read_text())
    assert stored["classification"] == numbers
    assert stored["run"]["step"] == numbers["step"] == 7


def test_noise_at_test_time_is_a_second_row(run):
    run.config.eval.noise_std = 2.0
    numbers = evaluation.evaluate(run, tasks=["classification"])["classification"]
    assert numbers["noised"]["noise_std"] == 2.0
    assert numbers["noised"]["accuracy"] < numbers["accuracy"] - 0.1


def test_a_second_call_keeps_the_tasks_that_are_there(run):
    before = evaluation.evaluate(run, tasks=["calibration"])
    after = evaluation.evaluate(run, tasks=["classification"])
    assert after["calibration"] == before["calibration"]
    assert "accuracy" in after["classification"]


def test_a_task_that_fails_says_why_and_leaves_the_others_whole(run, monkeypatch):
    def broken(run, progress):
        raise RuntimeError("no picture of a cat")

    monkeypatch.setitem(evaluation.TASKS, "attacks", Task(broken))
    results = evaluation.evaluate(run, tasks=["attacks", "classification"])
    assert results["attacks"]["error"] == "RuntimeError: no picture of a cat"
    assert list(evaluation.failures(results)) == ["attacks"]
    assert results["classification"]["accuracy"] > 0.9
    assert "no picture of a cat" in evaluation.table(results)
    page = pathlib.Path(run.workdir, "report.html").read_text()
    assert "no picture of a cat" in page and "360 test examples" in page


def test_an_unknown_task_is_named_before_anything_is_done(run):
    with pytest.raises(
        ValueError, match="unknown evaluation task 'ece'; expected classification"
    ):
        evaluation.evaluate(run, tasks=["ece"])
    assert not pathlib.Path(run.workdir, "eval.json").exists()


def test_a_run_directory_that_is_none_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="not a run directory"):
        evaluation.evaluate(tmp_path / "nowhere")


def test_what_is_not_finite_is_null_in_json():
    text = evaluation.to_json(
        {"a": np.array([1.0, np.nan]), "b": (np.inf, np.int64(3))}
    )
    assert json.loads(text) == {"a": [1.0, None], "b": [None, 3]}


def test_a_damaged_eval_json_is_named(tmp_path):
    (tmp_path / "eval.json").write_text("{")
    with pytest.raises(ValueError, match="eval.json is not JSON"):
        evaluation.read(tmp_path)


def test_the_same_seed_gives_the_same_numbers_and_another_one_others(tmp_path):
    def nll(seed):
        c = small_config()
        c.seed, c.eval.noise_std = seed, 0.5
        result = classification.compute(make_run(tmp_path, c), PROGRESS)
        return result.numbers["noised"]["nll"]

    assert nll(0) == nll(0) != nll(1)


# --- in words -----------------------------------------------------


def test_table_gives_per_cent(run):
    results = evaluation.evaluate(run, tasks=["classification"])
    accuracy = results["classification"]["accuracy"]
    assert f"{accuracy:.2%}" in evaluation.table(results)


# --- tasks from outside the package ------------------------------------------------


def stored(run):
    return json.loads(pathlib.Path(run.workdir, "eval.json").read_text())


def test_an_own_task_needs_only_what_it_computes(run):
    def sizes(run, progress):
        logits = run.logits(run.splits().test.image)
        return {"logit_norm": np.linalg.norm(logits, axis=1).mean(), "names": ["a"]}

    results = evaluation.evaluate(run, tasks={"sizes": Task(sizes)})
    assert results == stored(run) and set(results) == {"run", "sizes"}
    assert results["sizes"]["logit_norm"] > 0 and results["sizes"]["names"] == ["a"]
    value = f"{results['sizes']['logit_norm']:.3f}"
    assert evaluation.table(results).split() == ["sizes:", "logit_norm", value]
    page = pathlib.Path(run.workdir, "report.html").read_text()
    assert "logit_norm" in page


def test_an_own_task_may_say_how_it_is_shown(run):
    task = Task(
        lambda run, progress: Result({"x": 3}, {"x.txt": b"three"}),
        title="Sizes of things",
        measures=lambda numbers: [Measure("size", numbers["x"] / 100, "%", "higher")],
        section=lambda numbers, folder: None,
    )
    results = evaluation.evaluate(run, tasks={"sizes": task})
    assert evaluation.table(results, {"sizes": task}) == "size  3.00%"
    assert pathlib.Path(run.workdir, "eval", "x.txt").read_bytes() == b"three"
    assert "Sizes of things" in pathlib.Path(run.workdir, "report.html").read_text()


@pytest.mark.parametrize(
    "tasks, sentence",
    [
        ({"run": Task(dict)}, "expected a name other than 'run'"),
        ({"mine": dict}, "tasks\\['mine'\\] is .* expected .* ebmjax.eval.task.Task"),
    ],
)
def test_what_is_no_task_is_refused(run, tasks, sentence):
    with pytest.raises(ValueError, match=sentence):
        evaluation.evaluate(run, tasks=tasks)


@pytest.mark.parametrize(
    "result, sentence",
    [
        (Result({}, {"../x.png": b""}), "'../x.png' is not the name of a file"),
        (Result({"step": 3}), "cannot be called {'step'}"),
        (Result({"x": object()}), "not JSON serializable"),
    ],
)
def test_results_that_cannot_be_stored_fail_their_task(run, result, sentence):
    task = Task(lambda run, progress: result)
    results = evaluation.evaluate(run, tasks={"mine": task})
    assert sentence in evaluation.failures(results)["mine"]


def test_a_number_may_be_called_error(run):
    task = Task(
        lambda run, progress: {"error": 0.03, "by_class": {"cat": {"error": 1}}}
    )
    results = evaluation.evaluate(run, tasks={"mine": task})
    assert not evaluation.failures(results)
    assert "mine: error " in evaluation.table(results)


def test_the_tasks_of_the_config_are_those_evaluated_by_default(run):
    run.config.eval.tasks = ("classification",)
    assert set(evaluation.evaluate(run)) == {"run", "classification"}


# --- failures -------------------------------------------------------------------


def broken(run, progress):
    raise KeyError("no_such_key")


def test_a_failed_evaluation_keeps_the_numbers_that_were_there(run, monkeypatch):
    good = evaluation.evaluate(run, tasks=["classification"])["classification"]
    with monkeypatch.context() as patch:
        task = evaluation.TASKS["classification"]._replace(compute=broken)
        patch.setitem(evaluation.TASKS, "classification", task)
        results = evaluation.evaluate(run, tasks=["classification"])
    again = results["classification"]
    assert again["accuracy"] == good["accuracy"] and again["files"] == good["files"]
    assert again["last_error"]["error"] == "KeyError: 'no_such_key'"
    assert stored(run) == results
    assert evaluation.failures(results) == {"classification": "KeyError: 'no_such_key'"}
    table = evaluation.table(results)
    assert f"{good['accuracy']:.2%}" in table and "failed: KeyError" in table
    page = pathlib.Path(run.workdir, "report.html").read_text()
    assert "360 test examples" in page and "no_such_key" in page
    results = evaluation.evaluate(run, tasks=["classification"])
    assert not evaluation.failures(results) and results["classification"]["accuracy"]
    assert "last_error" not in results["classification"]


def test_an_item_that_fails_keeps_what_it_had():
    good = {"sets": {"a": {"scores": 1}, "b": {"scores": 2}}, "step": 3, "settings": {}}
    bad = {"sets": {"a": {"error": "gone"}, "b": {"scores": 4}}, "step": 5}
    once = merge(good, bad)
    assert once["sets"]["b"] == {"scores": 4}
    kept = {"scores": 1, "step": 3, "settings": {}}
    assert once["sets"]["a"] == {"error": "gone", "previous": kept}
    assert merge(once, bad)["sets"]["a"] == once["sets"]["a"]
    assert merge(once, good) == good
    assert merge({}, bad) == bad and merge({"skipped": "why"}, bad) == bad


def test_the_traceback_of_a_failure_is_logged_at_debug_level(run, caplog):
    with caplog.at_level("DEBUG"):
        evaluation.evaluate(run, tasks={"mine": Task(broken)})
    assert "Traceback" in caplog.text and "in broken" in caplog.text


def test_failures_of_tasks_that_were_not_asked_for_do_not_count(run):
    results = evaluation.evaluate(run, tasks={"mine": Task(broken)})
    assert evaluation.failures(results, ["classification"]) == {}


def test_logits_that_are_not_finite_fail_what_needs_them(tmp_path):
    run = make_run(tmp_path)
    run.model.variables[0]["w"] *= np.nan
    results = evaluation.evaluate(run, tasks=["classification", "calibration"])
    reason = "ValueError: the logits of 360 of 360 examples are not finite"
    for name in ("classification", "calibration"):
        assert results[name]["error"].startswith(reason)


# --- several evaluations at once, and what cannot be written -----------------------


def test_what_another_program_writes_meanwhile_stays(run):
    def slow(run, progress):
        evaluation.evaluate(run, tasks=["classification"])  # as another program would
        return {"x": 1}

    results = evaluation.evaluate(run, tasks={"slow": Task(slow)})
    assert set(results) == set(stored(run)) == {"run", "slow", "classification"}


def test_a_run_directory_that_cannot_be_written_is_noticed_first(run, monkeypatch):
    events = []

    def refuse(workdir):
        events.append("checked")
        raise PermissionError("Permission denied")

    def compute(run, progress):
        events.append("computed")
        return {"x": 1}

    monkeypatch.setattr(rundir, "check_writable", refuse)
    results = evaluation.evaluate(run, tasks={"mine": Task(compute)})
    assert events == ["checked", "computed"] and results["mine"]["x"] == 1
    assert "Permission denied" in evaluation.failures(results, ["mine"])["saving"]
    assert "mine: x" in evaluation.table(results)
    assert not pathlib.Path(run.workdir, "eval.json").exists()


def test_a_full_disk_loses_no_numbers(run, monkeypatch):
    def full(path, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(rundir, "write", full)
    results = evaluation.evaluate(run, tasks=["classification"])
    assert results["classification"]["accuracy"] > 0.9
    assert "No space left" in evaluation.failures(results)["saving"]
    assert "No space left" in evaluation.table(results)


def test_settings_are_with_the_numbers(run):
    results = evaluation.evaluate(run, tasks={"ood": Task(lambda *_: {"x": 1})})
    settings = results["ood"]["settings"]
    assert settings["num_images"] == 50 and settings["sets"]
    assert settings["checkpoint"] == "last" and settings["ema"] is False
    numbers = {"step_size": 1.0, "noise_std": 0.01, "clip_grad": 0.0, "clip_x": 0.0}
    assert settings["sgld"] == numbers
