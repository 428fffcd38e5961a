"""The plan of a run: everything that is known and checked before training starts."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from ebmjax import (
    augment,
    chain_starts,
    config,
    data,
    hub,
    logit_queue,
    models,
    parallel,
    processes,
    replay,
    rundir,
    runs,
    sizes,
    stored,
    train_step,
)
from ebmjax import recipe as recipes
from ebmjax.config import Config
from ebmjax.data import arrays, batches
from ebmjax.facts import Facts


class Plan(NamedTuple):
    """A checked config, recipe and data set, and what follows from them."""

    config: Config
    recipe: recipes.Recipe  # complete
    settings: recipes.Settings
    splits: data.Splits
    make_state: Callable[[], train_step.TrainState]  # at step 0, on its devices
    starts: np.ndarray | None  # pool of chain starts, see `chain_starts`
    axes: train_step.TrainState
    streams: dict[str, batches.Stream]
    facts: Facts


def make_plan(
    c: Config,
    recipe: recipes.Recipe | None = None,
    splits: data.Splits | None = None,
) -> Plan:
    """Everything that is known before training starts.

    Raises ValueError for values, sizes or data that do not fit together.
    """
    config.check(c)
    processes.check_same("the config", config.to_json(c).encode())
    given = splits
    splits = read_on_every_process(lambda: given or runs.load_splits(c))
    checksum = None if given is None else arrays.checksum(given.train)
    data.check_splits(splits)
    num_classes = len(splits.class_names)
    complete = recipes.complete(recipe, c, num_classes)
    settings = recipes.settings(c, num_classes, complete.terms, splits.scaling)
    splits = _with_outliers(c, splits, settings.objective.needs)
    own_augment = "augment" in recipes.given(recipe)
    sizes.check_sizes(c, splits, settings, own_augment=own_augment)
    first = augment.to_float(splits.train.image[: c.batch_size], splits.scaling)
    complete = _with_known_dependence(complete, first, settings)
    starts = pool_of_starts(c, complete, settings, splits)
    fresh = functools.partial(fresh_state, c, complete, settings)
    own = [x for x in recipes.given(recipe) if x != "tasks"]
    axes = _layout(c, jax.eval_shape(fresh, first, starts), own)
    scaling = splits.scaling and [x.tolist() for x in splits.scaling]
    return Plan(
        config=c,
        recipe=complete,
        settings=settings,
        splits=splits,
        make_state=functools.partial(parallel.make, fresh, first, starts, axes=axes),
        starts=starts,
        streams=batches.streams(
            splits,
            seed=c.seed,
            batch_size=c.batch_size,
            main_batch_size=c.data.generative_batch_size,
            labels_per_class=c.data.labels_per_class,
            split_seed=c.data.split_seed,
            separate=c.data.separate_streams,
            outliers=splits.outliers,
            outliers_batch_size=c.data.outliers_batch_size,
        ),
        axes=axes,
        facts=Facts(
            class_names=list(splits.class_names),
            image_shape=list(splits.train.image.shape[1:]),
            num_blocks=settings.num_blocks,
            own=own,
            scaling=scaling,
            data_checksum=checksum,
        ),
    )


def start_state(plan: Plan) -> train_step.TrainState:
    """The state at step 0: a fresh one, or with the variables of the trained model that
    `config.model.init_from` names. Vectors are standardised by the moments of the new
    training set, not by those of the old one.

    Raises what `runs.load` raises, and ValueError for a model of another network.
    """
    state, address = plan.make_state(), plan.config.model.init_from
    if not address:
        return state
    shape = plan.splits.train.image.shape[1:]

    def read():
        folder = hub.locate(address).folder
        c = rundir.read_config(folder)
        variables = stored.read(folder, c.eval.checkpoint, bool(c.eval.ema), c)[1]
        stored.check_variables(address, plan.recipe.network, variables, shape)
        return variables

    params, model_state = processes.on_every_process(read)
    return state.replace(
        params=parallel.place_like(params, state.params),
        model_state=parallel.place_like(model_state, state.model_state),
        ema=state.ema and parallel.place_like(params, state.ema),
    )


def read_on_every_process(read: Callable[[], data.Splits]) -> data.Splits:
    """`read()`, which must give the same arrays in all processes.

    Raises ValueError in all of them where one cannot read or has other data, and what
    `read` raises where none can.
    """
    splits = processes.on_every_process(read)
    for part in (splits.train, splits.valid, splits.test):
        _check_same(part)
    return splits


def pool_of_starts(
    c: Config,
    recipe: recipes.Recipe,
    settings: recipes.Settings,
    splits: data.Splits,
) -> np.ndarray | None:
    """The pool of `c.sgld.init`, a function of seed and data; None if none is needed.

    It has a start for each chain of the buffer, so that all of these differ.
    """
    uniform = c.sgld.init == "uniform" or recipe.chain_init is not None
    if uniform or not settings.objective.sampled:
        return None
    by_class = c.sgld.init == "class_gaussian"
    if by_class and c.data.labels_per_class:
        raise ValueError(
            "config.sgld.init='class_gaussian' takes the labels of all training"
            " examples, of which config.data.labels_per_class hides some; use"
            " 'gaussian'"
        )
    x, label = splits.train
    return chain_starts.pool(
        c.seed,
        x,
        label if by_class else None,
        size=c.sgld.buffer_size,
        num_classes=settings.num_classes,
        to_float=functools.partial(augment.to_float, scaling=splits.scaling),
        bound=1.0 if x.ndim == 4 else None,
    )


def _check_same(dataset):
    for x in dataset:
        processes.check_same("the data set", np.ascontiguousarray(x).data)


def _with_outliers(c, splits, needs):
    """The splits with the outliers that a term needs: their own, or those of `c.data`.

    Raises ValueError for outliers of another kind than the training set's examples.
    """
    if "outliers" not in needs:
        return splits._replace(outliers=None)
    outliers, like = splits.outliers, splits.train.image
    if outliers is None and not c.data.outliers:
        raise ValueError(
            "config.objective.outliers needs a second data set: set"
            " config.data.outliers to its name"
        )
    if outliers is None:
        outliers = processes.on_every_process(
            lambda: data.load_like(
                c.data.outliers, like, data_dir=c.data.data_dir or None
            )
        )
    data.check_like("the set of outliers", outliers.image, like)
    _check_same(outliers)
    return splits._replace(outliers=outliers)


def fresh_state(
    c: Config,
    recipe: recipes.Recipe,
    settings: recipes.Settings,
    x: jax.Array,
    starts: jax.Array | None = None,
) -> train_step.TrainState:
    """The state before step 0, chains as [D, N/D, ...]. A function of the seed.

    x [B, ...] are the first training examples, as the network takes them, and
    `starts` is the pool of chain starts.
    """
    state = train_step.init_state(
        jax.random.fold_in(jax.random.key(c.seed), 0),
        x,
        recipe,
        settings,
        starts,
        num_chains=c.sgld.buffer_size,
    )
    if state.queue is not None:
        queue = logit_queue.split(state.queue, jax.device_count())
        state = state.replace(queue=queue)
    if state.chains is None:
        return state
    samples = state.chains.samples
    blocks, devices, shape = settings.num_blocks, jax.device_count(), x.shape[1:]
    samples = samples.reshape(blocks, devices, -1, *shape).swapaxes(0, 1)
    samples = samples.reshape(devices, -1, *shape)
    return state.replace(chains=replay.Buffer(samples))


def _with_known_dependence(recipe, x, settings):
    """The recipe, with `network.per_example` found out where it is not said."""
    independent = recipe.network.per_example
    if independent is None:
        independent = models.examples_are_independent(
            recipe.network, x, axis_name=parallel.AXIS
        )
    if not independent and settings.accumulation_steps > 1:
        raise ValueError(
            "config.optimizer.accumulation_steps cannot be combined with a network that"
            " takes batch statistics; use config.model.remat to save memory"
        )
    return recipe._replace(network=recipe.network._replace(per_example=independent))


def _layout(c, like, own):
    """How the state lies on the devices."""
    if not c.parallel.fsdp:
        return train_step.AXES
    if "optimizer" in own:
        raise ValueError(
            "config.parallel.fsdp cannot be combined with an optimizer of the recipe: a"
            " device updates its part of the parameters, and a norm of all would be"
            " wrong"
        )
    axes = train_step.fully_sharded(like)
    if not jax.tree.leaves(axes.params):
        raise ValueError(
            "config.parallel.fsdp: no layer can be cut into"
            f" {jax.device_count()} equal parts that are large enough; set it to False"
        )
    return axes
