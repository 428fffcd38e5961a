"""AutoAttack as a part of the attacks task, on a small classifier of the digits."""

import dataclasses
import functools
import pathlib
import sys

import numpy as np
import pytest
from eval_runs import make_run, results, small_config

from ebmjax import config, sgld
from ebmjax.eval import evaluate as evaluate_module
from ebmjax.eval import judge, robustness
from ebmjax.eval.autoattack import driver, evaluation, square
from ebmjax.eval.result import Progress
from ebmjax.eval.tasks import attack_headline, attacks_report
from ebmjax.eval.tasks import attacks as attacks_task

slow = pytest.mark.slow


def only_autoattack(workdir, monkeypatch, **eps):
    """A run whose attacks task is a weak PGD and AutoAttack with few queries."""
    monkeypatch.setattr(square, "NUM_QUERIES", 20)
    driver.step_fn.cache_clear()
    c = small_config()
    c.eval.attacks.update(distance_rounds=0, distal_steps=0, refine_steps=())
    c.eval.attacks.update(num_steps=2, batch_size=20, eps_linf=(4.0, 8.0))
    c.eval.attacks.update(**eps)
    return make_run(workdir, c)


@slow
def test_the_rows_are_beside_those_of_pgd(tmp_path, monkeypatch):
    run = only_autoattack(tmp_path, monkeypatch, autoattack_eps_linf=(8.0, 16.0))
    found = evaluate_module.evaluate(run, tasks=["attacks"])
    assert not evaluate_module.failures(found)
    numbers = found["attacks"]
    rows = numbers["norms"]["linf"]["autoattack"]
    assert [row["eps_text"] for row in rows] == ["8/255", "16/255"]
    for row in rows:
        names = ["clean", "APGD-CE", "APGD-T", "FAB-T", "Square"]
        assert list(row["accuracies"]) == names
        left = list(row["accuracies"].values())
        assert left == sorted(left, reverse=True) and left[-1] == row["accuracy"]
        assert left[0] == numbers["clean_accuracy"]
    assert rows[1]["accuracy"] < rows[0]["accuracy"]
    pgd = {
        row["eps_text"]: row["accuracy"] for row in numbers["norms"]["linf"]["sweep"]
    }
    assert rows[0]["accuracy"] <= pgd["8/255"]
    assert numbers["autoattack"] == evaluation.SETTINGS["standard"]
    assert "accuracy at L∞ 16/255, AutoAttack" in evaluate_module.table(found)
    page = pathlib.Path(run.workdir, "report.html").read_text()
    assert "AutoAttack; under PGD" in page and "APGD-T" in page
    assert not list(pathlib.Path(run.workdir, "eval").glob("autoattack_state*"))


@slow
def test_rand_on_chains_that_stand_still_is_between_standard_and_pgd(
    tmp_path, monkeypatch
):
    """Then JEM-k is the classifier, which fewer attacks may spare."""
    eps = dict(autoattack_eps_linf=(8.0,), autoattack_refined=True)
    run = only_autoattack(tmp_path, monkeypatch, **eps)
    run.config.eval.attacks.update(refine_steps=(1,), refine_images=20)
    run.config.eval.attacks.refine_gradients = ("straight_through",)
    run.config.eval.attacks.update(refine_noise_std=0.0, refine_copies=1)
    still = functools.partial(sgld.JEM, step_size=0.0, noise_std=0.0)
    run = dataclasses.replace(run, sampler=still)
    found = evaluate_module.evaluate(run, tasks=["attacks"])
    assert not evaluate_module.failures(found)
    numbers = found["attacks"]
    refined = numbers["refined"]["1"]["norms"]["linf"]
    ((row,),) = refined["autoattack"].values()
    (standard,) = numbers["norms"]["linf"]["autoattack"]
    (pgd,) = (points[-1] for points in refined["gradients"].values())
    assert pgd["eps_text"] == row["eps_text"] == "8/255"
    assert list(row["accuracies"]) == ["clean", "APGD-CE", "APGD-DLR"]
    assert row["accuracies"]["clean"] == numbers["clean_accuracy"]
    assert standard["accuracy"] <= row["accuracy"] <= pgd["accuracy"] < 1
    settings = numbers["autoattack_refined"]
    assert settings["version"] == "rand" and settings["num_draws"] == 20
    name = "JEM-1, accuracy at L∞ 8/255, AutoAttack (rand)"
    assert name in evaluate_module.table(found)
    page = pathlib.Path(run.workdir, "report.html").read_text()
    assert "JEM-1, straight through gradient, AutoAttack (rand)" in page
    assert not list(pathlib.Path(run.workdir, "eval").glob("autoattack_state*"))


