"""Training a run: from its config, or from where its directory left off."""

import collections
import contextlib
import functools
import logging
import math
import signal
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import ml_collections
import numpy as np

from ebmjax import (
    augment,
    batching,
    checkpoint,
    config,
    data,
    models,
    parallel,
    pictures,
    processes,
    recipe,
    replay,
    runs,
    train_step,
    writers,
)
from ebmjax.data import batches
from ebmjax.eval import calibration

LAG = 2  # steps that run on the device while the metrics of an older one are read


class Diverged(RuntimeError):
    """A number that should be finite and small is not."""

    def __init__(self, step: int, term: str, value: float):
        super().__init__(f"training diverged at step {step}: {term} is {value:g}")
        self.step, self.term, self.value = step, term, value


class Interrupted(RuntimeError):
    """A signal asked for an end; the run is saved and can go on."""

    def __init__(self, number: int, step: int):
        name = signal.Signals(number).name
        super().__init__(f"saved at step {step} after {name}; start again to go on")
        self.number = number


def fit(c: ml_collections.ConfigDict, workdir: str) -> None:
    """Trains until `c.num_steps`, leaving checkpoints, metrics.jsonl and pictures.

    A directory with a run in it is resumed: on a CPU with the same number of
    devices, bit for bit. Raises ValueError for a config that cannot work or is
    not that of the directory, `Interrupted` after SIGTERM or SIGINT, `Diverged`
    when `c.recovery.max_recoveries` returns to a checkpoint did not help.
    """
    config.check(c)
    processes.check_same("the config", config.to_json(c).encode())
    splits = recipe.read_by_all(lambda: recipe.splits(c))
    settings = recipe.settings(c, len(splits.class_names))
    check_sizes(c, splits, settings)
    streams = batches.streams(
        splits,
        seed=c.seed,
        batch_size=c.batch_size,
        labels_per_class=c.data.labels_per_class,
        split_seed=c.data.split_seed,
        separate=c.data.separate_streams,
    )
    with contextlib.ExitStack() as stack:
        signals = stack.enter_context(_signals())
        stack.enter_context(runs.claimed(workdir, c))
        checkpoints = stack.enter_context(
            checkpoint.closing(
                checkpoint.manager(
                    workdir,
                    keep_last=c.checkpoint.keep_last,
                    keep_best=c.checkpoint.keep_best,
                )
            )
        )
        feed = stack.enter_context(
            batches.open_batches(
                splits.train, streams, resident_mib=c.data.resident_mib
            )
        )
        num_blocks = recipe.num_blocks(c, settings.num_classes)
        first = splits.train.image[: c.batch_size]
        fresh = functools.partial(fresh_state, c, settings)
        like = jax.eval_shape(fresh, first)
        axes = train_step.fully_sharded(like) if c.parallel.fsdp else train_step.AXES
        if c.parallel.fsdp and not jax.tree.leaves(axes.params):
            raise ValueError(
                "config.parallel.fsdp: no layer is large enough to be cut into"
                f" {jax.device_count()} equal parts; leave it off"
            )

        def newest():
            found = checkpoint.restore_latest(
                checkpoints, like, num_blocks=num_blocks, axes=axes
            )
            if found is None:
                return parallel.make(fresh, first, axes=axes), writers.Meter({}, 0)
            state, host = found
            return state, writers.Meter(host["sums"], host["count"])

        state, meter = newest()
        # The log is the record of past divergences: it outlives what it went back to.
        past = writers.events(workdir)
        recoveries = max(len(past), int(state.recoveries))
        gone_back_to = past[-1]["step"] if past else None
        state = _recovered(state, recoveries)
        writer = writers.Writer(
            workdir,
            step=int(state.step),
            num_steps=c.num_steps,
            tensorboard=c.tensorboard,
            visible=jax.process_index() == 0,
        )
        stack.callback(writer.close)
        program = parallel.spmd(
            functools.partial(train_step.train_step, settings=settings, axes=axes),
            in_axes=(axes, None, 0, None),
            out_axes=(axes, None),
            method=c.parallel.method,
            donate=(0,),
        )
        key = parallel.place(jax.random.fold_in(jax.random.key(c.seed), 1))
        job = Job(
            config=c,
            workdir=workdir,
            run_step=lambda state, now: program(
                state, feed.resident, feed.batch(now), key
            ),
            valid=splits.valid,
            axes=axes,
            network=settings.network,
            num_blocks=num_blocks,
            checkpoints=checkpoints,
            facts={
                "class_names": list(splits.class_names),
                "image_shape": list(splits.train.image.shape[1:]),
            },
            writer=writer,
            signals=signals,
        )
        while True:
            try:
                return _steps(state, meter, job)
            except Diverged as error:
                if recoveries >= c.recovery.max_recoveries:
                    raise
                # Without its traceback, which holds the state that is to be freed.
                diverged = error.with_traceback(None)
            del state
            _give_up(checkpoints, gone_back_to)
            state, meter = newest()
            gone_back_to, recoveries = int(state.step), recoveries + 1
            state = _recovered(state, recoveries)
            event = {
                "diverged_at": diverged.step,
                "term": diverged.term,
                "value": repr(diverged.value),
                "recoveries": recoveries,
                "lr_factor": c.recovery.lr_factor**recoveries,
            }
            writer.rewind(gone_back_to)
            writer.say(f"{diverged}; going back to step {gone_back_to}")
            writer.write(gone_back_to, "event", event)


