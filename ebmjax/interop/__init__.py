"""Official PyTorch checkpoints of JEM and NG-EBM, read and written."""

import logging
import os
import pickle
from typing import Any

import jax
import ml_collections
import numpy as np

from ebmjax import models
from ebmjax.interop import state_dict


def load_torch_checkpoint(
    path: str, *, norm: str | None = None
) -> tuple[models.WideResNet, dict[str, Any], np.ndarray | None]:
    """(model, variables, chains) of an official .pt file, as float32.

    ``model.apply(variables, x)`` are its logits, x [B, H, W, C] in [-1, 1]; chains
    are the replay buffer [N, H, W, C], or None. Depth, width, number of classes and
    norm are read off the tensors, except that "instance" and "layer" have the same
    ones: there `norm` must say which. Raises ValueError if the file is not such a
    checkpoint, naming what is missing or unexpected; ImportError without PyTorch.
    """
    model, variables, chains, unused = _load(path, norm)
    logging.info("%s: unused and left aside: %s", path, state_dict.listed(unused))
    return model, variables, chains


def save_torch_checkpoint(
    path: str,
    model: models.WideResNet,
    variables: dict[str, Any],
    chains: np.ndarray | None = None,
) -> None:
    """Writes the file that the official scripts load. The layers that they create
    and do not use are zero."""
    torch = _torch()
    content = {
        "model_state_dict": _tensors(torch, state_dict.to_state_dict(model, variables))
    }
    if chains is not None:
        buffer = np.asarray(chains, np.float32).transpose(0, 3, 1, 2)
        content |= _tensors(torch, {"replay_buffer": buffer})
    partial = f"{path}.partial"
    torch.save(content, partial)
    os.replace(partial, path)


# Files


def _torch():
    try:
        import torch
    except ImportError as error:
        raise ImportError(
            "reading and writing .pt files needs PyTorch: pip install 'ebmjax[torch]'"
        ) from error
    return torch


