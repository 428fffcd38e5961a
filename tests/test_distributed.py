"""Several processes, which really run, are one program.

Here they have CPU devices, two processes of two for one of four; the devices of
this process, of which there are four, give the numbers to compare with.
"""

import shutil
import signal

import chex
import digits_mlp
import jax
import numpy as np
import programs
import pytest
from programs import CLASSIFIER, LONG, NO_EVAL
from test_train import numbers_of, state_of

from ebmjax import runs, train
from ebmjax.eval import evaluate as evaluation
from ebmjax.eval import fit_features

pytestmark = pytest.mark.slow
SMALL_ATTACK = (
    *("--eval.attacks.num_images=8", "--eval.attacks.num_steps=2"),
    *("--eval.attacks.refine_images=0", "--eval.attacks.distance_rounds=0"),
    *("--eval.attacks.distal_steps=2", "--eval.attacks.norms=linf"),
)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """A run by this process with its four devices."""
    workdir = tmp_path_factory.mktemp("alone")
    train.fit(digits_mlp.get_config(), str(workdir))
    return workdir


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """The same by two processes of two devices, half of it and then the rest."""
    workdir = tmp_path_factory.mktemp("together")
    two = dict(devices=2, processes=2)
    first = programs.run(workdir, "--config.num_steps=4", NO_EVAL, **two)
    shutil.copytree(workdir, workdir.with_name("half"))
    second = programs.run(workdir, **two)
    assert "step 2/4" in first and "step 6/8" in second and "step 2/" not in second
    return workdir


def trained(alone, tmp_path):
    """A copy that has not been evaluated."""
    leave_out = shutil.ignore_patterns("eval*")
    return shutil.copytree(alone, tmp_path / "run", ignore=leave_out)


def assert_same_run(a, b):
    """Numbers of the log, and all of the state."""
    assert_close(numbers_of(a), numbers_of(b))
    assert_close(state_of(a), state_of(b))


def assert_close(a, b):
    """Numbers nearly, and all else exactly."""
    text = lambda tree: jax.tree.map(lambda x: x if isinstance(x, str) else 0, tree)  # noqa: E731
    rest = lambda tree: jax.tree.map(lambda x: 0 if isinstance(x, str) else x, tree)  # noqa: E731
    assert text(a) == text(b)
    chex.assert_trees_all_close(rest(a), rest(b), rtol=1e-4, atol=1e-5)


def test_two_processes_that_were_interrupted_are_one(alone, together):
    assert_same_run(alone, together)


def test_two_processes_forget_recent_steps_together(tmp_path):
    """Of a config that changes what the loss is: only process 0 need have seen it."""
    flags = ["--config.recovery.skip_sigma=50", NO_EVAL]
    two = dict(devices=2, processes=2)
    programs.run(tmp_path, "--config.num_steps=4", *flags, **two)
    flags.append("--config.optimizer.sam_rho=0.01")
    programs.run(tmp_path, "--config.num_steps=6", *flags, **two)
    assert state_of(tmp_path)[1]["guard"]["num_good"] == 2


def test_two_processes_evaluate_as_one(alone, together):
    c = digits_mlp.get_config()
    found = evaluation.evaluate(
        runs.load_with_config(str(alone), c), tasks=c.eval.tasks
    )
    for part in c.eval.tasks:
        ours, theirs = found[part], programs.results(together)[part]
        for key in ("seconds", "settings"):
            ours.pop(key), theirs.pop(key)
        assert_close(ours, theirs)