class Job(NamedTuple):
    """What stays the same from step to step."""

    config: ml_collections.ConfigDict
    workdir: str
    run_step: Callable  # (state, its step) -> state, metrics
    valid: data.Dataset
    axes: train_step.TrainState
    network: models.Network
    num_blocks: int  # of the replay buffer
    checkpoints: Any
    facts: dict  # about the data, for who reads the checkpoints
    writer: writers.Writer
    signals: list[int]  # received so far


def _steps(state: train_step.TrainState, meter: writers.Meter, job: Job) -> None:
    """Steps until the last, and whatever is due after each."""
    c, every = job.config, job.config.every
    unread = collections.deque()  # (step, metrics on the device)
    now = int(state.step)
    first = now
    since, since_step = time.monotonic(), now  # for the pace, without what is due

    def read_all_but(count):
        while len(unread) > count:
            at, metrics = unread.popleft()
            metrics = {name: float(x) for name, x in jax.device_get(metrics).items()}
            check_metrics(at, metrics, c.recovery.max_loss)
            meter.add(metrics)
            job.writer.advance()

    while now < c.num_steps:
        state, metrics = job.run_step(state, now)
        now += 1
        unread.append((now, metrics))
        read_all_but(LAG)
        last = now == c.num_steps
        if now == first + 1:  # compiled by now
            read_all_but(0)
            since, since_step = time.monotonic(), now

        if last or now % every.log == 0:
            read_all_but(0)
            means = meter.take()
            if now > since_step:
                pace = (now - since_step) / (time.monotonic() - since)
                means["images_per_s"] = round(pace * c.batch_size, 1)
            job.writer.write(now, "train", means)
            since, since_step = time.monotonic(), now
        paused = time.monotonic()
        if state.chains is not None and (last or now % every.samples == 0):
            read_all_but(0)
            _draw_chains(state, now, job)
        stop = processes.agreed_to_stop(now, bool(job.signals))
        due = last or now % every.checkpoint == 0
        if due or stop:
            read_all_but(0)
            measured = validate(state, now, job) if due else None
            if measured:
                job.writer.write(now, "valid", measured)
            host = job.facts | {"sums": meter.sums, "count": meter.count}
            checkpoint.save(job.checkpoints, now, state, host, measured)
        since += time.monotonic() - paused
        if stop and not last:
            checkpoint.finish(job.checkpoints)
            raise Interrupted(job.signals[-1] if job.signals else signal.SIGTERM, now)
    checkpoint.finish(job.checkpoints)
    if job.signals and not processes.several():  # during the last of it
        raise Interrupted(job.signals[-1], now)


def check_metrics(at: int, metrics: dict[str, float], max_loss: float) -> None:
    """Raises `Diverged` for the first number that is not finite or too large."""
    # The sum comes last: the term that broke it is more telling.
    for name in sorted(metrics, key=lambda name: name == "loss"):
        value = metrics[name]
        if not math.isfinite(value):
            raise Diverged(at, name, value)
        if abs(value) > max_loss and not name.endswith("grad_norm"):
            raise Diverged(at, name, value)


def validate(state: train_step.TrainState, now: int, job: Job) -> dict | None:
    """Accuracy and NLL on the held-out images; None if there are none."""
    c, valid = job.config, job.valid
    if not len(valid.label):
        return None
    params, axes = (s.ema if c.eval.ema else s.params for s in (state, job.axes))
    logits = batching.over_batches(
        batching.logits(job.network, c.parallel.method),
        (parallel.assembled(params, axes), state.stats),
        valid.image,
        batch_size=c.eval.batch_size,
    )
    nll = calibration.nll_from_logits(logits, valid.label)
    if not math.isfinite(nll):
        raise Diverged(now, "validation NLL", nll)
    return {"accuracy": calibration.accuracy(logits, valid.label), "nll": nll}