class Killed(BaseException):
    """Not caught by anything, as a kill."""


@slow
def test_a_killed_evaluation_is_resumed_after_its_last_batch(tmp_path, monkeypatch):
    run = only_autoattack(tmp_path, monkeypatch, autoattack_eps_linf=(4.0,))
    x = np.asarray(run.splits().test.image[:20] / 127.5 - 1, np.float32)
    target = robustness.Target(run, x, run.splits().test.label[:20], Progress())
    (whole,) = evaluation.autoattack(target, "linf")
    evaluation.forget(run)

    batches, write = [], evaluation._Store.write

    num_before_death = 3

    def write_and_die(self, state, seconds):
        write(self, state, seconds)
        batches.append(int(state.done.max()))
        if len(batches) == num_before_death:
            raise Killed

    monkeypatch.setattr(evaluation._Store, "write", write_and_die)
    with pytest.raises(Killed):
        evaluation.autoattack(target, "linf")
    (resumed,) = evaluation.autoattack(target, "linf")
    assert batches == [1, 2, 3, *range(4, len(batches) + 1)]
    assert resumed["accuracies"] == whole["accuracies"]

    target.run.config.seed += 1  # another evaluation
    num_before_death = 0
    batches.clear()
    evaluation.autoattack(target, "linf")
    assert batches[0] == 1


def test_what_is_stored_outlives_an_evaluation_without_autoattack(
    tmp_path, monkeypatch
):
    run = only_autoattack(tmp_path, monkeypatch, refine_images=0)
    file = tmp_path / "eval" / f"{evaluation.PREFIX}linf_8_255.npz"
    file.parent.mkdir()
    file.write_bytes(b"hours")
    attacks_task.compute(run, Progress())
    assert file.read_bytes() == b"hours"


def shown(**more):
    """The made-up results of an attacks task, with AutoAttack."""
    numbers = results()["attacks"]
    row = {"eps": 8 / 255, "eps_text": "8/255", "accuracy": 0.125}
    row |= {"accuracies": {"clean": 0.8, "Square": 0.125}, "seconds": 3.0}
    numbers["norms"]["linf"]["autoattack"] = [row | {"warnings": []} | more]
    return numbers | {"autoattack": evaluation.SETTINGS["standard"]}


def test_the_headline_is_that_of_autoattack_where_it_ran():
    verdict = attack_headline.robustness_verdict(shown())
    assert verdict.answer == "12.5%"
    assert "AutoAttack; under PGD 25.0%" in verdict.detail
    assert "pyautoattack" not in verdict.detail
    verdict = attack_headline.robustness_verdict(results()["attacks"])
    assert verdict.answer == "25.0%" and "; PGD, 40 steps" in verdict.detail
    both = shown()
    both["norms"]["l2"] = both["norms"]["linf"] | {"autoattack": []}
    verdict = attack_headline.robustness_verdict(both)
    assert verdict.answer == "12.5% / 25.0%"
    assert "AutoAttack (L∞); under PGD 25.0%, which alone ran for L2" in verdict.detail


def test_a_judge_that_finds_more_and_warnings_are_named():
    judged = {"accuracy": 0.05, "seconds": 9.0, "confirmed": False}
    numbers = shown(judge=judged, warnings=["the outputs are random: ..."])
    detail = attack_headline.robustness_verdict(numbers).detail
    assert "pyautoattack finds MORE" in detail and "with warnings" in detail
    table = attack_headline.autoattack_table(numbers, "linf")
    assert "At 8/255 the outputs are random" in table.text
    assert table.head[-2:] == ["pyautoattack", "its seconds"]
    assert table.rows[0].cells[-2:] == ["5.0%", "9"]


