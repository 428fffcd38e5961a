"""Saving and restoring training states with orbax: asynchronous and atomic.

A checkpoint holds a `train_step.TrainState` and a dictionary of the host: metrics not
yet logged, facts about the data. Chains are stored as they lie on the devices,
[D, N/D, ...], and resharded when the number of devices has changed.
"""

import contextlib
import functools
import glob
import json
import logging
import operator
import re
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint import checkpoint_managers as policies

from ebmjax import guard, logit_queue, parallel, processes, replay, rundir
from ebmjax.replay import reshard_chains
from ebmjax.train_step import AXES, TrainState

# The fields that only some configs have: where None, they are not stored.
OPTIONAL = ("queue", "guard")
# The fields that a trained model needs.
MODEL = ("step", "recoveries", "params", "model_state", "ema", "chains")


class CheckpointMismatchError(ValueError):
    """The stored state is not that of the network that the config describes."""


def manager(
    workdir: str, *, keep_last: int = 3, keep_best: int = 0, read_only: bool = False
) -> ocp.CheckpointManager:
    """Keeps the last checkpoints and the best by metric "accuracy".

    With `read_only` nothing is created or deleted.
    """
    folder = rundir.folder(workdir) / rundir.CHECKPOINTS
    if not rundir.in_bucket(folder):
        folder = _LiteralPath(folder)
    accuracy = operator.itemgetter("accuracy")
    best = policies.BestN(
        get_metric_fn=accuracy, n=keep_best, keep_checkpoints_without_metrics=False
    )
    keep = policies.AnyPreservationPolicy([policies.LatestN(keep_last), best])
    # Not orbax's own `read_only`, which warns at every use.
    options = ocp.CheckpointManagerOptions(
        preservation_policy=None if read_only else keep,
        best_fn=accuracy,
        create=not read_only,
        cleanup_tmp_directories=not read_only,
        save_root_metadata=False,  # all processes would have to take part
    )
    state, host = _VerifyingHandler(), ocp.JsonCheckpointHandler()
    handlers = ocp.handlers.DefaultCheckpointHandlerRegistry()
    handlers.add("state", ocp.args.PyTreeSave, state)
    handlers.add("state", ocp.args.PyTreeRestore, state)
    handlers.add("host", ocp.args.JsonSave, host)
    handlers.add("host", ocp.args.JsonRestore, host)
    return ocp.CheckpointManager(folder, options=options, handler_registry=handlers)


class _VerifyingHandler(ocp.PyTreeCheckpointHandler):
    """Opens every array of a checkpoint before it counts as one.

    If that fails, the checkpoint stays a temporary folder, the older ones are kept,
    and the next `save` or `finish` raises.
    """

    def finalize(self, directory: epath.Path) -> None:
        super().finalize(directory)
        self.metadata(directory)


class _LiteralPath(type(epath.Path())):
    """A local path with `glob` patterns that are relative to it.

    epath expands patterns in the path itself too, so that orbax would not find the
    files of a checkpoint in a folder named lr[0.1].
    """

    def glob(self, pattern: str) -> Iterator[epath.Path]:
        return (self / name for name in glob.glob(pattern, root_dir=self))


@contextlib.contextmanager
def closing(
    checkpoints: ocp.CheckpointManager,
) -> Iterator[ocp.CheckpointManager]:
    """Waits at the end for what is being saved.

    After an error one of several processes does not wait: the others may never write
    their part.
    """
    try:
        yield checkpoints
    except BaseException:
        if not processes.several():
            with contextlib.suppress(Exception):  # it would hide the first one
                checkpoints.close()
        raise
    checkpoints.close()


def save(
    checkpoints: ocp.CheckpointManager,
    step: int,
    state: TrainState,
    host: dict[str, Any],
    metrics: dict[str, float] | None = None,
) -> None:
    """Starts saving; returns when `state` may be donated.

    Raises OSError if this checkpoint, or the one before it, cannot be written.
    """
    host = json.loads(json.dumps(host))  # a copy: it is written later, by a thread
    args = ocp.args.Composite(
        state=ocp.args.PyTreeSave(_as_stored(state)), host=ocp.args.JsonSave(host)
    )
    with _writing(checkpoints):
        if not checkpoints.save(step, args=args, metrics=metrics):
            raise ValueError(f"step {step} is not later than the newest checkpoint")