def test_two_processes_compute_features_once_and_attack_together(alone, tmp_path):
    run = trained(alone, tmp_path)
    flags = [
        *("--tasks=ood,energies,counterfactuals", "--eval.batch_size=200"),
        *("--eval.ood.sets='uniform'", "--eval.ood.refine_steps=0"),
        *("--eval.energies.num_images=20", "--eval.energies.num_steps=2"),
        "--eval.counterfactuals.num_steps=2",
    ]
    programs.run(run, *flags, evaluation=True, processes=2)
    first, file = programs.results(run), run / "eval" / fit_features.FILE
    written = file.stat().st_mtime_ns
    programs.run(run, *flags, evaluation=True, processes=2)
    assert file.stat().st_mtime_ns == written
    second = programs.results(run)
    for results in (first, second):
        for task in ("ood", "energies", "counterfactuals"):
            del results[task]["seconds"]
    assert_close(first, second)


def test_two_processes_run_autoattack_as_one(alone, tmp_path):
    run = trained(alone, tmp_path)
    settings = {"num_images": 24, "num_steps": 2, "norms": ("linf",)}
    settings |= {"eps_linf": (4.0,), "autoattack_eps_linf": (128.0,)}
    settings |= {"refine_images": 0, "distance_rounds": 0, "distal_steps": 0}
    flags = [f"--eval.attacks.{key}={value}" for key, value in settings.items()]
    programs.run(run, "--tasks=attacks", *flags, evaluation=True, processes=2)
    loaded = runs.load(str(run))
    loaded.config.eval.attacks.update(settings)
    found = programs.results(run), evaluation.evaluate(loaded, tasks=["attacks"])
    rows = [x["attacks"]["norms"]["linf"]["autoattack"][0] for x in found]
    for row in rows:
        del row["seconds"]
    assert rows[0] == rows[1]
    assert rows[0]["accuracy"] < rows[0]["accuracies"]["clean"]


def test_processes_with_different_settings_do_not_evaluate(alone, tmp_path):
    run = trained(alone, tmp_path)
    flags = {1: ["--eval.ood.sets=gaussian"]}
    told = programs.run(
        run, "--tasks=ood", evaluation=True, processes=2, different=flags, code=1
    )
    assert told.count("the config of processes [1] is not that of process 0") == 2
    assert not (run / "eval.json").exists()


def test_both_do_without_a_data_set_that_one_lacks(alone, tmp_path):
    run = trained(alone, tmp_path)
    for i in (0, 1):
        (tmp_path / f"home{i}").mkdir()
    images = np.zeros((20, 8, 8, 1), np.uint8)
    np.savez(tmp_path / "home0" / "black.npz", image=images)
    programs.run(
        run,
        "--tasks=ood,classification",
        "--eval.ood.sets='~/black.npz','uniform'",
        "--eval.ood.num_images=20",
        evaluation=True,
        processes=2,
        surroundings={i: {"HOME": str(tmp_path / f"home{i}")} for i in (0, 1)},
        code=1,
    )
    found = programs.results(run)
    assert "accuracy" in found["classification"]
    black, uniform = (found["ood"]["sets"][name] for name in ("~/black.npz", "uniform"))
    assert "process 1 of 2" in black["error"] and "black.npz" in black["error"]
    assert "log_density" in uniform["scores"]


def test_what_fails_in_one_evaluating_process_ends_both(alone, tmp_path):
    run = trained(alone, tmp_path)
    (tmp_path / "foolbox.py").touch()
    surroundings = {1: {"PYTHONPATH": str(tmp_path)}}
    flags = ["--tasks=attacks", "--eval.attacks.crosscheck", *SMALL_ATTACK]
    how = dict(evaluation=True, processes=2, surroundings=surroundings)
    with programs.started(run, *flags, **how) as ours:
        codes = [program.wait(timeout=120) for program in ours]
        told = [program.told() for program in ours]
    assert 0 not in codes and codes[1] == 1, told
    reason = "evaluation task attacks failed: module 'foolbox' has no"
    assert reason in told[1] and "This was process 1 of several" in told[1]
    assert not (run / "eval.json").exists()


