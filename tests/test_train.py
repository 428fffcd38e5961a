import json
import pathlib
import signal

import chex
import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from ebmjax import (
    checkpoint,
    config,
    plan,
    processes,
    recovery,
    rundir,
    runs,
    train,
    writers,
)

OBJECTIVES = {
    "classifier": {},
    "ng_ebm": {"objective.energy_variance": 1.0, "objective.approximate_mass": 0.1},
    "jem": {"objective.p_x": 1.0},
    "jem_class_conditional": {"objective.p_x": 1.0, "sgld.class_conditional": True},
    "jem_joint": {"objective.p_x_y": 1.0},
    "ebm": {"objective.cross_entropy": 0.0, "objective.p_x": 1.0},
    "everything": {
        "objective.p_x": 0.5,
        "objective.p_x_y": 0.5,
        "objective.energy_variance": 0.1,
        "objective.approximate_mass": 0.1,
        "objective.contrast": 0.1,
        "objective.adversarial": 0.1,
        "objective.outliers": 0.1,
        "hdge.queue_size": 40,
        "data.outliers": "digits@test",
    },
    "semi_supervised": {"objective.p_x": 1.0, "data.labels_per_class": 2},
    "separate_streams": {"objective.p_x": 1.0, "data.separate_streams": True},
    "clean_generative_stream": {
        "objective.p_x": 1.0,
        "objective.mean_energy_l2": 0.1,
        "data.separate_streams": True,
        "data.generative_augment": False,
        "data.generative_batch_size": 16,
        "sgld.init": "class_gaussian",
    },
    "starts_of_each_class": {
        "objective.p_x": 0.5,
        "objective.p_x_y": 0.5,
        "sgld.init": "class_gaussian",
    },
    "hdge": {"objective.contrast": 1.0, "hdge.queue_size": 40},
    "adversarial": {"objective.adversarial": 1.0, "adversarial.num_steps": 2},
    "outliers": {
        "objective.outliers": 0.1,
        "data.outliers": "digits@test",
        "data.outliers_batch_size": 16,
    },
    "many_epochs": {"data.num_valid": 1_350},  # 87 images, two steps an epoch
}


def small(**changes):
    """An MLP on the digits for eight steps, then `changes` ("__" for a dot)."""
    c = config.default()
    values = {
        "data.name": "digits",
        "data.num_valid": 60,
        "data.flip": False,
        "data.pad": 0,
        "model.name": "mlp",
        "model.features": (16,),
        "num_steps": 8,
        "batch_size": 32,
        "sgld.num_steps": 2,
        "sgld.buffer_size": 400,
        "optimizer.warmup_steps": 0,
        "optimizer.learning_rate": 1e-2,
        "every.log": 3,
        "every.checkpoint": 4,
        "every.samples": 4,
        "tensorboard": False,
    }
    changes = {key.replace("__", "."): value for key, value in changes.items()}
    for key, value in (values | changes).items():
        config.assign(c, key, value)
    return c


def state_of(workdir):
    """The newest checkpoint, all of it, as NumPy."""
    with checkpoint.manager(workdir, read_only=True) as checkpoints:
        newest = checkpoints.latest_step()
        stored = checkpoints.item_metadata(newest)["state"].tree
        numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), stored)
        args = ocp.args.PyTreeRestore(stored, restore_args=numpy)
        restored = checkpoints.restore(newest, args=ocp.args.Composite(state=args))
        return newest, restored["state"]


def numbers_of(workdir):
    """metrics.jsonl without what depends on the clock."""
    lines = list(writers.read(pathlib.Path(workdir) / writers.METRICS))
    return [{k: v for k, v in x.items() if k != "images_per_s"} for x in lines]


def interrupt_at(monkeypatch, step):
    monkeypatch.setattr(processes, "agreed_to_stop", lambda now, signalled: now == step)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_an_interrupted_run_goes_on_as_if_nothing_had_been(name, tmp_path, monkeypatch):
    c = small(**OBJECTIVES[name], optimizer__ema_decay=0.9)
    whole, halved = str(tmp_path / "whole"), str(tmp_path / "halved")
    train.fit(c, whole)
    for stop in (2, 5):  # neither of them a step at which something is due
        interrupt_at(monkeypatch, stop)
        with pytest.raises(train.Interrupted, match=f"saved at step {stop}"):
            train.fit(c, halved)
    monkeypatch.undo()
    train.fit(c, halved)
    assert state_of(whole)[0] == 8
    chex.assert_trees_all_equal(state_of(whole), state_of(halved))
    assert numbers_of(whole) == numbers_of(halved)
    assert [x["step"] for x in numbers_of(whole)] == [3, 4, 6, 8, 8]


