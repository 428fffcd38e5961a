"""What is saved can be read, or is not believed."""

import os

import numpy as np
import orbax.checkpoint as ocp
import pytest
from test_train import small, state_of

from ebmjax import checkpoint, plan, runs, train


@pytest.fixture(scope="module")
def state():
    """That of a run of `small` before its first step."""
    return plan.make_plan(small()).make_state()


def steps(workdir):
    return sorted(os.listdir(workdir / "checkpoints"))


@pytest.mark.parametrize("name", ["lr[0.1]", "a*b?", "a**", "{a} 'b' %20 #é"])
def test_special_characters_in_the_path_are_only_characters(tmp_path, name):
    workdir = tmp_path / name / "run"
    train.fit(small(num_steps=4, objective__p_x=1.0), str(workdir))
    assert runs.load(workdir).step == 4
    train.fit(small(num_steps=5, objective__p_x=1.0), str(workdir))
    assert state_of(workdir)[0] == 5
    assert steps(workdir) == ["4", "5"]


def test_a_home_directory_is_expanded_by_all_that_writes(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    train.fit(small(num_steps=4, objective__p_x=1.0, tensorboard=True), "~/run")
    assert runs.load("~/run").step == 4
    assert os.listdir() == ["run"] and (tmp_path / "run/samples").exists()


# After the first array that cannot be opened, orbax drops the reads of the others.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_save_that_cannot_be_read_is_an_error_and_the_older_ones_stay(
    tmp_path, state, monkeypatch
):
    with checkpoint.manager(str(tmp_path), keep_last=1) as checkpoints:
        checkpoint.save(checkpoints, 1, state, {"a": 1})
        checkpoint.finish(checkpoints)
        # As orbax merged nothing in a folder whose name was a pattern.
        monkeypatch.setattr(checkpoint._LiteralPath, "glob", lambda *_: iter(()))
        checkpoint.save(checkpoints, 2, state, {"a": 2})
        with pytest.raises(OSError, match="a checkpoint cannot be saved in .* free"):
            checkpoint.finish(checkpoints)
        monkeypatch.undo()
    assert "1" in steps(tmp_path) and "2" not in steps(tmp_path)
    with checkpoint.manager(str(tmp_path), keep_last=1) as checkpoints:
        assert checkpoints.all_steps() == [1]
        checkpoint.save(checkpoints, 2, state, {"a": 2})
    assert steps(tmp_path) == ["2"]


def test_a_step_that_is_not_new_is_an_error(tmp_path, state):
    with checkpoint.manager(str(tmp_path)) as checkpoints:
        checkpoint.save(checkpoints, 2, state, {})
        with pytest.raises(OSError, match="step 2 is not later than the newest"):
            checkpoint.save(checkpoints, 2, state, {})


def test_reading_says_and_changes_nothing(tmp_path, state, caplog):
    with checkpoint.manager(str(tmp_path)) as checkpoints:
        checkpoint.save(checkpoints, 2, state, {"any": ["facts"]})
    (tmp_path / "checkpoints/3.orbax-checkpoint-tmp").mkdir()
    caplog.clear()
    with checkpoint.manager(str(tmp_path), read_only=True) as checkpoints:
        model, host = checkpoint.restore_model(checkpoints, 2)
    assert caplog.text == "" and host == {"any": ["facts"]}
    assert set(model) == set(checkpoint.MODEL) and "opt_state" not in model
    assert steps(tmp_path) == ["2", "3.orbax-checkpoint-tmp"]
    with checkpoint.manager(str(tmp_path / "none"), read_only=True) as checkpoints:
        assert checkpoints.all_steps() == []
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda s: s.replace(ema={"w": np.zeros(3)}), "ema/w is missing"),
        (lambda s: s.replace(opt_state=()), r"opt_state/\S+ is unknown"),
        (
            lambda s: s.replace(step=np.zeros(2, np.int32)),
            r"step has shape \(\), expected \(2,\)",
        ),
        (
            lambda s: s.replace(step=np.float32(0)),
            "step has dtype int32, expected float32",
        ),
    ],
)
def test_a_state_of_another_model_is_told_by_its_first_difference(
    tmp_path, state, change, message
):
    with checkpoint.manager(str(tmp_path)) as checkpoints:
        checkpoint.save(checkpoints, 1, state, {})
        checkpoint.finish(checkpoints)
        checkpoint.check_matches(checkpoints, 1, state)
        with pytest.raises(
            checkpoint.CheckpointMismatchError,
            match=f"^checkpoint does not match the config: {message} .checkpoint 1 in",
        ):
            checkpoint.restore_latest(checkpoints, change(state), num_blocks=1)


def test_damage_and_other_versions_are_told_by_the_checkpoint(
    tmp_path, state, monkeypatch
):
    with checkpoint.manager(str(tmp_path)) as checkpoints:
        checkpoint.save(checkpoints, 1, state, {})
    with checkpoint.manager(str(tmp_path), read_only=True) as checkpoints:
        monkeypatch.setattr(checkpoint, "MODEL", ("params", "new"))
        with pytest.raises(ValueError, match="^checkpoint 1 in .* it has no new$"):
            checkpoint.restore_model(checkpoints, 1)
        monkeypatch.undo()
        for file in (tmp_path / "checkpoints/1/state").rglob("*"):
            if file.is_file():
                file.write_bytes(b"")
        with pytest.raises(OSError, match="^checkpoint 1 in .* cannot be read"):
            checkpoint.restore_model(checkpoints, 1)


def test_resharded_chains_stay_in_the_block_of_their_class():
    # Four devices with two blocks of three chains, the block in the tens.
    samples = np.array(
        [[100 * d + 10 * b + i for b in (1, 2) for i in range(3)] for d in range(4)]
    )
    for num_devices in (1, 2, 3, 4, 6):
        resharded = checkpoint.reshard_chains(samples, num_devices, 2)
        assert resharded.shape == (num_devices, 24 // num_devices)
        first, second = np.split(resharded, 2, axis=1)
        assert (first % 100 // 10 == 1).all() and (second % 100 // 10 == 2).all()
        assert sorted(resharded.ravel()) == sorted(samples.ravel())
    with pytest.raises(ValueError, match="24 chains of 4 devices in 2 blocks do not"):
        checkpoint.reshard_chains(samples, 5, 2)


def test_the_stored_part_of_the_host_is_free_to_grow(tmp_path, state):
    host = {"sums": {"loss": 0.5}, "scaling": {"mean": [0.1, 0.2]}, "names": None}
    with checkpoint.manager(str(tmp_path)) as checkpoints:
        assert isinstance(checkpoints, ocp.CheckpointManager)
        checkpoint.save(checkpoints, 1, state, host)
        checkpoint.finish(checkpoints)
        assert checkpoint.restore_model(checkpoints, 1)[1] == host
