"""Official checkpoints: files there and back. Runs are in test_interop_runs.py."""

import os
import pickle
import sys

import jax
import numpy as np
import pytest

from ebmjax import interop
from ebmjax.interop import state_dict

torch = pytest.importorskip("torch")
import torch_reference as reference  # noqa: E402
from torch_trained import (  # noqa: E402
    NORMS,
    assert_close,
    digits,
    to_torch,
    trained,
    uniform,
)


def save(path, content, **options):
    torch.save(content, path, **options)
    return str(path)


def official(norm=None, num_chains=20):
    """A checkpoint as the official program writes it."""
    buffer = to_torch(uniform(num_chains))
    return {"model_state_dict": trained(norm), "replay_buffer": buffer}


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("kind", ["jem", "no buffer", "empty buffer", "bare", "module"])
def test_every_form_of_a_checkpoint_is_read(tmp_path, kind, zipped):
    content = official()
    if kind == "no buffer":
        del content["replay_buffer"]
    if kind == "empty buffer":
        content["replay_buffer"] = []
    if kind == "bare":
        content = content["model_state_dict"]
    if kind == "module":
        state = content["model_state_dict"]
        content["model_state_dict"] = {f"module.{k}": x for k, x in state.items()}
    options = dict(_use_new_zipfile_serialization=zipped)
    path = save(tmp_path / "ckpt.pt", content, **options)
    model, variables, chains = interop.load_torch_checkpoint(path)
    assert (model.depth, model.width, model.num_classes, model.norm) == (
        10,
        1,
        10,
        None,
    )
    if kind in ("jem", "module"):
        np.testing.assert_array_equal(chains, uniform(20))
    else:
        assert chains is None
    x, _ = digits(5)
    theirs = reference.Classifier()
    theirs.load_state_dict(trained(None))
    assert_close(model.apply(variables, x), theirs(to_torch(x)).detach(), 2e-4)


@pytest.mark.parametrize("depth, width, num_classes", [(10, 2, 100), (22, 1, 7)])
@pytest.mark.parametrize("norm", NORMS)
def test_size_and_norm_are_read_off_the_tensors(depth, width, num_classes, norm):
    theirs = reference.Classifier(depth, width, num_classes, norm)
    state = {name: x.numpy() for name, x in theirs.state_dict().items()}
    ambiguous = norm in ("instance", "layer")
    model, _ = state_dict.from_state_dict(state, norm=norm if ambiguous else None)
    found = model.depth, model.width, model.num_classes, model.norm
    assert found == (depth, width, num_classes, norm)
    if ambiguous:
        with pytest.raises(ValueError, match="may be instance or layer, which have"):
            state_dict.from_state_dict(state)
    else:
        with pytest.raises(ValueError, match=f"norm is {norm}, not layer"):
            state_dict.from_state_dict(state, norm="layer")


@pytest.mark.parametrize("norm", NORMS)
def test_a_round_trip_is_exact(tmp_path, norm):
    path = save(tmp_path / "theirs.pt", official(norm))
    model, variables, chains = interop.load_torch_checkpoint(path, norm=norm)
    back = str(tmp_path / "ours.pt")
    interop.save_torch_checkpoint(back, model, variables, chains)
    content = torch.load(back, weights_only=True)
    assert torch.equal(content["replay_buffer"], official()["replay_buffer"])
    state = content["model_state_dict"]
    for name, x in trained(norm).items():
        assert state[name].dtype == x.dtype
        if not name.startswith(("f.linear", "energy_output")) and "num_" not in name:
            assert torch.equal(state[name], x), name
    # The official class takes it, strictly.
    reference.Classifier(norm=norm).load_state_dict(state)
    again = interop.load_torch_checkpoint(back, norm=norm)
    jax.tree.map(np.testing.assert_array_equal, (variables, chains), again[1:])
    assert sorted(os.listdir(tmp_path)) == ["ours.pt", "theirs.pt"]


def variant(wrap):
    """The official tensors and buffer under other names, as a file's content."""
    content = official()
    return wrap(content["model_state_dict"], content["replay_buffer"])


