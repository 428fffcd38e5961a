"""Training a run: from its config and recipe, or from where its directory left off."""

import collections
import contextlib
import functools
import math
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from ebmjax import (
    batching,
    checkpoint,
    data,
    metrics,
    parallel,
    pictures,
    processes,
    recovery,
    rundir,
    runs,
    signals,
    train_step,
    writers,
)
from ebmjax import plan as plans
from ebmjax import recipe as recipes
from ebmjax.config import Config
from ebmjax.data import batches
from ebmjax.eval import calibration

LAG = 2  # steps that run on the device while the metrics of an older one are read


class Interrupted(RuntimeError):
    """A signal asked training to stop; the run is saved and can be resumed."""

    def __init__(self, number: int, step: int):
        name = signal.Signals(number).name
        super().__init__(f"saved at step {step} after {name}; run again to resume")
        self.number = number


class Session(NamedTuple):
    """What stays the same from step to step."""

    plan: plans.Plan
    run_step: Callable  # (state, its step) -> state, metrics
    checkpoints: Any
    writer: writers.Writers
    stop_requests: Any


def fit(
    config: Config,
    workdir: str,
    *,
    recipe: recipes.Recipe | None = None,
    data: data.Splits | None = None,
    writers: Iterable[Any] | None = None,
) -> runs.Run:
    """Trains until ``config.num_steps`` and returns the run.

    Leaves checkpoints, metrics.jsonl and pictures in `workdir`. A directory that holds
    a run is resumed: on a CPU with the same number of devices, bit for bit.

    Args:
      config: the numbers, from `ebmjax.config.default` or a config file.
      workdir: the run directory.
      recipe: what is code; by default the network, terms, sampler, ... of the config.
      data: arrays to train on; of ``config.data`` what describes the data set is then
        not used.
      writers: further writers, see `ebmjax.writers.Writer`.

    Raises:
      ValueError: for a config that cannot work or is not that of the directory.
      Interrupted: after SIGTERM, SIGHUP or SIGINT; the state is saved.
      recovery.Diverged: after ``config.recovery.max_recoveries`` returns to a
        checkpoint.
    """
    workdir = str(rundir.folder(workdir))
    plan = plans.make_plan(config, recipe, data)
    with contextlib.ExitStack() as stack:
        stop_requests = stack.enter_context(signals.stop_requests())
        changes = stack.enter_context(rundir.lock_workdir(workdir, config))
        checkpoints = stack.enter_context(_checkpoints(workdir, config.checkpoint))
        start = recovery.Recovery(plan, checkpoints, workdir)
        state, meter = start.newest()
        # Process 0 compares with the old config before it writes the new one.
        if not processes.all_agree(not recovery.change_losses(changes)):
            state = recovery.forget_guard(state)
        writer = _writer(workdir, config, int(state.step), writers or ())
        stack.callback(writer.close)
        run_step = stack.enter_context(step_program(plan))
        session = Session(plan, run_step, checkpoints, writer, stop_requests)
        while True:
            try:
                _train(state, meter, session)
                break
            except recovery.Diverged as error:
                # Without its traceback, which holds the state that is to be freed.
                diverged = error.with_traceback(None)
            del state
            state, meter = start.go_back(diverged, writer)
    return runs.load_with_config(workdir, config, recipe=recipe, data=plan.splits)


def _checkpoints(workdir, c):
    manager = checkpoint.manager(workdir, keep_last=c.keep_last, keep_best=c.keep_best)
    return checkpoint.closing(manager)


def _writer(workdir, c, step, own):
    if jax.process_index():
        return writers.Writers([])
    return writers.of_run(
        workdir,
        step=step,
        num_steps=c.num_steps,
        tensorboard=c.tensorboard,
        wandb=c.wandb,
        config=c.to_dict(),
        own=own,
    )


@contextlib.contextmanager
def step_program(plan: plans.Plan) -> Iterator[Callable]:
    """The compiled step with its data: (state, its step) -> state, metrics."""
    c, axes = plan.config, plan.axes
    program = parallel.spmd(
        functools.partial(
            train_step.train_step,
            recipe=plan.recipe,
            settings=plan.settings,
            axes=axes,
        ),
        in_axes=(axes, None, 0, None, None),
        out_axes=(axes, None),
        method=c.parallel.method,
        donate=(0,),
    )
    constant = parallel.place(
        (jax.random.fold_in(jax.random.key(c.seed), 1), plan.starts)
    )
    feed = batches.open_batches(
        plan.splits.train, plan.streams, resident_mib=c.data.resident_mib
    )
    with feed:
        yield lambda state, step: program(
            state, feed.resident, feed.batch(step), *constant
        )


