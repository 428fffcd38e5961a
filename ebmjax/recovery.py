"""Divergence: noticed, and recovered from by going back to a checkpoint."""

import logging
import math
from collections.abc import Callable

import jax
import ml_collections
import numpy as np
import orbax.checkpoint as ocp

from ebmjax import checkpoint, parallel, runs, train_step, writers

MAX_SKIPS = 10  # steps in a row that may be skipped before going back


class Diverged(RuntimeError):
    """A number that should be finite and small is not."""

    def __init__(self, step: int, term: str, value: float):
        super().__init__(f"training diverged at step {step}: {term} is {value:g}")
        self.step, self.term, self.value = step, term, value


def check_metrics(step: int, metrics: dict[str, float], max_loss: float) -> None:
    """Raises `Diverged` for the first number that is not finite or too large."""
    # The sum comes last: the term that broke it is more telling.
    for name in sorted(metrics, key=lambda name: name == "loss"):
        value = metrics[name]
        if not math.isfinite(value):
            raise Diverged(step, name, value)
        if abs(value) > max_loss and not name.endswith("grad_norm"):
            raise Diverged(step, name, value)


def check_skips(step: int, in_a_row: int) -> None:
    """Raises `Diverged` if skipping steps does not help."""
    if in_a_row >= MAX_SKIPS:
        raise Diverged(step, "the number of skipped steps in a row", in_a_row)


class Recovery:
    """Where training starts, and where it goes back to after a divergence.

    Going back changes the random stream and multiplies the learning rate by
    ``config.recovery.lr_factor``. A checkpoint that leads to a divergence a second time
    is put aside, to WORKDIR/diverged-STEP, unless it is the only one.
    """

    def __init__(
        self,
        settings: ml_collections.ConfigDict,  # config.recovery
        checkpoints: ocp.CheckpointManager,
        workdir: str,
        *,
        make_state: Callable[[], train_step.TrainState],  # at step 0, on its devices
        axes: train_step.TrainState,
        num_blocks: int,  # of the replay buffer
        own: list[str],  # fields of the recipe that are code of the user's
    ):
        self.workdir, self.own = workdir, own
        self.settings, self.checkpoints = settings, checkpoints
        self.make_state, self.axes, self.num_blocks = make_state, axes, num_blocks
        # The log is the record of past divergences: it outlives the states before them.
        events = writers.events(workdir)
        self.count = len(events)
        self.last_start = events[-1]["step"] if events else None

    def newest(self) -> tuple[train_step.TrainState, writers.Meter]:
        """The newest checkpoint, or the state at step 0."""
        like = jax.eval_shape(self.make_state)
        restored = checkpoint.restore_latest(
            self.checkpoints,
            like,
            num_blocks=self.num_blocks,
            axes=self.axes,
            check_host=lambda host: runs.check_recipe(
                self.workdir, host["own"], self.own
            ),
        )
        if restored is None:
            state = self.make_state()
            meter = writers.Meter({}, 0)
        else:
            state, host = restored
            meter = writers.Meter(host["sums"], host["count"])
        self.count = max(self.count, int(state.recoveries))
        return state.replace(recoveries=parallel.place(np.int32(self.count))), meter

    def go_back(
        self, error: Diverged, writer: writers.Writer
    ) -> tuple[train_step.TrainState, writers.Meter]:
        """The state to continue from after `error`, which is raised again if
        ``config.recovery.max_recoveries`` is used up."""
        if self.count >= self.settings.max_recoveries:
            raise error
        self._quarantine_checkpoint()
        self.count += 1
        state, meter = self.newest()
        self.last_start = step = int(state.step)
        event = {
            "diverged_at": error.step,
            "term": error.term,
            "value": repr(error.value),
            "recoveries": self.count,
            "lr_factor": self.settings.lr_factor**self.count,
        }
        writer.rewind(step)
        writer.message(f"{error}; going back to step {step}")
        writer.write(step, "event", event)
        return state, meter

    def _quarantine_checkpoint(self):
        checkpoint.finish(self.checkpoints)
        steps = self.checkpoints.all_steps()
        if len(steps) > 1 and max(steps) == self.last_start:
            logging.warning(
                "checkpoint %d led to a divergence twice: it is moved to diverged-%d",
                self.last_start,
                self.last_start,
            )
            checkpoint.quarantine(self.checkpoints, self.last_start, "diverged")
