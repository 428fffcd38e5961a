"""Official PyTorch checkpoints of JEM and NG-EBM, read and written."""

import io
import logging
import os
import pickle
from typing import Any

import jax
import numpy as np

from ebmjax import models, rundir
from ebmjax.config import Config
from ebmjax.interop import state_dict

# Keys under which training programs store a state dict, possibly nested.
WRAPPERS = ("model_state_dict", "state_dict", "model", "net")


def load_torch_checkpoint(
    path: str | os.PathLike, *, norm: str | None = None
) -> tuple[models.WideResNet, dict[str, Any], np.ndarray | None]:
    """(model, variables, chains) of an official .pt file, as float32.

    ``model.apply(variables, x)`` are the logits of x [B, H, W, C] in [-1, 1]; chains
    are the replay buffer [N, H, W, C], or None. Depth, width, number of classes and
    norm follow from the tensors, except that "instance" and "layer" norms have the
    same ones: for them `norm` is required. The file is read as data; nothing in it is
    executed. Raises ValueError if it is not such a checkpoint, naming what is missing
    or unexpected; ImportError without PyTorch.
    """
    model, variables, chains, unused = _load(path, norm)
    logging.info("%s: unused tensors: %s", path, state_dict.listed(unused))
    return model, variables, chains


def save_torch_checkpoint(
    path: str | os.PathLike,
    model: models.WideResNet,
    variables: dict[str, Any],
    chains: np.ndarray | None = None,
) -> None:
    """Writes a file that the official programs load.

    `chains` are [N, H, W, C]. Layers that these programs create but do not use are
    zero.
    """
    torch = _torch()
    content = {
        "model_state_dict": _tensors(torch, state_dict.to_state_dict(model, variables))
    }
    if chains is not None:
        buffer = np.asarray(chains, np.float32).transpose(0, 3, 1, 2)
        content |= _tensors(torch, {"replay_buffer": buffer})
    file = io.BytesIO()
    torch.save(content, file)
    rundir.write(rundir.expand(path), file.getvalue())


