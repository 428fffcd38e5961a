"""Runs that are made of official checkpoints, and checkpoints of runs."""

import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest
from sklearn.datasets import load_digits

from ebmjax import config, interop, rundir, runs, train

torch = pytest.importorskip("torch")
import torch_reference as reference  # noqa: E402
from test_interop import save  # noqa: E402
from torch_trained import (  # noqa: E402
    assert_close,
    to_numpy,
    to_torch,
    trained,
)


def digits_checkpoint(path, num_chains=40, **size):
    """An official checkpoint but for its images, which are digits'."""
    torch.manual_seed(1)
    model = reference.Classifier(10, 1, channels=1, **size)
    buffer = torch.empty(num_chains, 1, 8, 8).uniform_(-1, 1)
    content = dict(model_state_dict=model.state_dict(), replay_buffer=buffer)
    return save(path, content), model, buffer


def digits_config(**objective):
    c = config.default()
    c.data.update(name="digits", num_valid=17, pad=0, flip=False)
    c.objective.update(objective)
    c.batch_size = 8
    c.sgld.update(num_steps=2, buffer_size=40)
    c.num_steps = 2
    c.tensorboard = False
    return c


@pytest.mark.slow
def test_a_run_of_a_checkpoint_goes_on(tmp_path):
    path, theirs, buffer = digits_checkpoint(tmp_path / "ckpt.pt")
    workdir = str(tmp_path / "run")
    c = digits_config(p_x=1.0)
    described = interop.make_run(path, workdir, c)
    assert "WRN-10-1, norm None, 10 classes, images 8x8x1\n40 chains\n" in described
    assert "energy_output.bias" in described
    assert c.model.depth == 28  # the caller's config is left alone

    run = runs.load(workdir)
    x, _ = load_digits(return_X_y=True)
    x = (x[:20].reshape(-1, 8, 8, 1) / 8 - 1).astype(np.float32)
    assert_close(run.logits(x), theirs(to_torch(x)).detach(), 2e-4)
    np.testing.assert_array_equal(run.buffer, to_numpy(buffer))
    assert run.step == 0 and run.class_names == tuple("0123456789")

    train.fit(run.config, workdir)
    run = runs.load(workdir)
    assert run.step == 2
    changed = (run.buffer != to_numpy(buffer)).any(axis=(1, 2, 3)).sum()
    assert 8 < changed <= 16  # two steps of 8 chains
    out = tmp_path / "back.pt"
    interop.export_run(workdir, str(out))
    content = torch.load(out, weights_only=True)
    theirs.load_state_dict(content["model_state_dict"])
    assert_close(run.logits(x), theirs(to_torch(x)).detach(), 2e-4)
    np.testing.assert_array_equal(run.buffer, to_numpy(content["replay_buffer"]))


def test_a_run_has_the_chains_that_its_objective_needs(tmp_path):
    path, _, _ = digits_checkpoint(tmp_path / "ckpt.pt")
    described = interop.make_run(path, str(tmp_path / "a"), digits_config())
    assert "no chains" in described
    assert runs.load(str(tmp_path / "a")).buffer is None

    path, _, _ = digits_checkpoint(tmp_path / "none.pt", num_chains=0)
    c = digits_config(p_x=1.0)
    c.data.name = "cifar10"  # which is not there
    c.data.data_dir = str(tmp_path)
    described = interop.make_run(path, str(tmp_path / "b"), c)
    assert "40 chains from noise: the file has none" in described
    run = runs.load(str(tmp_path / "b"))
    assert run.buffer.shape == (40, 32, 32, 1)
    assert run.class_names == tuple("0123456789")


def test_without_a_config_a_buffer_makes_it_jem(tmp_path):
    state = reference.Classifier(num_classes=100).state_dict()
    path = save(tmp_path / "ckpt.pt", state)
    interop.make_run(path, str(tmp_path / "a"))
    c = rundir.read_config(str(tmp_path / "a"))
    assert (c.data.name, c.objective.p_x) == ("cifar100", 0)
    buffer = torch.zeros(30, 3, 32, 32)
    content = dict(model_state_dict=trained(None), replay_buffer=buffer)
    interop.make_run(save(path, content), str(tmp_path / "b"))
    c = rundir.read_config(str(tmp_path / "b"))
    assert (c.data.name, c.objective.p_x, c.sgld.buffer_size) == ("cifar10", 1, 30)


def test_what_cannot_be_a_run_leaves_nothing_behind(tmp_path):
    path, _, _ = digits_checkpoint(tmp_path / "ckpt.pt", num_classes=7)
    workdir = tmp_path / "run"
    with pytest.raises(ValueError, match="has 7 classes, neither.*with --config"):
        interop.make_run(path, str(workdir))
    with pytest.raises(
        ValueError, match="7 classes, but config.data.name 'digits' has 10"
    ):
        interop.make_run(path, str(workdir), digits_config())
    assert not workdir.exists()
    path, _, _ = digits_checkpoint(tmp_path / "ckpt.pt")
    interop.make_run(path, str(workdir), digits_config())
    with pytest.raises(ValueError, match="run holds a run; choose another --workdir"):
        interop.make_run(path, str(workdir), digits_config())
    c = rundir.read_config(str(workdir))
    c.model.depth = 16
    (workdir / "config.json").write_text(config.to_json(c))
    with pytest.raises(ValueError, match="another network: 0/layer1_1.* is missing"):
        interop.export_run(str(workdir), str(tmp_path / "out.pt"))
    shutil.rmtree(workdir)
    c.model.update(name="mlp", features=(4,))
    c.num_steps = 1
    train.fit(c, str(workdir))
    with pytest.raises(ValueError, match="model.name='mlp'.*needs 'wide_resnet'"):
        interop.export_run(str(workdir), str(tmp_path / "out.pt"))
    assert not (tmp_path / "out.pt").exists()


@pytest.mark.slow
def test_the_command_line_there_and_back(tmp_path):
    path, theirs, _ = digits_checkpoint(tmp_path / "ckpt.pt")
    lab_note = pathlib.Path("configs/classifier_digits.py").resolve()
    there = ["ckpt.pt", "--workdir=run", f"--config={lab_note}", "--config.seed=3"]
    back = ["back.pt", "--workdir=run", "--to-torch"]

    def command(*args):
        line = [sys.executable, "-m", "ebmjax.interop", *args]
        return subprocess.run(line, cwd=tmp_path, capture_output=True, text=True)

    for args in (there, back):
        done = command(*args)
        assert done.returncode == 0, done.stderr
    state = torch.load(tmp_path / "back.pt", weights_only=True)["model_state_dict"]
    assert torch.equal(state["f.conv1.weight"], theirs.f.conv1.weight)
    assert rundir.read_config(str(tmp_path / "run")).seed == 3
    again = command(*there)
    assert again.returncode == 1
    assert again.stderr == "error: run holds a run; choose another --workdir\n"