def test_an_eps_of_its_own_has_a_column():
    numbers = shown(eps=0.1, eps_text="25.5/255")
    table = attacks_report._table(numbers, "linf")
    assert table.head == ["eps", "0", "4/255", "8/255", "25.5/255"]
    cells = {row.cells[0]: row.cells[1:] for row in table.rows}
    assert cells["AutoAttack"] == ["80.0%", "–", "–", "12.5%"]
    assert attack_headline.headline(numbers["norms"]["linf"], "linf")["pgd"] is None


@pytest.mark.parametrize("num_classes, num_targets", [(5, 4), (10, 9), (100, 9)])
def test_the_targets_are_those_that_there_are(num_classes, num_targets):
    settings = evaluation.settings(num_classes)
    standard = evaluation.SETTINGS["standard"]
    assert settings == standard | {"num_targets": num_targets}
    steps = driver.steps("standard", num_classes)
    assert sum(step.attack == "APGD-T" for step in steps) == num_targets


def test_settings_that_cannot_work_are_refused():
    c = config.default()
    c.eval.attacks.update(norms=("l2",), autoattack_eps_linf=(8.0,))
    with pytest.raises(ValueError, match="autoattack_eps_linf is set, but"):
        config.check(c)
    c = config.default()
    c.eval.attacks.judge = "pyautoattack"
    with pytest.raises(ValueError, match="has nothing to judge"):
        config.check(c)
    c = config.default()
    c.eval.attacks.autoattack_refined = True
    with pytest.raises(ValueError, match="autoattack_refined has no eps; set"):
        config.check(c)
    c.eval.attacks.update(autoattack_eps_l2=(0.5,), refine_images=0)
    with pytest.raises(ValueError, match="has no classifier to attack; set"):
        config.check(c)


def test_a_missing_judge_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyautoattack.autoattack", None)
    eps = dict(autoattack_eps_linf=(8.0,), judge="pyautoattack")
    run = only_autoattack(tmp_path, monkeypatch, **eps)
    with pytest.raises(ImportError, match=r"pip install 'ebmjax\[autoattack\]'"):
        attacks_task.compute(run, Progress())


def test_a_judge_that_fails_leaves_our_numbers_whole(tmp_path, monkeypatch):
    def broken(*args, **options):
        raise RuntimeError("output with shape [8, 3, 2, 1]")

    monkeypatch.setattr(judge, "official_autoattack", broken)
    target = robustness.Target(make_run(tmp_path), None, None, Progress())
    numbers = shown()
    rows = numbers["norms"]["linf"]["autoattack"]
    failed = evaluation._with_judge(target, "linf", rows[0])
    assert failed | {"warnings": []} == rows[0]
    reason = "pyautoattack failed: RuntimeError: output with shape [8, 3, 2, 1]"
    assert failed["warnings"] == [reason]
    judged = {"accuracy": 0.125, "seconds": 9.0, "confirmed": True}
    rows[:] = [failed, rows[0] | {"judge": judged}]
    assert "with warnings" in attack_headline.robustness_verdict(numbers).detail
    table = attack_headline.autoattack_table(numbers, "linf")
    assert f"At 8/255 {reason}." in table.text
    assert [row.cells[-2:] for row in table.rows] == [["–", "–"], ["12.5%", "9"]]


@slow
def test_the_judge_attacks_the_same_images(tmp_path, monkeypatch):
    pytest.importorskip("torch")
    pytest.importorskip("pyautoattack")
    run = only_autoattack(tmp_path, monkeypatch, autoattack_eps_linf=(8.0,))
    test = run.splits().test
    x = np.asarray(test.image[:20] / 127.5 - 1, np.float32)
    target = robustness.Target(run, x, test.label[:20], Progress())
    (row,) = evaluation.autoattack(target, "linf")
    judged = evaluation._judged(target, "linf", row)
    assert judged["confirmed"] and abs(judged["accuracy"] - row["accuracy"]) < 0.051
