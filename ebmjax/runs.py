"""A run directory read back: the trained model and what belongs to it."""

import contextlib
import dataclasses
import fcntl
import functools
import logging
from collections.abc import Callable, Iterator
from typing import Any

import jax
import ml_collections
import numpy as np

from ebmjax import (
    augment,
    batching,
    config,
    data,
    energy,
    metrics,
    parallel,
    recipe,
    rundir,
    sgld,
)
from ebmjax import checkpoint as checkpoints
from ebmjax.models import Network

CONFIG = "config.json"


@dataclasses.dataclass(frozen=True)
class Model:
    """A network with its parameters, for use inside a compiled function."""

    network: Network
    variables: Any  # (params, stats)

    def to_float(self, image: jax.Array) -> jax.Array:
        """Examples as the data set stores them (uint8) -> what the network takes."""
        return augment.to_float(image)

    def logits(self, x: jax.Array) -> jax.Array:
        """x [B, H, W, C] in [-1, 1] -> [B, K]."""
        return self.network.apply(*self.variables, x)

    def features(self, x: jax.Array) -> jax.Array:
        """What enters the last layer.  [B, H, W, C] -> [B, F]."""
        return self.network.features(*self.variables, x)

    def energy(self, x: jax.Array, labels: jax.Array | None = None) -> jax.Array:
        """E(x), or with labels [B] E(x, y).  [B, H, W, C] -> [B]."""
        if labels is None:
            return energy.from_logits(self.logits(x))
        return energy.joint_from_logits(self.logits(x), labels)


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """A trained run. Images go in as NumPy arrays [N, H, W, C], float in [-1, 1]
    or uint8; answers are NumPy arrays, each image counted once, computed in
    batches over all devices."""

    config: ml_collections.ConfigDict
    workdir: str
    step: int
    image_shape: tuple[int, int, int]  # H, W, C
    class_names: tuple[str, ...]
    recoveries: int  # returns to a checkpoint after divergence
    model: Model
    buffer: np.ndarray | None  # chains [N, H, W, C] of the replay buffer, in blocks
    num_blocks: int  # of the buffer: one a class if it was class-conditional
    sampler: sgld.SamplerFactory  # that of training

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    def logits(self, x: np.ndarray) -> np.ndarray:
        """f(x)[y].  [N, H, W, C] -> [N, K]."""
        return batching.over_batches(
            batching.logits(self.model.network, self.config.parallel.method),
            self.model.variables,
            self._checked(x),
            batch_size=self.config.eval.batch_size,
        )

    def predict_proba(self, x: np.ndarray) -> np.ndarray:
        """p(y | x).  [N, H, W, C] -> [N, K]."""
        return metrics.softmax(self.logits(x))

    def energy(self, x: np.ndarray) -> np.ndarray:
        """E(x), nats.  [N, H, W, C] -> [N]."""
        return -self.log_density(x)

    def log_density(self, x: np.ndarray) -> np.ndarray:
        """log p(x) + log Z, nats.  [N, H, W, C] -> [N]."""
        return np.logaddexp.reduce(self.logits(x).astype(np.float64), axis=-1)

    def sample(
        self,
        key: jax.Array,
        n: int,
        steps: int,
        labels: np.ndarray | None = None,
        start: np.ndarray | None = None,
    ) -> np.ndarray:
        """`n` chains after `steps` SGLD steps with the run's own step size and noise.

        Chains on E(x), or with labels [n] on E(x, y), from U(-1, 1) noise or from
        `start` [n, H, W, C]; not clipped.  -> [n, H, W, C].
        """
        k_start, k_run = jax.random.split(key)
        if start is None:
            shape = (n, *self.image_shape)
            start = jax.random.uniform(k_start, shape, minval=-1.0, maxval=1.0)
        arrays = (np.asarray(start),)
        if labels is not None:
            arrays += (np.asarray(labels, np.int32),)

        def chains(model, key, x, labels=None):
            sampler = self.sampler(functools.partial(model.energy, labels=labels))
            return sgld.run(key, sampler, sampler.init(x), steps)[0].position

        return self.map(chains, *arrays, key=k_run)

    def map(
        self,
        fn: Callable,
        *arrays: np.ndarray,
        key: jax.Array | None = None,
        batch_size: int | None = None,
        progress: Callable = lambda batches: batches,
    ) -> Any:
        """`fn(model, key, *parts) -> tree of [b, ...]` over all of arrays [N, ...].

        `fn` is pure and compiled, once for each call of `map`; it sees a `Model`,
        a key of its own (of its batch and device) and a device's share of a batch.
        Float arrays go in as they are; see `batching.over_batches`.
        """

        def with_model(variables, key, *parts):
            return fn(Model(self.model.network, variables), key, *parts)

        return batching.over_batches(
            batching.program(with_model, method=self.config.parallel.method),
            self.model.variables,
            *arrays,
            batch_size=batch_size or self.config.eval.batch_size,
            key=key,
            progress=progress,
        )

    def splits(self) -> data.Splits:
        """The data that the run was trained on, its validation and its test set."""
        return _splits(config.to_json(self.config))

    def _checked(self, x):
        if x.ndim != 4 or x.shape[1:] != self.image_shape:
            shape = ", ".join(map(str, self.image_shape))
            raise ValueError(f"images must be [N, {shape}], not {list(x.shape)}")
        if np.issubdtype(x.dtype, np.integer) and x.dtype != np.uint8:
            raise ValueError(
                f"images are {x.dtype}: pass uint8 in 0..255, or floats in [-1, 1]"
            )
        return x if x.dtype == np.uint8 else np.asarray(x, np.float32)