def _as_stored(state):
    """{field: its tree}, without those of `OPTIONAL` that are None."""
    return {k: v for k, v in vars(state).items() if k not in OPTIONAL or v is not None}


def finish(checkpoints: ocp.CheckpointManager) -> None:
    """Waits until all is saved, and found to be readable. Raises OSError if not."""
    with _writing(checkpoints):
        checkpoints.wait_until_finished()


@contextlib.contextmanager
def _writing(checkpoints):
    try:
        yield
    except Exception as error:  # tensorstore and orbax raise many kinds
        raise OSError(
            f"a checkpoint cannot be saved in {checkpoints.directory}"
            f" ({_first_line(error)}); free some space if the disk is full, then"
            " start again to resume from the previous checkpoint"
        ) from error


def _first_line(error):
    """The first line of the message, shortened in the middle.

    Tensorstore adds annotations, [tensorstore_spec='...'] among them, which are longer
    than the message and not for a user.
    """
    line = (str(error) or repr(error)).splitlines()[0]
    line = re.split(r" \[\w+='", line)[0]
    return line if len(line) <= 300 else f"{line[:150]} ... {line[-150:]}"


def restore_latest(
    checkpoints: ocp.CheckpointManager,
    like: TrainState,
    *,
    num_blocks: int,
    axes: TrainState = AXES,
    check_host: Callable[[dict[str, Any]], None] = lambda host: None,
) -> tuple[TrainState, dict[str, Any]] | None:
    """The newest state that can be read, and the host's part; None if there is none.

    `check_host` may refuse the host's part by a `CheckpointMismatchError`, which is
    also raised if the stored arrays are not like those of `like`. A damaged checkpoint
    is logged and quarantined; raises ValueError if none can be read.
    """
    damaged = []
    for step in sorted(checkpoints.all_steps(), reverse=True):
        reason = None
        try:
            check_host(_read_host(checkpoints, step))
            check_matches(checkpoints, step, like)
            restored = restore(
                checkpoints, step, like, num_blocks=num_blocks, axes=axes
            )
        except (CheckpointMismatchError, MemoryError):
            raise
        except Exception as error:  # tensorstore and orbax raise many kinds
            if "RESOURCE_EXHAUSTED" in str(error):
                raise
            reason = _first_line(error)
        if not processes.all_agree(reason is None):
            reason = reason or "another process could not read it"
            logging.warning("checkpoint %d cannot be read: %s", step, reason)
            damaged.append(step)
            continue
        for step in damaged:
            quarantine(checkpoints, step, "damaged")
        return restored
    if damaged:
        raise ValueError(
            f"none of the checkpoints in {checkpoints.directory} can be read"
            f" ({reason}); none was changed: check the storage, or choose another"
            " workdir"
        )
    return None


def quarantine(checkpoints: ocp.CheckpointManager, step: int, reason: str) -> None:
    """Moves a checkpoint to WORKDIR/{reason}-{step}, replacing an older one there."""
    folder = epath.Path(checkpoints.directory)
    target = folder.parent / f"{reason}-{step}"
    if jax.process_index() == 0:
        if target.exists():
            target.rmtree()
        (folder / str(step)).rename(target)
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
    """The state saved at `step`, placed on the devices as `axes` says.

    `like` gives shapes and dtypes. Class-conditional chains lie in `num_blocks`
    blocks of equal size on each device; see `reshard_chains`.
    """
    wanted, tree = like, checkpoints.item_metadata(step)["state"].tree
    like = _as_they_lie(like, tree)
    fresh = {}
    if like.guard is not None and "guard" not in tree:  # switched on since
        fresh, like = {"guard": guard.init()}, like.replace(guard=None)
    state, host = _read(checkpoints, step, _as_stored(like))
    state = _resharded(TrainState(**state | fresh), wanted, num_blocks)
    return parallel.place(state, axes), host


def _as_they_lie(like, tree):
    """The state `like`, with chains and queue of as many devices as are stored."""
    if like.chains is not None:
        like = like.replace(chains=replay.Buffer(tree["chains"]["samples"]))
    return like if like.queue is None else like.replace(queue=tree["queue"])


