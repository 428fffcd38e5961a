"""Saving and restoring training states with orbax: asynchronous and atomic.

A checkpoint holds a `step.TrainState` and a small dictionary of the host's
(sums not yet logged, names of classes). Chains are stored as they lie on the
devices, [D, N/D, ...], and dealt anew when the number of devices has changed.
"""

import contextlib
import functools
import json
import logging
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint import checkpoint_managers as policies

from ebmjax import parallel, processes, replay, rundir
from ebmjax.train_step import AXES, TrainState

FOLDER = "checkpoints"
MODEL = ("step", "recoveries", "params", "model_state", "ema", "chains")  # no optimiser


class OtherModel(ValueError):
    """What is stored is not the state of the network that the config describes."""


def manager(
    workdir: str, *, keep_last: int = 3, keep_best: int = 0, read_only: bool = False
) -> ocp.CheckpointManager:
    """Keeps the last checkpoints and the best by metric "accuracy"."""
    # A relative path fails only later, in orbax's background thread.
    folder = rundir.folder(workdir) / FOLDER
    best = policies.BestN(
        get_metric_fn=_accuracy, n=keep_best, keep_checkpoints_without_metrics=False
    )
    keep = policies.AnyPreservationPolicy([policies.LatestN(keep_last), best])
    options = ocp.CheckpointManagerOptions(
        preservation_policy=None if read_only else keep,
        best_fn=_accuracy,
        save_interval_steps=0 if read_only else 1,
        create=not read_only,
        cleanup_tmp_directories=not read_only,
        save_root_metadata=False,  # for which all processes would have to come
        read_only=read_only,
    )
    handlers = {
        "state": ocp.PyTreeCheckpointHandler(),
        "host": ocp.JsonCheckpointHandler(),
    }
    return ocp.CheckpointManager(folder, options=options, item_handlers=handlers)


@contextlib.contextmanager
def closing(
    checkpoints: ocp.CheckpointManager,
) -> Iterator[ocp.CheckpointManager]:
    """Waits at the end for what is being saved, but not where a process has failed:
    the others' part may never come."""
    try:
        yield checkpoints
    except BaseException:
        if not processes.several():
            with contextlib.suppress(Exception):  # it would hide the first one
                checkpoints.close()
        raise
    checkpoints.close()


def _accuracy(metrics):
    return metrics["accuracy"]


def save(
    checkpoints: ocp.CheckpointManager,
    step: int,
    state: TrainState,
    host: dict[str, Any],
    metrics: dict[str, float] | None = None,
) -> None:
    """Starts saving; returns when `state` may be donated.

    Raises OSError if this one, or that before it, cannot be written.
    """
    host = json.loads(json.dumps(host))  # a copy: it is written later, by a thread
    args = ocp.args.Composite(
        state=ocp.args.PyTreeSave(state), host=ocp.args.JsonSave(host)
    )
    with _writing(checkpoints):
        checkpoints.save(step, args=args, metrics=metrics)


def finish(checkpoints: ocp.CheckpointManager) -> None:
    """Waits until all is saved. Raises OSError if it cannot be written."""
    with _writing(checkpoints):
        checkpoints.wait_until_finished()


@contextlib.contextmanager
def _writing(checkpoints):
    try:
        yield
    except Exception as error:  # tensorstore and orbax raise many kinds
        raise OSError(
            f"a checkpoint cannot be saved in {checkpoints.directory}: see whether"
            " there is room, and start again to go on from the one before"
            f" ({_short(error)})"
        ) from error


def _short(error):
    """The first line, without its middle."""
    line = (str(error) or repr(error)).splitlines()[0]
    return line if len(line) <= 300 else f"{line[:150]} ... {line[-150:]}"


def restore_latest(
    checkpoints: ocp.CheckpointManager,
    like: TrainState,
    *,
    num_blocks: int,
    axes: TrainState = AXES,
) -> tuple[TrainState, dict[str, Any]] | None:
    """The newest state that can be read, and the host's part; None if none is there.

    A damaged checkpoint is named in the log and put aside. Raises ValueError if none
    can be read, `OtherModel` if the stored state has not the shapes of `like`.
    """
    damaged = []
    for step in sorted(checkpoints.all_steps(), reverse=True):
        reason = None
        try:
            check_alike(checkpoints, step, like)
            found = restore(checkpoints, step, like, num_blocks=num_blocks, axes=axes)
        except (OtherModel, MemoryError):
            raise
        except Exception as error:  # tensorstore and orbax raise many kinds
            if "RESOURCE_EXHAUSTED" in str(error):
                raise
            reason = _short(error)
        if not processes.all_agree(reason is None):
            reason = reason or "another process failed to"
            logging.warning("checkpoint %d cannot be read: %s", step, reason)
            damaged.append(step)
            continue
        for step in damaged:
            put_aside(checkpoints, step, "damaged")
        return found
    if damaged:
        raise ValueError(
            f"none of the checkpoints in {checkpoints.directory} can be read now"
            f" ({reason}): nothing was changed there; see whether the storage is in"
            " order, or start in another workdir"
        )
    return None