def read_state_dict(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """The tensors of a PyTorch file by name; nothing in it is executed.

    Raises ValueError if it does not hold a state dict, ImportError without PyTorch.
    """
    try:
        return _arrays(_unwrap(_read(path))[0])
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


# Files


def _torch():
    try:
        import torch
    except ImportError as error:
        raise ImportError(
            ".pt files need PyTorch; install it with pip install 'ebmjax[torch]'"
        ) from error
    return torch


def _read(path):
    """What `torch.save` wrote, if that is tensors in plain containers."""
    torch = _torch()
    with rundir.expand(path).open("rb") as file:  # raises FileNotFoundError
        try:
            return torch.load(file, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            raise ValueError(
                f"{path} holds other objects than tensors, or is damaged; none of them"
                f" was created ({_first_line(error)})"
            ) from error
        except MemoryError:
            raise
        except Exception as error:  # a damaged file raises nearly any kind
            raise ValueError(
                f"{path} is not a PyTorch file, or is damaged ({_first_line(error)})"
            ) from error


def _first_line(error):
    return (str(error) or repr(error)).splitlines()[0]


def _load(path, norm):
    """model, variables, chains or None, and the names of unused tensors."""
    content = _read(path)
    try:
        state, buffer = _unwrap(content)
        state = state_dict.without_wrappers(_arrays(state))
        model, variables = state_dict.from_state_dict(state, norm=norm)
        chains = None
        if buffer is not None:
            buffer = _arrays({"replay_buffer": buffer})["replay_buffer"]
            num_channels = variables["params"]["conv1"]["kernel"].shape[2]
            if buffer.size:
                chains = state_dict.chains_of(buffer, num_channels)
    except ValueError as error:
        raise ValueError(f"{path} is not an official checkpoint: {error}") from error
    return model, variables, chains, state_dict.unused(state)


def _unwrap(content):
    """The state dict in a file's content, and the replay buffer or None."""
    buffer = None
    while True:
        if not isinstance(content, dict):
            raise ValueError(f"it holds a {type(content).__name__}, not a state dict")
        content = dict(content)
        buffer = content.pop("replay_buffer", buffer)
        wrappers = [x for x in WRAPPERS if isinstance(content.get(x), dict)]
        if not wrappers:
            break
        if len(wrappers) > 1:
            raise ValueError(
                f"it holds several state dicts, {' and '.join(wrappers)}; save the one"
                " to be read in a file of its own"
            )
        content = content[wrappers[0]]
    if isinstance(buffer, list | tuple) and not buffer:  # the official "no buffer"
        buffer = None
    return content, buffer


def _arrays(tensors):
    """Tensors by name -> NumPy arrays, floating-point ones as float32."""
    torch = _torch()
    if not tensors:
        raise ValueError("its state dict is empty")
    arrays = {}
    for name, x in tensors.items():
        if not isinstance(name, str) or not isinstance(x, torch.Tensor):
            raise ValueError(f"{name!r} is a {type(x).__name__}, expected a tensor")
        try:
            x = x.detach()
            arrays[name] = (x.float() if x.is_floating_point() else x).numpy()
        except (TypeError, RuntimeError) as error:
            raise ValueError(
                f"{name} is not a dense tensor ({_first_line(error)})"
            ) from error
    return arrays


def _tensors(torch, arrays):
    return {name: torch.from_numpy(np.array(x)) for name, x in arrays.items()}


# Runs


def make_run(
    path: str | os.PathLike,
    workdir: str,
    c: Config | None = None,
    *,
    norm: str | None = None,
) -> str:
    """Makes `workdir` a run at step 0 with the model and the chains of a checkpoint.

    Returns a description of the run and of the unused tensors. `c` is the config for
    further training; `c.model` and the size of the replay buffer are set to those of
    the checkpoint. The optimiser starts afresh, as do chains that `c` needs and the
    checkpoint does not have. Raises ValueError if there is a run in `workdir`, or if
    the number of classes is not that of the data set.
    """
    from ebmjax import checkpoint, config
    from ebmjax import recipe as recipes
    from ebmjax.facts import Facts

    folder = rundir.folder(workdir)
    if rundir.has_checkpoint(folder):
        raise ValueError(f"{workdir} holds a run; choose another --workdir")
    model, variables, chains, unused = _load(path, norm)
    c = c.copy_and_resolve_references() if c else _config_of(model, chains)
    c.model.update(
        name="wide_resnet", depth=model.depth, width=model.width, norm=model.norm or ""
    )
    if chains is not None:
        c.sgld.buffer_size = len(chains)
    config.check(c)
    class_names = _class_names(c, model.num_classes)
    settings = recipes.settings(c, model.num_classes)
    image_shape = (32, 32, variables["params"]["conv1"]["kernel"].shape[2])
    if chains is not None:
        image_shape = chains.shape[1:]
    chains, description = _chains(c, settings, image_shape, chains)
    facts = Facts(
        class_names=list(class_names),
        image_shape=list(image_shape),
        num_blocks=settings.num_blocks,
    )._asdict()
    state = _fresh_state(c, recipes.optimizer(c), variables, chains, settings)
    with rundir.lock_workdir(workdir, c), checkpoint.manager(workdir) as checkpoints:
        checkpoint.save(checkpoints, 0, state, facts | {"sums": {}, "count": 0})
        checkpoint.finish(checkpoints)
    return "\n".join(
        [
            f"WRN-{model.depth}-{model.width}, norm {model.norm},"
            f" {len(class_names)} classes, images {'x'.join(map(str, image_shape))}",
            description,
            f"unused tensors: {state_dict.listed(unused)}",
        ]
    )


def export_run(workdir: str, path: str | os.PathLike) -> None:
    """Writes the model and the chains of a run as an official checkpoint."""
    from ebmjax import runs

    run = runs.load(workdir)
    m = run.config.model
    if m.name != "wide_resnet":
        raise ValueError(
            f"{workdir} holds a run with config.model.name={m.name!r}; an official"
            " checkpoint needs 'wide_resnet'"
        )
    model = models.WideResNet(
        depth=m.depth, width=m.width, num_classes=run.num_classes, norm=m.norm or None
    )
    params, model_state = jax.device_get(run.model.variables)
    variables = {"params": params, "batch_stats": {}} | model_state
    save_torch_checkpoint(path, model, variables, run.buffer)


def _chains(c, settings, image_shape, chains):
    """Those that the objective needs, [N, H, W, C] or None, and where they are from."""
    from ebmjax import replay

    if not settings.objective.sampled:
        return None, "no chains: the objective needs none"
    if chains is not None:
        return chains, f"{len(chains)} chains"
    key = jax.random.key(c.seed)
    chains = np.asarray(replay.init(key, c.sgld.buffer_size, image_shape).samples)
    return chains, f"{len(chains)} chains from noise: the file has none"


def _fresh_state(c, optimizer, variables, chains, settings):
    """A `TrainState` at step 0."""
    from ebmjax import logit_queue, replay, train_step

    params, stats = variables["params"], variables["batch_stats"]
    queue = None
    if "queue" in settings.objective.needs:
        key, size = jax.random.key(c.seed), settings.queue_size
        queue = logit_queue.init(key, size, settings.num_classes)[None]
    return train_step.TrainState(
        step=np.int32(0),
        recoveries=np.int32(0),
        params=params,
        model_state={"batch_stats": stats} if stats else {},
        opt_state=optimizer.init(params),
        ema=params if c.optimizer.ema_decay else None,
        # As of one device; training reshards them.
        chains=None if chains is None else replay.Buffer(chains[None]),
        queue=queue,
    )


def _config_of(model, chains):
    """That of JEM if there are chains, else of a classifier."""
    from ebmjax import config

    c = config.default()
    data_sets = {10: "cifar10", 100: "cifar100"}
    if model.num_classes not in data_sets:
        raise ValueError(
            f"the checkpoint has {model.num_classes} classes, neither those of CIFAR-10"
            " nor of CIFAR-100; give the data set with --config"
        )
    c.data.name = data_sets[model.num_classes]
    if chains is not None:
        c.objective.p_x = 1.0
    return c


def _class_names(c, num_classes):
    """Those of the data set if it is prepared, else numbers."""
    from ebmjax import data

    try:
        names = data.class_names(c.data.name, data_dir=c.data.data_dir or None)
    except FileNotFoundError:
        return tuple(map(str, range(num_classes)))
    if len(names) != num_classes:
        raise ValueError(
            f"the checkpoint has {num_classes} classes, but config.data.name"
            f" {c.data.name!r} has {len(names)}"
        )
    return names