def _train(state, meter, session: Session) -> None:
    """Takes the steps that are left, and does what is due after each."""
    plan, c = session.plan, session.plan.config
    step = first = int(state.step)
    pending = Pending(meter, session.writer, c.recovery.max_loss)
    timer = Timer(step)
    while step < c.num_steps:
        state, values = session.run_step(state, step)
        step += 1
        last = step == c.num_steps
        pending.add(step, values)
        if step == first + 1:  # compiled by now
            pending.read()
            timer.restart(step)

        if last or step % c.every.log == 0:
            pending.read()
            means = meter.take()
            if step > timer.step:
                means["images_per_s"] = round(timer.pace(step) * c.batch_size, 1)
            session.writer.write(step, "train", means)
            timer.restart(step)
        with timer.paused():
            if last or step % c.every.samples == 0:
                pending.read()
                _draw_chains(state, step, session)
            stop = processes.agreed_to_stop(step, bool(session.stop_requests))
            due = last or step % c.every.checkpoint == 0
            if due or stop:
                pending.read()
                measured = validate(state, step, session) if due else None
                if measured:
                    session.writer.write(step, "valid", measured)
                host = plan.facts._asdict() | {"sums": meter.sums, "count": meter.count}
                checkpoint.save(session.checkpoints, step, state, host, measured)
        if stop and not last:
            checkpoint.finish(session.checkpoints)
            raise Interrupted(session.stop_requests.number, step)
    checkpoint.finish(session.checkpoints)
    if session.stop_requests and not processes.several():  # during the last of it
        raise Interrupted(session.stop_requests.number, step)


class Pending:
    """Metrics that are still on the device: the loop runs `LAG` steps ahead of them."""

    def __init__(self, meter: writers.Meter, writer: writers.Writers, max_loss: float):
        self.meter, self.writer, self.max_loss = meter, writer, max_loss
        self.queue = collections.deque()

    def add(self, step: int, values: dict[str, jax.Array]) -> None:
        self.queue.append((step, values))
        self.read(LAG)

    def read(self, keep: int = 0) -> None:
        """Reads all but the newest `keep`. Raises `Diverged`."""
        while len(self.queue) > keep:
            step, values = self.queue.popleft()
            values = {name: float(x) for name, x in jax.device_get(values).items()}
            if in_a_row := int(values.pop("skips_in_a_row", 0)):
                self._skip(step, values, in_a_row)
            else:
                recovery.check_metrics(step, values, self.max_loss)
                self.meter.add(values)
            self.writer.advance()

    def _skip(self, step, values, in_a_row):
        """Counts a step that changed nothing. Raises `Diverged` after too many."""
        loss, norm = values["loss"], values["grad_norm"]
        self.writer.message(f"step {step} skipped: loss {loss:g}, gradient {norm:g}")
        self.meter.skip()
        recovery.check_skips(step, in_a_row)


class Timer:
    """Steps per second since `restart`, without the time of `paused` blocks."""

    def __init__(self, step: int):
        self.restart(step)

    def restart(self, step: int) -> None:
        self.since, self.step = time.monotonic(), step

    def pace(self, step: int) -> float:
        return (step - self.step) / (time.monotonic() - self.since)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        start = time.monotonic()
        yield
        self.since += time.monotonic() - start


def validate(
    state: train_step.TrainState, step: int, session: Session
) -> dict[str, float] | None:
    """Accuracy, NLL and calibration on the held-out examples; None without any.

    Histograms of the energies of these examples, and of chains, go to the trackers.
    """
    plan, writer = session.plan, session.writer
    chains, valid = _some_chains(state, plan), plan.splits.valid
    if chains is not None:
        logits = _logits(state, plan, chains, scaling=None)
        _write_energies(writer, step, "energy_chains", logits)
    if not len(valid.label):
        return None
    logits = _logits(state, plan, valid.image, scaling=plan.settings.scaling)
    if not np.all(np.isfinite(logits)):
        raise recovery.Diverged(step, "a validation logit", math.nan)
    _write_energies(writer, step, "energy_valid", logits)
    probs = metrics.softmax(logits)
    return {
        "accuracy": metrics.accuracy(logits, valid.label),
        "nll": metrics.nll_from_logits(logits, valid.label),
        "ece": calibration.ece(probs, valid.label, plan.config.eval.num_bins),
        "confidence": float(probs.max(axis=-1).mean()),
    }


def _logits(state, plan, x, scaling):
    c = plan.config
    params, axes = (s.ema if c.eval.ema else s.params for s in (state, plan.axes))
    return batching.over_batches(
        batching.logits(plan.recipe.network, c.parallel.method),
        (parallel.assembled(params, axes), state.model_state, scaling),
        x,
        batch_size=c.eval.batch_size,
    )


def _write_energies(writer, step, name, logits):
    energies = -metrics.log_density(logits)
    writer.histogram(step, name, energies[np.isfinite(energies)])


def _some_chains(state, plan):
    """Chains [N, ...] of this process as the network takes them, every k-th of its
    first device's and about a batch of them; None if there is no buffer."""
    if state.chains is None:
        return None
    samples = np.asarray(state.chains.samples.addressable_data(0)[0])
    return samples[:: -(-len(samples) // plan.config.eval.batch_size)]


def _draw_chains(state, step, session):
    """A picture of a hundred chains of the first device: a column a class if they are
    class-conditional."""
    if state.chains is None or state.chains.samples.ndim != 5 or jax.process_index():
        return
    num_blocks = session.plan.settings.num_blocks
    samples = state.chains.samples.addressable_data(0)[0]
    blocks = samples.reshape(num_blocks, -1, *samples.shape[1:])
    shown = blocks[:10, :10] if num_blocks > 1 else blocks[:, :100]
    shown = np.asarray(shown).reshape(-1, *samples.shape[1:])
    session.writer.images(step, "samples", pictures.grid(shown, 10))