def test_a_spread_run_goes_on_whole(tmp_path, monkeypatch):
    shape = dict(model__features=(64, 64), optimizer__ema_decay=0.9, eval__ema=True)
    c, spread = small(**shape), small(**shape, parallel__fsdp=True)
    train.fit(c, str(tmp_path / "whole"))
    interrupt_at(monkeypatch, 5)
    with pytest.raises(train.Interrupted):
        train.fit(spread, str(tmp_path / "spread"))
    monkeypatch.undo()
    train.fit(c, str(tmp_path / "spread"))
    for found in (state_of, numbers_of):
        whole, other = (
            jax.tree.leaves(found(tmp_path / x)) for x in ("whole", "spread")
        )
        for a, b in zip(whole, other, strict=True):
            if isinstance(a, str):
                assert a == b
            else:
                np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_a_run_that_is_killed_goes_on_from_its_checkpoint(tmp_path, monkeypatch):
    c = small(objective__p_x=1.0)
    train.fit(c, str(tmp_path / "whole"))
    write = writers.JsonLines.write

    def be_killed(writer, step, split, metrics):
        write(writer, step, split, metrics)
        if step == 6:
            raise KeyboardInterrupt

    monkeypatch.setattr(writers.JsonLines, "write", be_killed)
    with pytest.raises(KeyboardInterrupt):
        train.fit(c, str(tmp_path / "killed"))
    monkeypatch.undo()
    assert state_of(tmp_path / "killed")[0] == 4  # with one step of the meter's three
    train.fit(c, str(tmp_path / "killed"))
    chex.assert_trees_all_equal(
        state_of(tmp_path / "whole"), state_of(tmp_path / "killed")
    )
    assert numbers_of(tmp_path / "whole") == numbers_of(tmp_path / "killed")


def test_what_is_saved_is_what_was_when_it_was_saved(tmp_path):
    """The host's part is written later, while the meter already goes on."""
    sums = {"loss": 1.0}
    c = small()
    state = plan.make_plan(c).make_state()
    with checkpoint.manager(str(tmp_path)) as checkpoints:
        checkpoint.save(checkpoints, 1, state, {"sums": sums})
        sums["loss"] = 2.0
    with checkpoint.manager(str(tmp_path), read_only=True) as checkpoints:
        _, host = checkpoint.restore_model(checkpoints, 1)
    assert host == {"sums": {"loss": 1.0}}


def test_a_run_that_lies_on_the_host_is_the_one_on_the_device(tmp_path):
    train.fit(small(), str(tmp_path / "device"))
    train.fit(small(data__resident_mib=0), str(tmp_path / "host"))
    chex.assert_trees_all_equal(
        state_of(tmp_path / "device"), state_of(tmp_path / "host")
    )


def test_it_learns(tmp_path):
    c = small(num_steps=300, every__log=100, every__checkpoint=300)
    train.fit(c, str(tmp_path))
    first, *_, last = (x for x in numbers_of(tmp_path) if x["split"] == "train")
    assert last["accuracy"] > max(0.9, first["accuracy"])
    assert numbers_of(tmp_path)[-1]["accuracy"] > 0.85  # of validation


def test_a_few_labels_are_learned_from_beside_many_images(tmp_path):
    c = small(data__labels_per_class=2, objective__energy_variance=0.01, num_steps=60)
    train.fit(c, str(tmp_path))
    # Of 20 images all labels are soon known: the cross-entropy saw no others.
    last = [x for x in numbers_of(tmp_path) if x["split"] == "train"][-1]
    assert last["cross_entropy"] < 0.3


def test_a_diverging_run_goes_back_and_recovers(tmp_path):
    workdir = str(tmp_path)
    train.fit(small(num_steps=4), workdir)  # to have something to go back to
    c = small(
        optimizer__learning_rate=1e9,
        optimizer__clip_norm=0.0,
        recovery__lr_factor=1e-12,
        num_steps=12,
    )
    train.fit(c, workdir)
    (event,) = (x for x in numbers_of(workdir) if x["split"] == "event")
    assert event["step"] == 4 and event["recoveries"] == 1
    assert 5 <= event["diverged_at"] <= 12
    assert event["term"] in ("cross_entropy", "grad_norm")
    run = runs.load(workdir)
    assert run.step == 12 and run.recoveries == 1
    assert np.isfinite(run.logits(run.splits().test.image)).all()


def test_divergence_without_a_checkpoint_starts_afresh(tmp_path):
    c = small(
        optimizer__learning_rate=1e9, recovery__lr_factor=1e-12, every__checkpoint=8
    )
    train.fit(c, str(tmp_path))
    (event,) = (x for x in numbers_of(tmp_path) if x["split"] == "event")
    assert event["step"] == 0


