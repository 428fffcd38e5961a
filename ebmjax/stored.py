"""What `runs.load` reads: a checkpoint of a run directory, or a portable folder."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ebmjax import augment, portable
from ebmjax import checkpoint as checkpoints
from ebmjax.config import Config
from ebmjax.facts import Facts


def read(
    workdir: str, which: str | int, ema: bool, c: Config
) -> tuple[dict[str, Any], tuple[Any, Any]]:
    """The fields of a `runs.Run` that are stored, and (params, model_state).

    `which` is a checkpoint as in `runs.load`, which lists the errors.
    """
    if portable.is_portable(workdir):
        return _read_portable(workdir, which, ema, c)
    return _read_checkpoint(workdir, which, ema)


def _read_checkpoint(workdir, which, ema):
    with checkpoints.manager(workdir, read_only=True) as stored:
        step = _find(stored, which)
        state, host = checkpoints.restore_model(stored, step)
    facts = Facts.of(host)
    params = state["ema"] if ema else state["params"]
    if params is None:
        raise ValueError(
            f"the run in {workdir} keeps no averaged parameters: its"
            " config.optimizer.ema_decay is 0"
        )
    buffer = None
    if state["chains"] is not None:
        samples = state["chains"]["samples"]
        buffer = checkpoints.reshard_chains(samples, 1, facts.num_blocks)[0]
    fields = {
        "step": step,
        "recoveries": int(state["recoveries"]),
        "skipped": int(state["guard"]["num_skipped"]) if "guard" in state else 0,
        "facts": facts,
        "buffer": buffer,
    }
    return fields, (params, state["model_state"] or {})


def _read_portable(workdir, which, ema, c):
    model = portable.read(workdir)
    metadata = model.metadata
    step, averaged = metadata["step"], metadata["ema"]
    if which not in (step, "last", c.eval.checkpoint):
        raise ValueError(
            f"{workdir} has no checkpoint {which!r}: a portable model is that of one"
            f" step, {step}"
        )
    if ema != averaged:
        kind = "averaged" if averaged else "not the averaged"
        raise ValueError(
            f"{workdir} holds {kind} parameters, and a portable model has no others:"
            f" leave out ema, or pass ema={averaged}"
        )
    buffer = model.chains
    fields = {
        "step": step,
        "recoveries": metadata["recoveries"],
        "skipped": metadata["skipped"],
        "facts": Facts.of(metadata["facts"]),
        "buffer": None if buffer is None else np.asarray(augment.to_float(buffer)),
        "quantiles": metadata["log_density"],
    }
    return fields, (model.params, model.model_state)


def check_variables(workdir, network, variables, shape):
    """Raises ValueError unless the network has variables of these shapes."""
    example = jnp.zeros((2, *shape))
    expected = jax.eval_shape(network.init, jax.random.key(0), example)
    found = checkpoints.difference(variables, expected)
    if found:
        raise ValueError(f"{workdir} was trained with another network: {found}")


def _find(stored, which):
    """The step of the "last" or "best" checkpoint, or of the one at a step."""
    steps = stored.all_steps()
    step = {"last": stored.latest_step(), "best": stored.best_step()}.get(which, which)
    if not steps:
        raise FileNotFoundError(f"{stored.directory} has no checkpoint: train first")
    if step not in steps:
        raise ValueError(
            f"{stored.directory} has no checkpoint {which!r}, but those of steps"
            f" {', '.join(map(str, sorted(steps)))}"
        )
    return step