def check_sizes(c, splits: data.Splits, settings: train_step.Settings) -> None:
    """Raises ValueError for sizes that do not fit together."""
    parallel.check_divides("config.batch_size", c.batch_size)
    parts = c.optimizer.accumulate
    if c.batch_size // jax.device_count() % parts:
        raise ValueError(
            f"a device's batch of {c.batch_size // jax.device_count()} does not fall"
            f" into config.optimizer.accumulate={parts} equal parts"
        )
    num, (height, width) = len(splits.train.label), splits.train.image.shape[1:3]
    if c.batch_size > num:
        raise ValueError(
            f"config.batch_size is {c.batch_size}, but there are {num} training images"
        )
    if c.data.pad >= min(height, width):
        raise ValueError(
            f"config.data.pad is {c.data.pad}: reflection needs less than the"
            f" {height}x{width} image"
        )
    if c.eval.checkpoint == "best" and not len(splits.valid.label):
        raise ValueError(
            "config.eval.checkpoint is 'best', which needs validation images: set"
            " config.data.num_valid"
        )
    if not settings.weights.sampled:
        return
    num_blocks = recipe.num_blocks(c, settings.num_classes)
    num_devices = jax.device_count()
    if c.sgld.buffer_size % (num_blocks * num_devices):
        raise ValueError(
            f"config.sgld.buffer_size is {c.sgld.buffer_size}: it must be a multiple"
            f" of {num_blocks * num_devices} ({num_devices} devices"
            f" x {num_blocks} blocks)"
        )
    held = c.sgld.buffer_size // (num_blocks * num_devices)
    if held < c.batch_size // num_devices and not c.sgld.replace:
        raise ValueError(
            f"config.sgld.buffer_size is {c.sgld.buffer_size}: a device's block of"
            f" {held} chains is smaller than its batch of {c.batch_size // num_devices}"
        )


def fresh_state(
    c, settings: train_step.Settings, image: jax.Array
) -> train_step.TrainState:
    """The state before step 0, chains as [D, N/D, ...]. A function of the seed.

    `image` are the first images of the training set, uint8 [B, H, W, C].
    """
    state = train_step.init_state(
        jax.random.fold_in(jax.random.key(c.seed), 0),
        augment.to_float(image),
        settings,
        num_chains=c.sgld.buffer_size,
    )
    if state.chains is None:
        return state
    samples = state.chains.samples
    samples = samples.reshape(jax.device_count(), -1, *samples.shape[1:])
    return state.replace(chains=replay.Buffer(samples))


def _recovered(state, recoveries):
    """`state`, with the random stream and learning rate after so many divergences."""
    return state.replace(recoveries=parallel.place(np.int32(recoveries)))


def _draw_chains(state, now, job):
    """A picture of the first hundred chains, ten a row; a class each if they have."""
    if not job.writer.visible:
        return
    samples = state.chains.samples.addressable_data(0)[0]  # the first device's
    blocks = samples.reshape(job.num_blocks, -1, *samples.shape[1:])
    shown = blocks[:10, :10] if job.num_blocks > 1 else blocks[:, :100]
    picture = pictures.grid(np.asarray(shown).reshape(-1, *samples.shape[1:]), 10)
    pictures.save(f"{job.workdir}/samples/{now:07}.png", picture)


def _give_up(checkpoints, gone_back_to):
    """Puts the newest checkpoint aside if the run went back to it once already,
    unless it is the only one."""
    checkpoint.finish(checkpoints)
    steps = checkpoints.all_steps()
    if len(steps) > 1 and max(steps) == gone_back_to:
        logging.warning("checkpoint %d is put aside: it diverges again", gone_back_to)
        checkpoint.put_aside(checkpoints, gone_back_to, "diverged")


@contextlib.contextmanager
def _signals():
    """A list that fills with SIGTERM and SIGINT; a second Ctrl-C is not held back."""
    received = []
    if threading.current_thread() is not threading.main_thread():
        yield received  # only the main thread may handle signals
        return

    def note(number, _):
        received.append(number)
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            if processes.several():
                processes.request_stop()

    # Among several processes SIGTERM is heard by jax.distributed.
    heard = [signal.SIGINT] if processes.several() else [signal.SIGTERM, signal.SIGINT]
    before = {n: signal.signal(n, note) for n in heard}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
