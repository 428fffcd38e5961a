"""The official network's tensors, by the names that PyTorch gives them.

Arrays in, arrays out: files and runs are `interop`'s.
"""

import re
from typing import Any

import jax
import numpy as np

from ebmjax import models

_AFFINE = {"weight": ("params", "scale"), "bias": ("params", "bias")}
_MOMENTS = {
    "running_mean": ("batch_stats", "mean"),
    "running_var": ("batch_stats", "var"),
}
# PyTorch's name of a norm's tensor -> our collection and name of it.
_NORMS = {
    None: {},
    "batch": _AFFINE | _MOMENTS,
    "instance": _AFFINE,
    "layer": _AFFINE,
    "act": {"loc": ("params", "loc"), "scale": ("params", "scale")},
}
_UNUSED = ("f.linear.", "energy_output.")  # in official files, but not in the logits
_COUNTERS = (".num_batches_tracked", ".initialized")


def from_state_dict(
    state: dict[str, np.ndarray], *, norm: str | None = None
) -> tuple[models.WideResNet, dict[str, Any]]:
    """(model, variables) of the official network's tensors, their dtype kept."""
    model = _model(state, norm)
    places = _places(model)
    known = {*places, *unused(state)}
    missing = [name for name in places if name not in state]
    unexpected = [n for n in state if n not in known and not n.endswith(_COUNTERS)]
    if missing or unexpected:
        raise ValueError(
            f"missing: {listed(missing)}; unexpected: {listed(unexpected)}"
        )

    variables = {"params": {}, "batch_stats": {}}
    for name, (*folders, leaf) in places.items():
        folder = variables
        for key in folders:
            folder = folder.setdefault(key, {})
        folder[leaf] = _from_torch(state[name], leaf)
    _check_shapes(model, variables, state["f.conv1.weight"].shape[1])
    return model, variables


def to_state_dict(
    model: models.WideResNet, variables: dict[str, Any]
) -> dict[str, np.ndarray]:
    """The inverse of `from_state_dict`, with all that the official classes expect."""
    state = {}
    for name, (*folders, leaf) in _places(model).items():
        folder = variables
        for key in folders:
            folder = folder[key]
        state[name] = _to_torch(np.asarray(folder[leaf]), leaf, model.norm)
        layer = name.rpartition(".")[0]
        if leaf == "mean":
            state[f"{layer}.num_batches_tracked"] = np.zeros((), np.int64)
        if leaf == "loc":
            state[f"{layer}.initialized"] = np.ones((), np.uint8)
    for name, num_outputs in (("f.linear", 10), ("energy_output", 1)):
        state[f"{name}.weight"] = np.zeros((num_outputs, 64 * model.width), np.float32)
        state[f"{name}.bias"] = np.zeros(num_outputs, np.float32)
    return state


def unused(state):
    return [name for name in state if name.startswith(_UNUSED)]


def _model(state, norm):
    """The network that these tensors are of."""
    try:
        width = len(state["f.layer1.0.conv1.weight"]) // 16
        num_classes = len(state["class_output.weight"])
    except KeyError as error:
        raise ValueError(f"missing: {error.args[0]}") from error
    blocks = [n for n in state if re.fullmatch(r"f\.layer1\.\d+\.conv1\.weight", n)]
    return models.WideResNet(
        depth=6 * len(blocks) + 4,
        width=width,
        num_classes=num_classes,
        norm=_norm(state, norm),
    )


def _norm(state, said):
    if "f.bn1.running_mean" in state:
        possible = ("batch",)
    elif "f.bn1.loc" in state:
        possible = ("act",)
    elif "f.bn1.weight" in state:
        possible = ("instance", "layer")
    else:
        possible = (None,)
    if said is None and len(possible) > 1:
        raise ValueError(
            f"norm may be {' or '.join(possible)}, whose tensors are alike: say which"
        )
    if said is not None and said not in possible:
        raise ValueError(f"norm is {possible[0]}, not {said}")
    return said or possible[0]


def _places(model):
    """Official name of a tensor -> its path in our variables."""
    layers = {"f.conv1": ("conv1",), "class_output": ("head",)}
    norms = {"f.bn1": ("norm",)}
    for group in (1, 2, 3):
        for i in range((model.depth - 4) // 6):
            theirs, ours = f"f.layer{group}.{i}", f"layer{group}_{i}"
            layers[f"{theirs}.conv1"] = (ours, "conv1")
            layers[f"{theirs}.conv2"] = (ours, "conv2")
            if i == 0 and (group > 1 or model.width > 1):
                layers[f"{theirs}.shortcut.0"] = (ours, "shortcut")
            norms[f"{theirs}.bn1"] = (ours, "norm1")
            norms[f"{theirs}.bn2"] = (ours, "norm2")
    places = {}
    for theirs, ours in layers.items():
        places[f"{theirs}.weight"] = ("params", *ours, "kernel")
        places[f"{theirs}.bias"] = ("params", *ours, "bias")
    for theirs, ours in norms.items():
        for name, (collection, leaf) in _NORMS[model.norm].items():
            places[f"{theirs}.{name}"] = (collection, *ours, leaf)
    return places


def _from_torch(x, leaf):
    if leaf != "kernel":
        return x.reshape(-1)
    return x.transpose(2, 3, 1, 0) if x.ndim == 4 else x.T


def _to_torch(x, leaf, norm):
    if leaf == "kernel":
        return x.transpose(3, 2, 0, 1) if x.ndim == 4 else x.T
    per_channel = norm == "act" and leaf in ("loc", "scale")
    return x.reshape(1, -1, 1, 1) if per_channel else x


def _check_shapes(model, variables, channels):
    x = jax.ShapeDtypeStruct((1, 32, 32, channels), np.float32)
    wanted = jax.eval_shape(model.init, jax.random.key(0), x)
    for path, leaf in jax.tree_util.tree_leaves_with_path(wanted):
        found = variables
        for key in path:
            found = found[key.key]
        if found.shape != leaf.shape:
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            raise ValueError(f"{name} has shape {found.shape}, not {leaf.shape}")


def listed(names):
    shown = ", ".join(sorted(names)[:10]) or "nothing"
    return f"{shown} and {len(names) - 10} more" if len(names) > 10 else shown