def test_every_divergence_is_remembered_and_no_checkpoint_lost(tmp_path):
    train.fit(small(num_steps=8), str(tmp_path))  # checkpoints 4 and 8
    c = small(
        num_steps=16,
        optimizer__learning_rate=1e9,
        recovery__lr_factor=1.0,
        recovery__max_recoveries=2,
    )
    for _ in range(2):  # the second start finds that there is nothing left to try
        with pytest.raises(recovery.Diverged):
            train.fit(c, str(tmp_path))
    events = [x for x in numbers_of(tmp_path) if x["split"] == "event"]
    assert [(x["step"], x["recoveries"]) for x in events] == [(8, 1), (4, 2)]
    assert (tmp_path / "diverged-8").exists()
    assert (tmp_path / "checkpoints" / "4").exists()
    # What was put aside is whole: back in its place, it is the run's.
    (tmp_path / "diverged-8").rename(tmp_path / "checkpoints" / "8")
    assert runs.load(tmp_path).step == 8


def test_a_run_of_bad_chains_goes_back_and_trains_on(tmp_path, monkeypatch):
    c = small(objective__p_x=1.0, num_steps=12)
    check = recovery.check_metrics

    def spoilt(at, metrics, max_loss):
        if at == 7 and not writers.events(tmp_path):
            metrics = metrics | {"energy_model": float("nan")}
        check(at, metrics, max_loss)

    monkeypatch.setattr(recovery, "check_metrics", spoilt)
    train.fit(c, str(tmp_path))
    (event,) = writers.events(tmp_path)
    assert (event["step"], event["diverged_at"]) == (4, 7)
    assert (event["term"], event["value"]) == ("energy_model", "nan")
    assert [x["step"] for x in numbers_of(tmp_path) if x["split"] == "train"] == [
        3,
        6,
        9,
        12,
    ]
    assert runs.load(tmp_path).recoveries == 1


def test_a_signal_during_the_last_of_it_ends_it_too(tmp_path, monkeypatch):
    validate = train.validate

    def and_be_told_to_stop(*args):
        signal.raise_signal(signal.SIGTERM)
        return validate(*args)

    monkeypatch.setattr(train, "validate", and_be_told_to_stop)
    with pytest.raises(train.Interrupted, match="saved at step 4"):
        train.fit(small(num_steps=4), str(tmp_path))
    assert state_of(tmp_path)[0] == 4


def test_a_start_that_failed_does_not_keep_its_directory(tmp_path):
    with pytest.raises(ValueError, match="labels_per_class=900"):
        train.fit(small(data__labels_per_class=900), str(tmp_path))
    (tmp_path / "config.json").write_text(config.to_json(small(batch_size=16)))
    train.fit(small(num_steps=1), str(tmp_path))


def test_what_the_screen_shows_is_measured(tmp_path):
    train.fit(small(**OBJECTIVES["everything"], num_steps=3), str(tmp_path))
    lines = {x["split"]: x for x in writers.read(tmp_path / writers.METRICS)}
    line = lines["train"]
    assert set(writers.SHOWN) <= line.keys() | lines["valid"].keys()
    gap = line["energy_data"] - line["energy_model"]
    np.testing.assert_allclose(line["energy_gap"], gap, atol=1e-5)


def test_divergence_without_end_names_step_and_term(tmp_path):
    c = small(
        optimizer__learning_rate=1e9,
        recovery__lr_factor=1.0,
        recovery__max_recoveries=2,
    )
    with pytest.raises(recovery.Diverged, match="diverged at step .: (cross|grad|val)"):
        train.fit(c, str(tmp_path))
    events = [x for x in numbers_of(tmp_path) if x["split"] == "event"]
    assert [x["recoveries"] for x in events] == [1, 2]


def test_the_first_bad_term_is_named_before_their_sum():
    metrics = {"loss": float("nan"), "cross_entropy": 1.0, "p_x": float("inf")}
    with pytest.raises(recovery.Diverged, match="step 7: p_x is inf"):
        recovery.check_metrics(7, metrics, 1e4)
    with pytest.raises(recovery.Diverged, match="energy_data is -20000"):
        recovery.check_metrics(7, {"energy_data": -2e4}, 1e4)
    recovery.check_metrics(7, {"grad_norm": 1e6, "loss": -50.0}, 1e4)


def test_the_best_and_the_last_checkpoints_are_kept(tmp_path):
    c = small(num_steps=20, every__checkpoint=2, checkpoint__keep_last=2)
    train.fit(c, str(tmp_path))
    valid = [x for x in numbers_of(tmp_path) if x["split"] == "valid"]
    best = max(x["accuracy"] for x in valid)
    kept = {int(p.name) for p in (tmp_path / "checkpoints").iterdir()}
    assert {18, 20} <= kept and len(kept) <= 3
    assert best in [x["accuracy"] for x in valid if x["step"] in kept]
    at_best = runs.load(tmp_path, checkpoint="best")
    assert best in [x["accuracy"] for x in valid if x["step"] == at_best.step]