def prefixed(prefix, state):
    return {f"{prefix}{name}": x for name, x in state.items()}


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s, b: prefixed("_orig_mod.", s) | {"replay_buffer": b},
        lambda s, b: {
            "state_dict": prefixed("module._orig_mod.", s),
            "replay_buffer": b,
        },
        lambda s, b: {"model": prefixed("_orig_mod.module.", s), "replay_buffer": b},
        lambda s, b: {"net": {"state_dict": s, "replay_buffer": b}, "epoch": 3},
        lambda s, b: {  # a compiled part of the network; an averaged model
            "model": {x.replace("f.", "module.f._orig_mod."): s[x] for x in s}
            | {"n_averaged": torch.tensor(7)},
            "replay_buffer": b,
        },
    ],
    ids=["compiled", "parallel, compiled", "compiled, parallel", "nested", "averaged"],
)
def test_wrapped_checkpoints_are_the_same(tmp_path, wrap):
    plain = save(tmp_path / "plain.pt", official())
    path = save(tmp_path / "wrapped.pt", variant(wrap))
    expected = interop.load_torch_checkpoint(plain)
    jax.tree.map(
        np.testing.assert_array_equal,
        interop.load_torch_checkpoint(path)[1:],
        expected[1:],
    )


def test_names_that_meet_without_their_wrappers_are_refused(tmp_path):
    state = trained(None)
    both = state | {"module.f.conv1.bias": torch.zeros(16)}
    path = save(tmp_path / "ckpt.pt", both)
    with pytest.raises(ValueError, match="f.conv1.bias twice, once wrapped as module"):
        interop.load_torch_checkpoint(path)


def test_a_buffer_with_channels_last_is_recognised(tmp_path):
    content = official() | {"replay_buffer": torch.tensor(uniform(20))}
    path = save(tmp_path / "ckpt.pt", content)
    np.testing.assert_array_equal(interop.load_torch_checkpoint(path)[2], uniform(20))


@pytest.mark.parametrize(
    "buffer, message",
    [
        (torch.zeros(5, 3, 8, 3), r"\(5, 3, 8, 3\) may be either of \[N, 3, H, W\]"),
        (torch.zeros(5, 1, 8, 8), r"\(5, 1, 8, 8\) has neither.*\[N, H, W, 3\]"),
        (torch.zeros(5, 3, 8, 8, dtype=torch.uint8), "replay_buffer has dtype uint8"),
        (torch.full((5, 3, 8, 8), torch.inf), "replay_buffer has 960 of 960 entries"),
        (torch.tensor(3.0), "has neither"),
        ("none", "'replay_buffer' is a str, expected a tensor"),
    ],
)
def test_a_buffer_that_cannot_be_one_is_refused(tmp_path, buffer, message):
    path = save(tmp_path / "ckpt.pt", official() | {"replay_buffer": buffer})
    with pytest.raises(ValueError, match=message):
        interop.load_torch_checkpoint(path)


@pytest.mark.parametrize("name", ["f.layer2.0.conv1.weight", "f.bn1.running_var"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf, 1e300])
def test_weights_that_are_not_finite_are_refused_by_name(tmp_path, name, value):
    state = {k: x.clone() for k, x in trained("batch").items()}
    state[name] = state[name].double()
    state[name].view(-1)[3] = value
    path = save(tmp_path / "ckpt.pt", state)
    with pytest.raises(ValueError, match=f"{name} has 1 of .* that are NaN or inf"):
        interop.load_torch_checkpoint(path)
    unused = trained(None) | {"energy_output.bias": torch.tensor([torch.nan])}
    interop.load_torch_checkpoint(save(path, unused))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"f.conv1.bias": torch.zeros(16, dtype=torch.int8)}, "f.conv1.bias has dtype"),
        ({"f.conv1.bias": torch.zeros(16).to_sparse()}, "f.conv1.bias is not a dense"),
        ({"f.conv1.weight": torch.tensor(0.0)}, r"f.conv1.weight has shape \(\)"),
        ({"f.layer1.0.conv1.weight": torch.zeros(9, 9, 3, 3)}, "9 output channels"),
        ({"class_output.weight": torch.zeros(10)}, "expected 2 dimensions"),
    ],
)
def test_tensors_of_another_kind_are_refused_by_name(tmp_path, change, message):
    path = save(tmp_path / "ckpt.pt", trained(None) | change)
    with pytest.raises(ValueError, match=message):
        interop.load_torch_checkpoint(path)