def _resharded(state, like, num_blocks):
    """The state with chains and queue on as many devices as those of `like`."""
    if like.chains is not None and len(like.chains.samples) != len(
        state.chains.samples
    ):
        before, now = len(state.chains.samples), len(like.chains.samples)
        logging.info("resharding the chains of %d devices to %d", before, now)
        samples = reshard_chains(state.chains.samples, now, num_blocks)
        state = state.replace(chains=replay.Buffer(samples))
    if like.queue is not None and len(state.queue) != len(like.queue):
        joined = logit_queue.join(state.queue)
        state = state.replace(queue=logit_queue.split(joined, len(like.queue)))
    return state


def restore_model(
    checkpoints: ocp.CheckpointManager, step: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The fields named by `MODEL` as NumPy arrays, and the host's part.

    Raises `CheckpointMismatchError` if one of the fields is not stored, OSError if the
    checkpoint cannot be read.
    """
    name = f"checkpoint {step} in {checkpoints.directory}"
    try:
        stored = checkpoints.item_metadata(step)["state"].tree
        missing = [field for field in MODEL if field not in stored]
        if missing:
            raise CheckpointMismatchError(
                f"{name} was written by another version of ebmjax: it has no"
                f" {', '.join(missing)}"
            )
        fields = (*MODEL, "guard") if "guard" in stored else MODEL
        return _read(checkpoints, step, {field: stored[field] for field in fields})
    except (CheckpointMismatchError, MemoryError):
        raise
    except Exception as error:  # tensorstore and orbax raise many kinds
        raise OSError(f"{name} cannot be read ({_first_line(error)})") from error


def _read(checkpoints, step, target):
    """The state's part `target` as NumPy, and the host's part.

    Every process reads for itself. The manager's `restore` would synchronise them at
    its end, and wait there for one that finds its file damaged.
    """
    folder = epath.Path(checkpoints.directory) / str(step)
    as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), target)
    args = ocp.args.PyTreeRestore(target, restore_args=as_numpy, partial_restore=True)
    state = ocp.PyTreeCheckpointHandler().restore(folder / "state", args=args)
    return state, _read_host(checkpoints, step)


def _read_host(checkpoints, step):
    folder = epath.Path(checkpoints.directory) / str(step)
    return ocp.JsonCheckpointHandler().restore(folder / "host")


def check_matches(
    checkpoints: ocp.CheckpointManager, step: int, like: TrainState
) -> None:
    """Raises `CheckpointMismatchError`, naming the first difference, if the stored
    arrays have other names, shapes or dtypes than those of `like`. How chains are
    spread over devices makes no difference, nor does a guard, which may be switched on
    and off."""
    stored = dict(checkpoints.item_metadata(step)["state"].tree)
    stored.pop("guard", None)
    expected = _as_stored(like.replace(guard=None))
    found = difference(
        stored, ocp.utils.serialize_tree(expected, keep_empty_nodes=True)
    )
    if found:
        raise CheckpointMismatchError(
            f"checkpoint does not match the config: {found} (checkpoint {step} in"
            f" {checkpoints.directory}); choose another workdir"
        )


def difference(stored: Any, expected: Any) -> str | None:
    """The first difference in name, shape or dtype between two trees of arrays."""
    stored, expected = _arrays(stored), _arrays(expected)
    for name in sorted(stored.keys() | expected.keys()):
        before, now = stored.get(name), expected.get(name)
        if before == now:
            continue
        if before is None or now is None:
            return f"{name} is {'missing' if before is None else 'unknown'}"
        if before[0] != now[0]:
            return f"{name} has shape {before[0]}, expected {now[0]}"
        return f"{name} has dtype {before[1]}, expected {now[1]}"
    return None


def _arrays(tree):
    """{path: (shape, dtype)}; of chains and queue [D, N/D, ...] the shape [N, ...]."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    name = functools.partial(jax.tree_util.keystr, simple=True, separator="/")
    arrays = {name(path): (tuple(x.shape), str(x.dtype)) for path, x in leaves}
    for path in arrays.keys() & {"chains/samples", "queue"}:
        (devices, each, *shape), dtype = arrays[path]
        arrays[path] = (devices * each, *shape), dtype
    return arrays
