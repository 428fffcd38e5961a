"""Divergence: noticed, and recovered from by going back to a checkpoint."""

import logging
import math
from collections.abc import Iterable

import jax
import numpy as np
import orbax.checkpoint as ocp

from ebmjax import checkpoint, guard, parallel, train_step, writers
from ebmjax import plan as plans
from ebmjax.facts import Facts, check_code

MAX_SKIPS = 10  # steps in a row that may be skipped before going back
# Keys that a resumed run may change, and that change what losses and gradients are.
LOSS_KEYS = ("optimizer", "sgld", "hdge", "outliers", "adversarial")


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


def change_losses(keys: Iterable[str]) -> bool:
    """Whether the losses after a change of these keys may be unlike those before."""
    return any(key.split(".")[0] in LOSS_KEYS for key in keys)


def forget_guard(state: train_step.TrainState) -> train_step.TrainState:
    """The state with a guard that has seen no step, so that it cannot go on skipping
    steps that are as they should be."""
    if state.guard is None:
        return state
    fresh = guard.forget(jax.device_get(state.guard))
    return state.replace(guard=parallel.place(jax.device_get(fresh)))


class Recovery:
    """Where training starts, and where it goes back to after a divergence.

    Going back changes the random stream and multiplies the learning rate by
    ``config.recovery.lr_factor``. A checkpoint that leads to a divergence a second time
    is put aside, to WORKDIR/diverged-STEP, unless it is the only one.
    """

    def __init__(
        self,
        plan: plans.Plan,
        checkpoints: ocp.CheckpointManager,
        workdir: str,
    ):
        self.plan, self.checkpoints, self.workdir = plan, checkpoints, workdir
        self.settings = plan.config.recovery
        # The log is the record of past divergences: it outlives the states before them.
        events = writers.events(workdir)
        self.count = len(events)
        self.last_start = events[-1]["step"] if events else None

    def newest(self) -> tuple[train_step.TrainState, writers.Meter]:
        """The newest checkpoint, or the state at step 0."""
        restored = checkpoint.restore_latest(
            self.checkpoints,
            jax.eval_shape(self.plan.make_state),
            num_blocks=self.plan.settings.num_blocks,
            axes=self.plan.axes,
            check_host=self._check_facts,
        )
        if restored is None:
            state = plans.start_state(self.plan)
            meter = writers.Meter({}, 0)
        else:
            state, host = restored
            meter = writers.Meter(host["sums"], host["count"])
        self.count = max(self.count, int(state.recoveries))
        return state.replace(recoveries=parallel.place(np.int32(self.count))), meter

    def _check_facts(self, host):
        """Raises `checkpoint.CheckpointMismatchError` for other code or other data."""
        now = self.plan.facts
        stored = Facts.of(host)
        check_code(self.workdir, stored.own, now.own)
        for name in ("class_names", "image_shape", "scaling", "data_checksum"):
            before, after = getattr(stored, name), getattr(now, name)
            if before != after:
                raise checkpoint.CheckpointMismatchError(
                    f"{self.workdir} was trained on other data: {name} was"
                    f" {_shortened(before)}, and is {_shortened(after)}; give it the"
                    " same data, or choose another workdir"
                )

    def go_back(
        self, error: Diverged, writer: writers.Writers
    ) -> tuple[train_step.TrainState, writers.Meter]:
        """The state to continue from after `error`, which is raised again if
        ``config.recovery.max_recoveries`` is used up."""
        if self.count >= self.settings.max_recoveries:
            raise error
        self._quarantine_checkpoint()
        self.count += 1
        state, meter = self.newest()
        state = forget_guard(state)
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


def _shortened(value):
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}..."