def put_aside(checkpoints: ocp.CheckpointManager, step: int, why: str) -> None:
    """Moves a checkpoint out of the way, to WORKDIR/{why}-{step}; nothing is lost."""
    folder = epath.Path(checkpoints.directory)
    aside = folder.parent / f"{why}-{step}"
    if jax.process_index() == 0:
        if aside.exists():
            aside.rmtree()
        (folder / str(step)).rename(aside)
    processes.all_agree(True)  # that it is done
    checkpoints.reload()


def restore(
    checkpoints: ocp.CheckpointManager,
    step: int,
    like: TrainState,
    *,
    num_blocks: int,
    axes: TrainState = AXES,
) -> tuple[TrainState, dict[str, Any]]:
    """The state saved at `step`, placed on today's devices as `axes` says.

    `like` gives shapes and dtypes. Class-conditional chains lie in `num_blocks`
    blocks of equal size on each device; on another number of devices than before
    they are dealt anew.
    """
    wanted = like.chains
    if wanted is not None:
        stored = checkpoints.item_metadata(step)["state"].tree["chains"]["samples"]
        as_stored = jax.ShapeDtypeStruct(stored.shape, stored.dtype)
        like = like.replace(chains=replay.Buffer(as_stored))
    state, host = _read(checkpoints, step, like)
    if wanted is not None and stored.shape != wanted.samples.shape:
        before, now = len(state.chains.samples), len(wanted.samples)
        logging.info("dealing chains of %d devices to %d", before, now)
        dealt = deal(state.chains.samples, now, num_blocks)
        state = state.replace(chains=replay.Buffer(dealt))
    return parallel.place(state, axes), host


def restore_model(
    checkpoints: ocp.CheckpointManager, step: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What `MODEL` names, as NumPy arrays, and the host's part; on any devices."""
    stored = checkpoints.item_metadata(step)["state"].tree
    return _read(checkpoints, step, {name: stored[name] for name in MODEL})


def _read(checkpoints, step, target):
    """The state's part `target` as NumPy, and the host's part.

    Every process reads for itself. The manager's `restore` would have all of them
    meet at its end, and wait there for one that finds its file damaged.
    """
    folder = epath.Path(checkpoints.directory) / str(step)
    as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), target)
    args = ocp.args.PyTreeRestore(target, restore_args=as_numpy, partial_restore=True)
    state = ocp.PyTreeCheckpointHandler().restore(folder / "state", args=args)
    return state, ocp.JsonCheckpointHandler().restore(folder / "host")


def check_alike(
    checkpoints: ocp.CheckpointManager, step: int, like: TrainState
) -> None:
    """Raises `OtherModel`, naming the first difference, if a state of other shapes is
    stored. How chains are spread over devices is not one."""
    stored = checkpoints.item_metadata(step)["state"].tree
    wanted = ocp.utils.serialize_tree(like, keep_empty_nodes=True)
    for name, before, now in differences(stored, wanted):
        if name == "chains/samples" and before and now:
            if before[0] * before[1] == now[0] * now[1] and before[2:] == now[2:]:
                continue
        raise OtherModel(
            f"{checkpoints.directory} has another model: its {name} is"
            f" {before or 'absent'}, the config's {now or 'absent'};"
            " choose another workdir"
        )


def differences(
    stored: Any, wanted: Any
) -> list[tuple[str, tuple[int, ...] | None, tuple[int, ...] | None]]:
    """The leaves that differ: (path, stored shape, wanted shape), None where absent."""
    before, now = _shapes(stored), _shapes(wanted)
    names = sorted(before.keys() | now.keys())
    rows = ((name, before.get(name), now.get(name)) for name in names)
    return [row for row in rows if row[1] != row[2]]


def deal(samples: np.ndarray, num_devices: int, num_blocks: int) -> np.ndarray:
    """[D, N/D, ...] -> [D', N/D', ...], every chain staying in its class's block."""
    shape = samples.shape[2:]
    blocks = samples.reshape(len(samples), num_blocks, -1, *shape).swapaxes(0, 1)
    dealt = blocks.reshape(num_blocks, num_devices, -1, *shape).swapaxes(0, 1)
    return dealt.reshape(num_devices, -1, *shape)


def _shapes(tree):
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    name = functools.partial(jax.tree_util.keystr, simple=True, separator="/")
    return {name(path): tuple(leaf.shape) for path, leaf in leaves}
