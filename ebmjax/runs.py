"""A trained model and what belongs to it, read back from a run directory, from a
portable folder or by an address."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ebmjax import (
    augment,
    batching,
    chain_starts,
    data,
    energy,
    hub,
    metrics,
    parallel,
    rundir,
    sgld,
    stored,
)
from ebmjax import recipe as recipes
from ebmjax.batching import Model as Model
from ebmjax.config import Config
from ebmjax.data import Scaling, Splits
from ebmjax.facts import Facts, check_code


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """A trained run. Examples go in as NumPy arrays [N, ...]: images as uint8 or as
    floats in [-1, 1], vectors in the units of the data. Answers are NumPy arrays,
    computed in batches over all devices, each example counted once."""

    config: Config
    workdir: str
    step: int
    image_shape: tuple[int, ...]  # (H, W, C), or (D,) of vectors
    class_names: tuple[str, ...]
    recoveries: int  # returns to a checkpoint after divergence
    model: Model
    # Chains [N, ...] of the replay buffer, in blocks, as the network takes them.
    buffer: np.ndarray | None
    num_blocks: int  # of the buffer: one a class if it was class-conditional
    sampler: sgld.SamplerFactory = sgld.JEM  # that of training
    chain_init: Any = None  # the recipe's own chain starts
    tasks: Any = None  # the recipe's evaluation tasks
    data: Splits | None = None  # read from `config.data` if None
    facts: Facts | None = None
    skipped: int = 0  # bad steps, see `config.recovery.skip_sigma`
    # {name: examples [M, ...]} of OOD sets that `eval.ood.sets` can name.
    ood_sets: Mapping[str, np.ndarray] | None = None
    has_model: bool = True  # not of saved logits
    ema: bool = False  # whether the parameters are averaged ones
    # Quantiles of log p(x) of data, as a portable folder has them.
    quantiles: dict[str, Any] | None = None

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    def logits(self, x: np.ndarray) -> np.ndarray:
        """f(x)[y].  [N, ...] -> [N, K]."""
        return batching.over_batches(
            batching.logits(self.model.network, self.config.parallel.method),
            self._variables,
            self._checked(x),
            batch_size=self.config.eval.batch_size,
        )

    def predict_proba(self, x: np.ndarray) -> np.ndarray:
        """p(y | x).  [N, ...] -> [N, K]."""
        return metrics.softmax(self.logits(x))

    def energy(self, x: np.ndarray) -> np.ndarray:
        """E(x), nats.  [N, ...] -> [N]."""
        return -self.log_density(x)

    def log_density(self, x: np.ndarray) -> np.ndarray:
        """log p(x) + log Z, nats.  [N, ...] -> [N]."""
        return metrics.log_density(self.logits(x))

    def to_float(self, x: np.ndarray) -> np.ndarray:
        """Examples as the data set stores them -> what the network takes, float32."""
        return np.asarray(augment.to_float(self._checked(x), self.model.scaling))

    def sample(
        self,
        key: jax.Array,
        n: int,
        steps: int,
        labels: np.ndarray | None = None,
        start: np.ndarray | None = None,
    ) -> np.ndarray:
        """`n` chains after `steps` steps of the run's sampler.

        Chains on E(x), or with labels [n] on E(x, y), from `start` [n, ...] or else
        from `fresh_starts`; as the sampler leaves them, which may be beyond [-1, 1].
        Vectors come in the units of the data. The program is compiled once for each
        `n`; labels, key and the number of steps may change.  -> [n, ...].

        Raises ValueError for labels that are not classes, for a `start` of another
        shape, and without one if `fresh_starts` needs data that cannot be read.
        """
        for name, value, least in (("n", n, 1), ("steps", steps, 0)):
            if not isinstance(value, int | np.integer) or value < least:
                raise ValueError(f"{name} must be an integer >= {least}, not {value!r}")
        k_start, k_run = jax.random.split(key)
        shape = (n, *self.image_shape)
        if labels is not None:
            labels = np.asarray(labels)
            if labels.shape != (n,) or labels.dtype.kind not in "iu":
                found = f"{labels.dtype} {list(labels.shape)}"
                raise ValueError(f"labels must be {n} integers, not {found}")
            energy.check_labels(labels, self.num_classes)
            labels = labels.astype(np.int32)
        if start is None:
            x = self.fresh_starts(k_start, n, labels)
        elif np.shape(start) != shape:
            raise ValueError(
                f"start must be {list(shape)}, not {list(np.shape(start))}"
            )
        else:
            x = self.to_float(np.asarray(start))
        arrays = (np.asarray(x),) if labels is None else (np.asarray(x), labels)
        x = batching.over_batches(
            self._sampling_program,
            (*self._variables, jnp.int32(steps)),
            *arrays,
            batch_size=self.config.eval.batch_size,
            key=k_run,
        )
        scaling = self.model.scaling
        return x if scaling is None else x * scaling.std + scaling.mean

    def map(
        self,
        fn: Callable,
        *arrays: np.ndarray,
        key: jax.Array | None = None,
        batch_size: int | None = None,
        progress: Callable = lambda batches: batches,
    ) -> Any:
        """`fn(model, key, *parts) -> tree of [b, ...]` over all of arrays [N, ...].

        `fn` is pure. It is compiled at its first use, and again only for other shapes;
        it sees a `Model`, a key of its own (of its batch and device) and a device's
        share of a batch. Arrays go in as they are; see `batching.over_batches`.
        """
        return batching.over_batches(
            self._program(fn),
            self._variables,
            *arrays,
            batch_size=batch_size or self.config.eval.batch_size,
            key=key,
            progress=progress,
        )

    def fresh_starts(
        self, key: jax.Array, n: int, labels: np.ndarray | None = None
    ) -> np.ndarray:
        """Where `n` fresh chains start in training, by ``config.sgld.init``.

        U(-1, 1) noise; or Gaussians with the moments of the training examples, of the
        classes `labels` [n], or without labels of all classes in turn.  -> [n, ...] as
        the network takes them. Raises ValueError for labels that are not classes, and
        if the training examples are needed and cannot be read.
        """
        if labels is None:
            labels = np.arange(n, dtype=np.int32) % self.num_classes
        energy.check_labels(labels, self.num_classes)
        if self.chain_init is not None:
            return np.asarray(self.chain_init(key, n, jnp.asarray(labels)))
        init = self.config.sgld.init
        if init == "uniform":
            shape = (n, *self.image_shape)
            return np.asarray(jax.random.uniform(key, shape, minval=-1.0, maxval=1.0))
        try:
            train = self.splits().train
        except (OSError, ValueError, ImportError) as error:
            raise ValueError(
                f"chains of {self.workdir} start from Gaussians of its training data"
                f" (config.sgld.init={init!r}), which cannot be read ({error}); pass"
                " start=, for instance run.buffer[:n], or load the run with data="
            ) from error
        k_pool, k_rows = jax.random.split(key)
        by_class = init == "class_gaussian"
        most = int(np.bincount(labels).max())  # of one class
        pool = chain_starts.pool(
            int(jax.random.bits(k_pool)),
            train.image,
            train.label if by_class else None,
            size=self.num_classes * most if by_class else n,
            num_classes=self.num_classes,
            to_float=self.to_float,
            bound=1.0 if train.image.ndim == 4 else None,
        )
        starts = chain_starts.from_pool(jnp.asarray(pool))
        return np.asarray(starts(k_rows, n, jnp.asarray(labels)))

    def splits(self) -> Splits:
        """The data that the run was trained on, its validation and its test set."""
        return self._splits

    @functools.cached_property
    def _splits(self):
        own_data = self.facts and self.facts.data_checksum is not None
        if self.data is None and own_data:
            raise ValueError(
                f"{self.workdir} was trained on arrays that were given to fit; pass"
                " them again: ebmjax.load(..., data=splits)"
            )
        splits = self.data or load_splits(self.config)
        stored = self.class_names, self.image_shape
        now = splits.class_names, splits.train.image.shape[1:]
        for name, before, after in zip(("classes", "shape"), stored, now, strict=True):
            if before != after:
                raise ValueError(
                    f"the data of {self.workdir} have changed since training: their"
                    f" {name} were {before}, and are {after}"
                )
        return splits

    @property
    def _variables(self):
        return (*self.model.variables, self.model.scaling)

    @functools.cached_property
    def _program(self):
        """fn -> compiled program, for the last few functions."""

        def compiled(fn):
            def with_model(variables, key, *parts):
                *variables, scaling = variables
                model = Model(self.model.network, variables, scaling)
                return fn(model, key, *parts)

            return batching.program(with_model, method=self.config.parallel.method)

        return functools.lru_cache(maxsize=8)(compiled)

    @functools.cached_property
    def _sampling_program(self):
        def chains(variables, key, x, labels=None):
            *variables, scaling, num_steps = variables
            model = Model(self.model.network, variables, scaling)
            sampler = self.sampler(functools.partial(model.energy, labels=labels))

            def body(i, state):
                return sampler.step(jax.random.fold_in(key, i), state)[0]

            return jax.lax.fori_loop(0, num_steps, body, sampler.init(x)).position

        return batching.program(chains, method=self.config.parallel.method)

    def _checked(self, x) -> Any:
        x = np.asarray(x)
        if x.shape[1:] != self.image_shape:
            shape = ", ".join(map(str, self.image_shape))
            raise ValueError(f"examples must be [N, {shape}], not {list(x.shape)}")
        if len(self.image_shape) == 1:
            return np.asarray(x, np.float32)
        if np.issubdtype(x.dtype, np.integer) and x.dtype != np.uint8:
            raise ValueError(
                f"images are {x.dtype}: pass uint8 in 0..255, or floats in [-1, 1]"
            )
        if x.dtype == np.uint8:
            return x
        x = np.asarray(x, np.float32)
        if x.size and x.min() >= 0 and x.max() > 2:
            raise ValueError(
                f"images are floats from {x.min():g} to {x.max():g}: pass uint8 in"
                " 0..255, or floats in [-1, 1]"
            )
        return x


def load(
    workdir: str,
    *,
    checkpoint: str | int | None = None,
    ema: bool | None = None,
    recipe: recipes.Recipe | None = None,
    data: Splits | None = None,
    data_dir: str | None = None,
) -> Run:
    """The run in `workdir`, at its "last" or "best" checkpoint or at a step.

    Args:
      workdir: the run directory, a folder of `ebmjax.export`, ebmjax://NAME for a model
        that comes with ebmjax, or hf://USER/NAME[@REVISION] for one of the Hub.
      checkpoint, ema: as ``config.eval`` of the run has them if not given.
      recipe: the recipe of training, for a run whose network or sampler it made.
      data: the arrays that `fit` was given, for `Run.splits` and evaluation.
      data_dir: where the data set lies now, if it has moved.

    Raises FileNotFoundError if there is no run or no checkpoint, ValueError if there
    is no such checkpoint, if code of the run is missing, or if a file of a portable
    folder has another checksum. See `hub.locate` for the errors of addresses.
    """
    location = hub.locate(workdir)
    c = rundir.read_config(location.folder)
    if data_dir is not None:
        c.data.data_dir = data_dir
    return load_with_config(
        location, c, checkpoint=checkpoint, ema=ema, recipe=recipe, data=data
    )


def load_with_config(
    location: str | hub.Location,
    c: Config,
    *,
    checkpoint: str | int | None = None,
    ema: bool | None = None,
    recipe: recipes.Recipe | None = None,
    data: Splits | None = None,
) -> Run:
    """`load` with the config `c`, which may differ in what evaluation reads."""
    if not isinstance(location, hub.Location):
        location = hub.locate(location)
    folder = location.folder
    which = c.eval.checkpoint if checkpoint is None else checkpoint
    ema = bool(c.eval.ema if ema is None else ema)
    fields, variables = stored.read(folder, which, ema, c)
    facts = fields["facts"]
    check_code(
        folder, set(facts.own) & set(recipes.FOR_EVALUATION), recipes.given(recipe)
    )
    complete: Any = recipes.complete(recipe, c, len(facts.class_names))
    stored.check_variables(folder, complete.network, variables, facts.image_shape)
    scaling = facts.scaling and [np.asarray(x, np.float32) for x in facts.scaling]
    return Run(
        config=c,
        workdir=str(location.workdir),
        image_shape=tuple(facts.image_shape),
        class_names=tuple(facts.class_names),
        model=Model(
            complete.network,
            parallel.place(variables),
            Scaling(*scaling) if scaling else None,
        ),
        num_blocks=facts.num_blocks,
        sampler=complete.sampler,
        chain_init=complete.chain_init,
        tasks=complete.tasks,
        data=data,
        ema=ema,
        **fields,
    )


def load_splits(c: Config) -> Splits:
    """The data set of `c.data`."""
    return data.load(
        c.data.name,
        data_dir=c.data.data_dir or None,
        num_valid=c.data.num_valid,
        split_seed=c.data.split_seed,
        test_fraction=c.data.test_fraction,
        size=c.data.image_size,
    )