def test_a_damaged_checkpoint_is_put_aside(tmp_path, caplog):
    c = small(num_steps=8)
    train.fit(c, str(tmp_path / "a"))
    train.fit(c, str(tmp_path / "b"))
    for file in (tmp_path / "b/checkpoints/8/state").rglob("*"):
        if file.is_file() and file.stat().st_size > 1000:
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    train.fit(c, str(tmp_path / "b"))
    assert "checkpoint 8 cannot be read" in caplog.text
    assert (tmp_path / "b/damaged-8").exists()
    chex.assert_trees_all_equal(state_of(tmp_path / "a"), state_of(tmp_path / "b"))


def test_a_log_cut_off_in_the_middle_of_a_line_is_mended(tmp_path):
    c = small()
    train.fit(c, str(tmp_path / "a"))
    train.fit(c, str(tmp_path / "b"))
    path = tmp_path / "b" / writers.METRICS
    path.write_text(path.read_text() + '{"step": 9, "spl')
    train.fit(c, str(tmp_path / "b"))
    assert path.read_text().endswith("}\n")
    assert numbers_of(tmp_path / "a") == numbers_of(tmp_path / "b")


def test_pictures_show_ten_chains_of_each_class_in_a_row(tmp_path):
    from PIL import Image

    c = small(**OBJECTIVES["jem_class_conditional"], num_steps=1)
    train.fit(c, str(tmp_path))
    with Image.open(tmp_path / "samples/0000001.png") as picture:
        assert picture.width == picture.height  # ten rows of ten squares
    samples = runs.load(tmp_path).buffer
    assert samples.shape == (400, 8, 8, 1)


def test_a_second_run_in_the_same_place_is_refused(tmp_path):
    c = small()
    with rundir.lock_workdir(tmp_path, c):
        with pytest.raises(ValueError, match="another program is training in"):
            train.fit(c, str(tmp_path))


def test_another_runs_directory_is_refused_and_left_as_it_is(tmp_path):
    train.fit(small(num_steps=1), str(tmp_path))
    before = (tmp_path / "config.json").read_text()
    with pytest.raises(ValueError, match="config.model.features=.16,., not .32,."):
        train.fit(small(model__features=(32,)), str(tmp_path))
    assert (tmp_path / "config.json").read_text() == before


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(batch_size=30), "config.batch_size of 30 does not divide over 4 devices"),
        (dict(batch_size=4000), "4000, but there are 1377 training examples"),
        (dict(data__pad=8), "config.data.pad is 8"),
        (dict(objective__p_x=1.0, sgld__buffer_size=402), "buffer_size is 402"),
        (dict(objective__p_x_y=1.0, sgld__buffer_size=40), "a device's block of 1"),
        (dict(data__generative_batch_size=64), "all terms share one batch"),
        (dict(data__generative_augment=False), "share the batch of the others"),
        (
            dict(
                objective__cross_entropy=0.0,
                objective__adversarial=1.0,
                data__generative_augment=False,
            ),
            "share the batch of the others",
        ),
        (dict(objective__p_x=1.0, sgld__clip_x=0.9), "clip_x is 0.9, .* up to 1,"),
        (
            dict(data__generative_batch_size=30, data__separate_streams=True),
            "config.data.generative_batch_size of 30 does not divide",
        ),
        (
            dict(
                objective__p_x=1.0,
                data__separate_streams=True,
                data__generative_batch_size=404,
            ),
            "a device's block of 100 chains is smaller than its batch of 101",
        ),
        (dict(data__num_valid=0, eval__checkpoint="best"), "needs validation examples"),
    ],
)
def test_sizes_that_do_not_fit_are_told_before_anything_is_written(
    changes, message, tmp_path
):
    with pytest.raises(ValueError, match=message):
        train.fit(small(**changes), str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_sigterm_saves_and_ends(tmp_path, monkeypatch):
    validate = train.validate

    def and_be_told_to_stop(*args):
        signal.raise_signal(signal.SIGTERM)
        return validate(*args)

    monkeypatch.setattr(train, "validate", and_be_told_to_stop)
    with pytest.raises(train.Interrupted) as interrupted:
        train.fit(small(), str(tmp_path))
    assert interrupted.value.number == signal.SIGTERM
    assert state_of(tmp_path)[0] == 5  # told during step 4's validation
    assert json.loads((tmp_path / "config.json").read_text())["num_steps"] == 8
