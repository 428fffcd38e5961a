"""Trackers: what reaches them, several at once, and what happens when one fails."""

import logging
import os

import numpy as np
import pytest
from test_recipe import tiny_config

import ebmjax
from ebmjax import metrics, rundir, trackers, writers

METHODS = {"write", "images", "histogram", "rewind", "close"}
tensorboardX = pytest.importorskip("tensorboardX")


class Recorder(ebmjax.Writer):
    def __init__(self):
        self.calls, self.energies = [], {}

    def write(self, step, split, metrics):
        self.calls.append(("write", step, split))

    def images(self, step, name, picture):
        assert picture.dtype == np.uint8 and picture.ndim == 3
        self.calls.append(("images", step, name))

    def histogram(self, step, name, values):
        self.energies[step, name] = values

    def close(self):
        self.calls.append(("close",))


class Broken:
    def __init__(self, methods=METHODS):
        self.methods = methods

    def __getattr__(self, name):
        if name not in self.methods:
            raise AttributeError(name)
        return self.fail

    def fail(self, *_):
        raise RuntimeError("no connection")


def scalars(folder):
    """{tag: {step: value}} of the event files, and the tags of the other kinds."""
    values, kinds = {}, {}
    for path in sorted(folder.glob("events.out*")):
        for event in event_file(path):
            for value in event.summary.value:
                kinds.setdefault(value.WhichOneof("value"), set()).add(value.tag)
                if value.HasField("simple_value"):
                    values.setdefault(value.tag, {})[event.step] = value.simple_value
    return values, kinds


def event_file(path):
    """TFRecord: a length in 8 bytes, its checksum in 4, the record, its checksum."""
    from tensorboardX.proto.event_pb2 import Event

    data = path.read_bytes()
    while data:
        size = int.from_bytes(data[:8], "little")
        yield Event.FromString(data[12 : 12 + size])
        data = data[16 + size :]


def test_a_writer_has_five_methods():
    assert {name for name in vars(ebmjax.Writer) if name[0] != "_"} == METHODS


def jem_config(**changes):
    c = tiny_config(**changes)
    c.objective.p_x = 0.1
    return c


def test_several_trackers_see_the_same_and_the_energies_are_those_of_the_run(tmp_path):
    c = jem_config(tensorboard=True)
    recorder, other = Recorder(), Recorder()
    run = ebmjax.fit(c, tmp_path, writers=[recorder, other])
    assert recorder.calls == other.calls and recorder.calls[-1] == ("close",)
    assert ("images", 2, "samples") in recorder.calls
    valid = run.splits().valid.image
    np.testing.assert_allclose(
        recorder.energies[2, "energy_valid"], run.energy(valid), rtol=1e-5
    )
    chains = recorder.energies[2, "energy_chains"]
    every = run.energy(run.buffer)  # of all devices
    assert np.abs(chains[:, None] - every[None]).min(axis=1).max() < 1e-4
    values, kinds = scalars(tmp_path)
    (train,) = [
        x
        for x in writers.read(rundir.folder(tmp_path) / writers.METRICS)
        if x["split"] == "train" and x["step"] == 2
    ]
    assert values["train/loss"][2] == pytest.approx(train["loss"])
    assert kinds["histo"] == {"energy_valid", "energy_chains"}
    assert kinds["image"] == {"samples"}


def test_a_failing_tracker_is_reported_once_by_name(tmp_path, caplog):
    recorder = Recorder()
    with caplog.at_level(logging.INFO):
        run = ebmjax.fit(jem_config(), tmp_path, writers=[Broken(), recorder])
    assert run.step == 2 and len(recorder.calls) > 2
    failures = [r.message for r in caplog.records if "failed" in r.message]
    assert failures == ["writer Broken.rewind failed: no connection; training goes on"]


def test_a_tracker_that_cannot_be_opened_does_not_end_the_run(
    tmp_path, caplog, monkeypatch
):
    def refuse(*_):
        raise OSError("disk full")

    monkeypatch.setattr(writers.TensorBoard, "_open", refuse)
    run = ebmjax.fit(jem_config(tensorboard=True), tmp_path)
    assert run.step == 2
    assert "writer TensorBoard failed: disk full" in caplog.text


def test_without_wandb_a_line_says_how_to_get_it(tmp_path, caplog, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "wandb", None)
    with caplog.at_level(logging.INFO):
        opened = writers.of_run(str(tmp_path), step=0, num_steps=1, wandb="project")
    assert not opened.trackers
    assert "pip install 'ebmjax[wandb]'" in caplog.text


class FakeWandb:
    """Records what `wandb.init` and a run of it are given."""

    def __init__(self):
        self.logged, self.started = [], []

    def init(self, **arguments):
        self.started.append(arguments)
        return self

    def define_metric(self, name, step_metric):
        assert (name, step_metric) == ("*", "step")

    def log(self, numbers):
        self.logged.append(numbers)

    def finish(self):
        self.logged.append("finished")

    Image = Histogram = staticmethod(np.shape)


def test_a_resumed_run_is_the_same_run_of_weights_and_biases(tmp_path, monkeypatch):
    fake = FakeWandb()
    monkeypatch.setitem(__import__("sys").modules, "wandb", fake)
    ebmjax.fit(jem_config(wandb="project"), tmp_path)
    ebmjax.fit(jem_config(wandb="project", num_steps=3), tmp_path)
    first, second = fake.started
    assert first["id"] == second["id"] and second["resume"] == "allow"
    assert first["project"] == "project" and first["config"]["batch_size"] == 16
    assert fake.logged.count("finished") == 2
    numbers = {x["step"]: x for x in fake.logged[:-1] if "train/loss" in x}
    assert set(numbers) == {1, 2, 3}
    assert {"samples", "energy_valid", "energy_chains"} <= {
        name for x in fake.logged if x != "finished" for name in x
    }


@pytest.mark.slow
def test_weights_and_biases_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    run = ebmjax.fit(jem_config(wandb="project"), tmp_path)
    assert run.step == 2
    (record,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    content = record.read_bytes()
    for name in (b"train/loss", b"energy_valid", b"energy_chains", b"samples"):
        assert name in content
    assert list(tmp_path.glob("wandb/offline-run-*/files/media/images/*.png"))
    assert os.path.exists(tmp_path / trackers.WANDB_ID)
    energies = -metrics.log_density(run.logits(run.splits().valid.image))
    assert np.isfinite(energies).all()


@pytest.mark.parametrize("tracker", [writers.TensorBoard, writers.WeightsAndBiases])
def test_trackers_have_all_methods_of_a_writer(tracker):
    """One without `rewind` would be given up where a training starts or goes back."""
    for name in ("write", "images", "histogram", "rewind", "close"):
        assert callable(getattr(tracker, name))