def test_numbers_that_one_process_cannot_write_end_both_and_are_printed(
    alone, tmp_path
):
    run = trained(alone, tmp_path)
    (run / "eval").touch()  # where the folder of pictures should be
    flags = ["--tasks=classification"]
    with programs.started(run, *flags, evaluation=True, processes=2) as ours:
        codes = [program.wait(timeout=120) for program in ours]
        told = ours[0].told()
    assert codes == [1, 1], told
    assert "cannot be written" in told and "accuracy" in told
    assert not (run / "eval.json").exists()


def test_one_process_goes_on_where_two_stopped(alone, together):
    half = together.with_name("half")
    whole = shutil.copytree(half, half.with_name("whole"))
    train.fit(digits_mlp.get_config(), str(whole))
    assert_same_run(alone, whole)


@pytest.mark.parametrize("processes", [1, 2])
def test_four_devices_checkpoint_goes_on_with_two(processes, together, tmp_path):
    workdir = shutil.copytree(together.with_name("half"), tmp_path / "run")
    how = dict(devices=2 // processes, processes=processes)
    told = programs.run(workdir, NO_EVAL, **how)
    assert "resharding the chains of 4 devices to 2" in told
    assert runs.load(workdir).step == 8
    stored = state_of(workdir)[1]["chains"]["samples"]
    assert stored.shape == (2, 200, 8, 8, 1)


def test_two_processes_share_one_state(tmp_path):
    wide = "--config.model.features=(64, 64)"
    programs.run(tmp_path / "whole", NO_EVAL, wide, devices=4)
    spread = "--config.parallel.fsdp"
    programs.run(tmp_path / "spread", NO_EVAL, wide, spread, devices=2, processes=2)
    assert_same_run(tmp_path / "whole", tmp_path / "spread")


def test_sigterm_to_one_of_them_saves_all(tmp_path):
    workdir = tmp_path / "run"
    with programs.started(workdir, LONG, CLASSIFIER, devices=2, processes=2) as ours:
        programs.until(lambda: programs.log_length(workdir) > 3, ours)
        ours[1].send_signal(signal.SIGTERM)
        codes = [program.wait(timeout=60) for program in ours]
        told = ours[0].told()
    assert codes == [75, 75], told
    step = runs.load(workdir).step
    assert f"saved at step {step} after SIGTERM; run again to resume" in told
    assert numbers_of(workdir)[-1]["step"] <= step


@pytest.mark.parametrize("killed", [0, 1])
def test_the_death_of_one_ends_the_other(killed, tmp_path):
    workdir = tmp_path / "run"
    with programs.started(workdir, LONG, CLASSIFIER, processes=2) as ours:
        programs.until(lambda: programs.log_length(workdir) > 3, ours)
        ours[killed].kill()
        other = ours[1 - killed]
        assert other.wait(timeout=60) not in (0, 75)
        told = other.told()
    assert "another one failed" in told or "another task died" in told


def test_a_process_whose_others_do_not_come_says_so(tmp_path):
    for lone in (0, 1):
        with programs.started(
            tmp_path / "run", "--join_timeout=2", processes=2
        ) as ours:
            ours[1 - lone].kill()
            assert ours[lone].wait(timeout=60) == 1
            (line,) = ours[lone].told().strip().splitlines()
        assert "the other processes did not join within 2 s" in line


def test_processes_with_different_configs_do_not_start(tmp_path):
    different = {1: ["--config.seed=1"]}
    told = programs.run(tmp_path / "run", processes=2, different=different, code=1)
    assert told.count("the config of processes [1] is not that of process 0") == 2
    assert not (tmp_path / "run").exists()


def test_two_processes_fall_back_from_a_damaged_checkpoint(alone, together):
    damaged = shutil.copytree(together, together.with_name("damaged"))
    for file in (damaged / "checkpoints/8/state/ocdbt.process_1").rglob("*"):
        if file.is_file() and file.stat().st_size > 1000:
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    pmap = "--config.parallel.method=pmap"  # what was left is shard_map's
    told = programs.run(damaged, NO_EVAL, pmap, devices=2, processes=2)
    assert told.count("checkpoint 8 cannot be read") == 2
    assert_same_run(alone, damaged)
