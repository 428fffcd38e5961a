"""Saving and restoring training states with orbax: asynchronous and atomic.

A checkpoint holds a `step.TrainState` and a small dictionary of the host's
(means not yet logged, recoveries so far). Chains are stored as they lie,
[D, N/D, ...], and dealt anew when the number of devices has changed.
"""

import logging
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint import checkpoint_managers as policies

from ebmjax import parallel, replay
from ebmjax.step import AXES, TrainState

FOLDER = "checkpoints"


def manager(
    workdir: str, *, keep_last: int = 3, keep_best: int = 0, read_only: bool = False
) -> ocp.CheckpointManager:
    """Keeps the last checkpoints and the best by metric "accuracy"."""
    # A relative path fails only later, in orbax's background thread.
    folder = epath.Path(workdir).resolve() / FOLDER
    best = policies.BestN(
        get_metric_fn=lambda metrics: metrics["accuracy"],
        n=keep_best,
        keep_checkpoints_without_metrics=False,
    )
    keep = policies.AnyPreservationPolicy([policies.LatestN(keep_last), best])
    options = ocp.CheckpointManagerOptions(
        preservation_policy=None if read_only else keep,
        best_fn=lambda metrics: metrics["accuracy"],
        cleanup_tmp_directories=not read_only,
        read_only=read_only,
    )
    return ocp.CheckpointManager(folder, options=options)


def save(
    checkpoints: ocp.CheckpointManager,
    step: int,
    state: TrainState,
    host: dict[str, Any],
    metrics: dict[str, float] | None = None,
) -> None:
    """Starts saving; returns when `state` may be donated."""
    args = ocp.args.Composite(
        state=ocp.args.StandardSave(state), host=ocp.args.JsonSave(host)
    )
    checkpoints.save(step, args=args, metrics=metrics)


def restore(
    checkpoints: ocp.CheckpointManager,
    step: int,
    like: TrainState,
    *,
    num_blocks: int,
) -> tuple[TrainState, dict[str, Any]]:
    """The state saved at `step`, placed on today's devices.

    `like` gives shapes and dtypes (arrays, or jax.ShapeDtypeStruct). Raises
    ValueError if the stored state has others. Class-conditional chains lie in
    `num_blocks` blocks of equal size on each device.
    """
    stored = checkpoints.item_metadata(step)["state"]
    target = _with_shardings(like)
    redeal = like.chains is not None
    if redeal:
        shape = tuple(stored["chains"]["samples"].shape)
        redeal = shape != like.chains.samples.shape
    if redeal:
        everywhere = jax.NamedSharding(parallel.mesh(), jax.P())
        chains = jax.ShapeDtypeStruct(
            shape, like.chains.samples.dtype, sharding=everywhere
        )
        target = target.replace(chains=replay.Buffer(chains))
    args = ocp.args.Composite(
        state=ocp.args.StandardRestore(target), host=ocp.args.JsonRestore()
    )
    restored = checkpoints.restore(step, args=args)
    state = restored["state"]
    if redeal:
        samples = deal(
            np.asarray(state.chains.samples), len(like.chains.samples), num_blocks
        )
        if samples.shape != like.chains.samples.shape:
            raise ValueError(
                f"the checkpoint has chains {shape}, the config"
                f" {like.chains.samples.shape}: config.sgld.buffer_size must stay"
            )
        logging.info("chains re-dealt from %d devices to %d", shape[0], len(samples))
        state = state.replace(chains=parallel.place(replay.Buffer(samples), 0))
    return state, restored["host"]


def deal(samples: np.ndarray, num_devices: int, num_blocks: int) -> np.ndarray:
    """[D, N/D, ...] -> [D', N/D', ...], every chain staying in its class's block."""
    shape = samples.shape[2:]
    blocks = samples.reshape(len(samples), num_blocks, -1, *shape).swapaxes(0, 1)
    if blocks[0, :, :, ...].size and (blocks.shape[1] * blocks.shape[2]) % num_devices:
        raise ValueError(
            f"{samples.shape[0] * samples.shape[1]} chains in {num_blocks} blocks do"
            f" not divide over {num_devices} devices"
        )
    dealt = blocks.reshape(num_blocks, num_devices, -1, *shape).swapaxes(0, 1)
    return dealt.reshape(num_devices, -1, *shape)


def _with_shardings(like):
    shardings = parallel.shardings(like, AXES)
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), like, shardings
    )
