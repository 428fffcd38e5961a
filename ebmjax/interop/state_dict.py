"""The official network's tensors, by the names that PyTorch gives them.

NumPy arrays in and out; `ebmjax.interop` reads and writes the files.
"""

import functools
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
# Counters of batch norm, of act norm and of torch.optim.swa_utils.AveragedModel.
_COUNTERS = (".num_batches_tracked", ".initialized", "n_averaged")
# Attributes in which torch.compile and DataParallel put a module.
_WRAPPER_NAMES = ("_orig_mod", "module")


def from_state_dict(
    state: dict[str, np.ndarray], *, norm: str | None = None
) -> tuple[models.WideResNet, dict[str, Any]]:
    """(model, variables) of the official network's tensors, their dtype kept.

    Raises ValueError for tensors that are missing, unexpected, of another shape, not
    floating-point or not finite.
    """
    model = _model(state, norm)
    places = _places(model)
    known = {*places, *unused(state)}
    missing = [name for name in places if name not in state]
    unexpected = [n for n in state if n not in known and not n.endswith(_COUNTERS)]
    if missing or unexpected:
        raise ValueError(
            f"missing: {listed(missing)}; unexpected: {listed(unexpected)}"
        )
    _check_shapes(model, places, state)

    variables = {"params": {}, "batch_stats": {}}
    for name, (*folders, leaf) in places.items():
        check_finite(name, state[name])
        folder = variables
        for key in folders:
            folder = folder.setdefault(key, {})
        folder[leaf] = _from_torch(state[name], leaf)
    return model, variables


def without_wrappers(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The same tensors, without the names that torch.compile, DataParallel and
    AveragedModel insert: module._orig_mod.f.conv1.weight -> f.conv1.weight."""
    plain = {}
    for name, x in state.items():
        parts = [part for part in name.split(".") if part not in _WRAPPER_NAMES]
        new = ".".join(parts)
        if new in plain:
            raise ValueError(f"it holds {new} twice, once wrapped as {name}")
        plain[new] = x
    return plain


def chains_of(buffer: np.ndarray, num_channels: int) -> np.ndarray:
    """A replay buffer [N, C, H, W], or [N, H, W, C], as [N, H, W, C].

    Raises ValueError if it is neither, could be both, or has values that no chain has.
    """
    is_first, is_last = (
        buffer.ndim == 4 and buffer.shape[axis] == num_channels for axis in (1, 3)
    )
    if is_first == is_last:
        found = "may be either of" if is_first else "has neither of the layouts"
        raise ValueError(
            f"replay_buffer of shape {buffer.shape} {found} [N, {num_channels}, H, W]"
            f" and [N, H, W, {num_channels}]"
        )
    check_finite("replay_buffer", buffer)
    return np.ascontiguousarray(buffer.transpose(0, 2, 3, 1) if is_first else buffer)


def check_finite(name: str, x: np.ndarray) -> None:
    """Raises ValueError unless `x` is floating-point without NaN and infinity."""
    if not np.issubdtype(x.dtype, np.floating):
        raise ValueError(f"{name} has dtype {x.dtype}, expected floating-point numbers")
    if not np.isfinite(x).all():
        count = x.size - np.isfinite(x).sum()
        raise ValueError(f"{name} has {count} of {x.size} entries that are NaN or inf")


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


def unused(state: dict[str, np.ndarray]) -> list[str]:
    """The names of tensors that official files have and the logits do not need."""
    return [name for name in state if name.startswith(_UNUSED)]


def _model(state, norm):
    """The network that has these tensors."""
    conv, head = "f.layer1.0.conv1.weight", "class_output.weight"
    for name, ndim in ((conv, 4), (head, 2), ("f.conv1.weight", 4)):
        if name not in state:
            raise ValueError(f"missing: {name}; it has {listed(state)}")
        if state[name].ndim != ndim:
            shape = state[name].shape
            raise ValueError(f"{name} has shape {shape}, expected {ndim} dimensions")
    width, remainder = divmod(len(state[conv]), 16)
    if remainder or not width:
        raise ValueError(
            f"{conv} has {len(state[conv])} output channels, expected a multiple of 16"
        )
    blocks = [n for n in state if re.fullmatch(r"f\.layer1\.\d+\.conv1\.weight", n)]
    return models.WideResNet(
        depth=6 * len(blocks) + 4,
        width=width,
        num_classes=len(state[head]),
        norm=_norm(state, norm),
    )


def _norm(state, requested):
    if "f.bn1.running_mean" in state:
        possible = ("batch",)
    elif "f.bn1.loc" in state:
        possible = ("act",)
    elif "f.bn1.weight" in state:
        possible = ("instance", "layer")
    else:
        possible = (None,)
    if requested is None and len(possible) > 1:
        raise ValueError(
            f"its norm may be {' or '.join(possible)}, which have the same tensors;"
            " give it with --norm"
        )
    if requested is not None and requested not in possible:
        raise ValueError(
            f"its norm is {' or '.join(map(str, possible))}, not {requested}"
        )
    return requested or possible[0]


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


def _check_shapes(model, places, state):
    x = jax.ShapeDtypeStruct((1, 32, 32, state["f.conv1.weight"].shape[1]), np.float32)
    ours = jax.eval_shape(model.init, jax.random.key(0), x)
    for name, path in places.items():
        leaf = functools.reduce(lambda tree, key: tree[key], path, ours)
        zeros = np.broadcast_to(np.float32(0), leaf.shape)
        expected = _to_torch(zeros, path[-1], model.norm).shape
        if state[name].shape != expected:
            raise ValueError(
                f"{name} has shape {state[name].shape}, expected {expected}"
            )


def listed(names) -> str:
    """The first ten names and how many more there are."""
    names = list(names)
    shown = ", ".join(sorted(names)[:10]) or "nothing"
    return f"{shown} and {len(names) - 10} more" if len(names) > 10 else shown