def test_paths_in_the_home_directory_are_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "ckpt.pt", official())
    loaded = interop.load_torch_checkpoint("~/ckpt.pt")
    interop.save_torch_checkpoint("~/back.pt", *loaded)
    interop.make_run("~/back.pt", "~/run")
    interop.export_run("~/run", "~/again.pt")
    assert sorted(os.listdir()) == ["again.pt", "back.pt", "ckpt.pt", "run"]


def test_unused_tensors_are_named(tmp_path, caplog):
    path = save(tmp_path / "ckpt.pt", official("batch"))
    with caplog.at_level("INFO"):
        interop.load_torch_checkpoint(path)
    for name in ("energy_output", "f.linear"):
        assert f"{name}.bias, {name}.weight" in caplog.text
    assert "num_batches_tracked" not in caplog.text


def test_what_is_missing_or_unexpected_is_listed(tmp_path):
    content = official()
    state = dict(content["model_state_dict"])
    state["f.extra.weight"] = state.pop("f.layer2.0.conv2.weight")
    path = save(tmp_path / "ckpt.pt", dict(model_state_dict=state))
    with pytest.raises(
        ValueError,
        match="ckpt.pt is not an official checkpoint: missing: f.layer2.0.conv2.weight;"
        " unexpected: f.extra.weight",
    ):
        interop.load_torch_checkpoint(path)
    state = dict(trained(None), **{"f.conv1.bias": torch.zeros(17)})
    path = save(tmp_path / "ckpt.pt", state)
    with pytest.raises(
        ValueError, match=r"f.conv1.bias has shape \(17,\), expected \(16,\)"
    ):
        interop.load_torch_checkpoint(path)
    with pytest.raises(ValueError, match="missing: f.layer1.0.conv1.weight; it has a$"):
        interop.load_torch_checkpoint(save(path, {"a": torch.zeros(1)}))
    content["replay_buffer"] = torch.zeros(5)
    with pytest.raises(ValueError, match=r"\(5,\) has neither of the layouts"):
        interop.load_torch_checkpoint(save(path, content))


@pytest.mark.parametrize(
    "content, message",
    [
        ([torch.zeros(1)], "holds a list, not a state dict"),
        ({}, "its state dict is empty"),
        ({"model_state_dict": {}}, "its state dict is empty"),
        ({"model_state_dict": 3}, "'model_state_dict' is a int, expected a tensor"),
        ({"model_state_dict": {"a": 3}}, "'a' is a int, expected a tensor"),
        ({"model": {"a": 3}, "net": {"a": 3}}, "several state dicts, model and net"),
    ],
)
def test_other_content_is_refused(tmp_path, content, message):
    with pytest.raises(ValueError, match=f"ckpt.pt.*{message}"):
        interop.load_torch_checkpoint(save(tmp_path / "ckpt.pt", content))


@pytest.mark.parametrize("content", [b"", b"no checkpoint", b"PK\x03\x04 cut short"])
def test_other_files_are_refused(tmp_path, content):
    path = tmp_path / "ckpt.pt"
    with pytest.raises(FileNotFoundError):
        interop.load_torch_checkpoint(str(path))
    path.write_bytes(content)
    with pytest.raises(ValueError, match="ckpt.pt") as caught:
        interop.load_torch_checkpoint(str(path))
    assert "\n" not in str(caught.value)


class Malicious:
    def __init__(self, victim):
        self.victim = str(victim)

    def __reduce__(self):
        return os.mkdir, (self.victim,)


@pytest.mark.parametrize("form", ["zip", "old", "plain pickle"])
def test_nothing_in_a_file_is_executed(tmp_path, form):
    path, victim = tmp_path / "ckpt.pt", tmp_path / "victim"
    content = official() | {"extra": Malicious(victim)}
    if form == "plain pickle":
        path.write_bytes(pickle.dumps(content, protocol=2))
    else:
        save(path, content, _use_new_zipfile_serialization=form == "zip")
    with pytest.raises(
        ValueError, match="holds other objects than tensors.*none of them"
    ):
        interop.load_torch_checkpoint(str(path))
    assert not victim.exists()
    if form != "plain pickle":  # and it would have been
        torch.load(path, weights_only=False)
        assert victim.exists()


def test_without_pytorch_one_sentence_says_so(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ImportError, match=r"pip install 'ebmjax\[torch\]'"):
        interop.load_torch_checkpoint(str(tmp_path / "ckpt.pt"))