def _unpickle(path) -> dict:
    torch = _torch()
    with open(path, "rb") as file:  # so that a missing file is just that
        try:
            content = torch.load(file, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            raise ValueError(
                f"{path} holds more than tensors, or is damaged; nothing of it was "
                f"executed ({str(error).splitlines()[0]})"
            ) from error
        except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
            reason = str(error).splitlines()[:1]
            raise ValueError(f"{path} is not a PyTorch file: {reason}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, not a state dict")
    return content


def _load(path, norm):
    """model, variables, chains or None, and names of tensors that are not used."""
    content = _unpickle(path)
    state = content.get("model_state_dict", content)
    buffer = None if state is content else content.get("replay_buffer")
    try:
        state = _arrays(state)
        if all(name.startswith("module.") for name in state):  # of DataParallel
            state = {name.removeprefix("module."): x for name, x in state.items()}
        model, variables = state_dict.from_state_dict(state, norm=norm)
        chains = None
        if buffer is not None and len(buffer):
            chains = _chains(**_arrays({"replay_buffer": buffer}))
    except ValueError as error:
        raise ValueError(f"{path} is not an official checkpoint: {error}") from error
    return model, variables, chains, state_dict.unused(state)


def _arrays(state):
    """Tensors by name -> NumPy arrays, float32."""
    torch = _torch()
    if not isinstance(state, dict) or not state:
        raise ValueError("no state dict")
    for name, x in state.items():
        if not isinstance(name, str) or not isinstance(x, torch.Tensor):
            raise ValueError(f"{name} is a {type(x).__name__}, not a tensor")
    return {name: x.detach().float().numpy() for name, x in state.items()}


def _chains(replay_buffer):
    if replay_buffer.ndim != 4:
        raise ValueError(f"replay_buffer {replay_buffer.shape} is not [N, C, H, W]")
    return np.ascontiguousarray(replay_buffer.transpose(0, 2, 3, 1))


def _tensors(torch, arrays):
    return {name: torch.from_numpy(np.array(x)) for name, x in arrays.items()}


# Runs


def make_run(
    path: str,
    workdir: str,
    c: ml_collections.ConfigDict | None = None,
    *,
    norm: str | None = None,
) -> str:
    """Makes `workdir` a run at step 0 with the model, and the chains, of a checkpoint.

    Returns a description of what it is now, and of what was left aside.
    `c` is the config that training goes on with, and `c.model` and the size of the
    buffer are made the checkpoint's. The optimiser starts afresh, and so do chains
    that `c` needs and the checkpoint does not have. Raises ValueError if there is a
    run in `workdir`, or the number of classes is not that of the data set.
    """
    from ebmjax import checkpoint, config, objectives, replay, rundir, runs, train_step
    from ebmjax import recipe as recipes

    folder = rundir.folder(workdir)
    if any((folder / name).exists() for name in (runs.CONFIG, checkpoint.FOLDER)):
        raise ValueError(f"{workdir} holds a run: choose another --workdir")
    model, variables, chains, unused = _load(path, norm)
    c = c.copy_and_resolve_references() if c else _config_of(model, chains)
    c.model.update(
        name="wide_resnet", depth=model.depth, width=model.width, norm=model.norm or ""
    )
    if chains is not None:
        c.sgld.buffer_size = len(chains)
    config.check(c)
    names = _class_names(c, model.num_classes)
    params, stats = variables["params"], variables["batch_stats"]
    channels = params["conv1"]["kernel"].shape[2]
    shape = (32, 32, channels) if chains is None else chains.shape[1:]

    settings = recipes.settings(c, model.num_classes)
    complete = recipes.from_config(c, model.num_classes)
    described = f"WRN-{model.depth}-{model.width}, norm {model.norm}"
    described += f", {len(names)} classes"
    if not settings.objective.sampled:
        chains = None
        described += "\nno chains, for its objective has no use for them"
    elif chains is None:
        key = jax.random.key(c.seed)
        chains = replay.init(key, c.sgld.buffer_size, shape).samples
        described += f"\n{len(chains)} chains from noise, the file having none"
    else:
        described += f"\n{len(chains)} chains"
    state = train_step.TrainState(
        step=np.int32(0),
        recoveries=np.int32(0),
        params=params,
        model_state={"batch_stats": stats} if stats else {},
        opt_state=complete.optimizer.init(params),
        ema=params if c.optimizer.ema_decay else None,
        # As if of one device; they are dealt to those that there are.
        chains=None if chains is None else replay.Buffer(np.asarray(chains)[None]),
    )
    facts = runs.Facts(
        class_names=list(names),
        image_shape=list(shape),
        num_blocks=objectives.num_blocks(
            settings.objective, settings.chains, model.num_classes
        ),
    )._asdict()
    with checkpoint.manager(workdir) as stored:
        checkpoint.save(stored, 0, state, facts | {"sums": {}, "count": 0})
    with runs.claimed(workdir, c):
        pass
    return f"{described}\nleft aside, being unused: {state_dict.listed(unused)}"


def export_run(workdir: str, path: str) -> None:
    """Writes the model and the chains of a run as an official checkpoint."""
    from ebmjax import runs

    run = runs.load(workdir)
    m = run.config.model
    if m.name != "wide_resnet":
        raise ValueError(f"{workdir} has a {m.name}: only a wide_resnet is official")
    model = models.WideResNet(
        depth=m.depth, width=m.width, num_classes=run.num_classes, norm=m.norm or None
    )
    params, model_state = jax.device_get(run.model.variables)
    stats = model_state.get("batch_stats", {})
    save_torch_checkpoint(
        path, model, {"params": params, "batch_stats": stats}, run.buffer
    )


def _config_of(model, chains):
    from ebmjax import config

    c = config.default()
    sets = {10: "cifar10", 100: "cifar100"}
    if model.num_classes not in sets:
        raise ValueError(f"{model.num_classes} classes: name the data with --config")
    c.data.name = sets[model.num_classes]
    if chains is not None:
        c.objective.p_x = 1.0
    return c


def _class_names(c, num_classes):
    """Those of the data set if it is at hand, else numbers."""
    from ebmjax import data

    try:
        names = data.class_names(c.data.name, data_dir=c.data.data_dir or None)
    except FileNotFoundError:
        return tuple(map(str, range(num_classes)))
    if len(names) != num_classes:
        raise ValueError(
            f"the checkpoint has {num_classes} classes, {c.data.name} {len(names)}"
        )
    return names