def load(
    workdir: str, *, checkpoint: str | int | None = None, ema: bool | None = None
) -> Run:
    """The run in `workdir`, at its "last" or "best" checkpoint or at a step.

    What is not said is as the run's config.eval has it. Raises FileNotFoundError
    if there is no run or no checkpoint, ValueError if there is no such one.
    """
    c = read_config(workdir)
    return at(workdir, c, checkpoint=checkpoint, ema=ema)


def read_config(workdir: str) -> ml_collections.ConfigDict:
    """The config that the run in `workdir` has."""
    path = rundir.folder(workdir) / CONFIG
    if not path.exists():
        raise FileNotFoundError(f"{workdir} is not a run directory: it has no {CONFIG}")
    try:
        return config.from_json(path.read_text())
    except (ValueError, KeyError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error


def at(
    workdir: str,
    c: ml_collections.ConfigDict,
    *,
    checkpoint: str | int | None = None,
    ema: bool | None = None,
) -> Run:
    """`load` with the config `c`, which may differ in what evaluation reads."""
    which = c.eval.checkpoint if checkpoint is None else checkpoint
    ema = c.eval.ema if ema is None else ema
    with checkpoints.manager(workdir, read_only=True) as stored:
        at_step = _find(stored, which)
        state, host = checkpoints.restore_model(stored, at_step)
    params = state["ema"] if ema else state["params"]
    if params is None:
        raise ValueError(
            f"the run in {workdir} keeps no averaged parameters: its"
            " config.optimizer.ema_decay is 0"
        )
    num_classes = len(host["class_names"])
    buffer, num_blocks = None, recipe.num_blocks(c, num_classes)
    if state["chains"] is not None:
        samples = state["chains"]["samples"]
        buffer = checkpoints.deal(samples, 1, num_blocks)[0]
    return Run(
        config=c,
        workdir=str(workdir),
        step=at_step,
        image_shape=tuple(host["image_shape"]),
        class_names=tuple(host["class_names"]),
        recoveries=int(state["recoveries"]),
        model=Model(
            recipe.network(c, num_classes),
            parallel.place((params, state["stats"])),
        ),
        buffer=buffer,
        num_blocks=num_blocks,
        sampler=functools.partial(
            sgld.sgld, step_size=c.sgld.step_size, noise_std=c.sgld.noise_std
        ),
    )


@contextlib.contextmanager
def claimed(workdir: str, c: ml_collections.ConfigDict) -> Iterator[None]:
    """Makes `workdir` the directory of the run `c`, for one program at a time.

    Raises ValueError if it holds a run with another value of one of
    `config.FIXED`, or if another program is training in it; in a bucket nobody
    notices that.
    """
    folder = rundir.folder(workdir)
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        if jax.process_index() == 0 and not rundir.in_bucket(workdir):
            file = stack.enter_context(open(folder / ".lock", "w"))
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise ValueError(
                    f"another program is training in {workdir}: wait for it, or choose"
                    " another --workdir"
                ) from error
        # A first start may fail before it has anything worth keeping.
        started = (folder / checkpoints.FOLDER).exists() and any(
            path.name.isdigit() for path in (folder / checkpoints.FOLDER).iterdir()
        )
        if started and (folder / CONFIG).exists():
            changes = config.changes(read_config(workdir), c)
            for key, (old, new) in changes.items():
                if config.is_fixed(key):
                    raise ValueError(
                        f"{workdir} holds a run with config.{key}={old!r}, not"
                        f" {new!r}: choose another --workdir"
                    )
                logging.info("config.%s is now %r, was %r", key, new, old)
        if jax.process_index() == 0:
            rundir.write(folder / CONFIG, config.to_json(c))
        yield


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


@functools.lru_cache(maxsize=1)
def _splits(config_json):
    return recipe.splits(config.from_json(config_json))
