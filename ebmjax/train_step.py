"""One training step, as a function of state and batch."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax import lax

from ebmjax import (
    augment,
    chain_starts,
    guard,
    logit_queue,
    objectives,
    parallel,
    replay,
)
from ebmjax.recipe import Recipe, Settings


@struct.dataclass
class TrainState:
    """Everything that the next step needs."""

    step: Any  # int32, and with `recoveries` the only source of "when" for keys
    recoveries: Any  # int32, how often training went back after a divergence
    params: Any
    model_state: Any  # Flax collections beside the parameters, {} without any
    opt_state: Any
    ema: Any  # averaged parameters, or None
    chains: Any  # replay.Buffer, or None: this device's own
    # [N, K], logits of earlier batches, oldest first, or None: this device's own
    queue: Any = None
    guard: Any = None  # guard.Guard, or None if no step is skipped


# Which leaves differ from device to device (0: a leading axis [D]).
AXES = TrainState(None, None, None, None, None, None, chains=0, queue=0)


def fully_sharded(like: TrainState) -> TrainState:
    """Axes with which devices share parameters, moments and averages between steps
    (FSDP; Rajbhandari et al., 2020). In a step every device has all parameters, once:
    20 steps of chains would ask for them 40 times. `like` has the shapes of a state."""
    params, opt_state, ema = parallel.spread((like.params, like.opt_state, like.ema))
    return AXES.replace(params=params, opt_state=opt_state, ema=ema)


def init_state(
    key: jax.Array,
    x: jax.Array,
    recipe: Recipe,
    settings: Settings,
    starts: jax.Array | None = None,
    *,
    num_chains: int,
) -> TrainState:
    """A fresh state, with `num_chains` chains if the objective needs samples, and with
    a queue of normal logits if it needs one.

    x [B, ...] is a batch of training examples as the network takes them: their shape
    is the chains', and "act" norms are initialised from them. `starts` as in
    `train_step`.
    """
    k_params, k_chains = jax.random.split(key)
    params, model_state = recipe.network.init(k_params, x)
    chains = None
    if settings.objective.sampled:
        chain_init = _chain_init(recipe, starts)
        if chain_init and settings.num_blocks == 1:
            chain_init = replay.of_every_class(chain_init, settings.num_classes)
        chains = replay.init(
            k_chains,
            num_chains,
            x.shape[1:],
            num_blocks=settings.num_blocks,
            chain_init=chain_init,
        )
    queue = None
    if "queue" in settings.objective.needs:
        k_queue = jax.random.fold_in(k_chains, 1)
        queue = logit_queue.init(k_queue, settings.queue_size, settings.num_classes)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        recoveries=jnp.zeros((), jnp.int32),
        params=params,
        model_state=model_state,
        opt_state=recipe.optimizer.init(params),
        ema=jax.tree.map(jnp.copy, params) if settings.ema_decay else None,
        chains=chains,
        queue=queue,
        guard=guard.init() if settings.skip_sigma else None,
    )


def train_step(
    state: TrainState,
    data: Any,
    batch: dict,
    key: jax.Array,
    starts: jax.Array | None = None,
    *,
    recipe: Recipe,
    settings: Settings,
    axes: TrainState = AXES,
    axis_name: str | None = None,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """(state, batch) -> (state, metrics), metrics being means over all devices.

    `batch` holds stored examples, "image" and "label", or "index" into the resident
    `data`; and perhaps "labelled", the same again. `key` is the run's: the step's own
    is folded from it, so a resumed run continues the same random stream. `starts`
    [G, M, ...] is a pool of chain starts, see `chain_starts`, for a recipe without its
    own; it is an argument because a constant of this size has no place in a program.
    `axes` says how `parallel.spmd` lays out the state.
    """
    key = jax.random.fold_in(jax.random.fold_in(key, state.recoveries), state.step)
    k_input, k_chains, k_train = jax.random.split(key, 3)
    device = 0 if axis_name is None else lax.axis_index(axis_name)
    k_chains = jax.random.fold_in(k_chains, device)
    k_train = jax.random.fold_in(k_train, device)

    batch = augment.augment_batch(
        k_input,
        data,
        batch,
        augment_fn=recipe.augment,
        scaling=settings.scaling,
        device=device,
        plain=settings.plain_main_batch,
    )
    params = parallel.gather(state.params, axes.params, axis_name)
    steps = settings.accumulation_steps
    parts = jax.tree.map(lambda x: x.reshape(steps, -1, *x.shape[1:]), batch)
    made, chains, chain_metrics = _make_examples(
        state.replace(params=params), parts, k_chains, starts, recipe, settings
    )
    local_gradient = functools.partial(
        _gradient,
        model_state=state.model_state,
        parts=parts,
        made=made,
        queue=state.queue,
        chain_metrics=chain_metrics,
        key=k_train,
        recipe=recipe,
        settings=settings,
        axis_name=axis_name,
    )
    grads, aux = _over_devices(local_gradient, params, recipe, axes, axis_name)
    metrics = aux.metrics
    metrics["grad_norm"] = norm = parallel.norm(grads, axes.params, axis_name)
    if settings.clip_norm:
        shorter = jnp.minimum(1.0, settings.clip_norm / norm)
        grads = jax.tree.map(lambda g: shorter * g, grads)
    updates, opt_state = recipe.optimizer.update(grads, state.opt_state, state.params)
    lr_factor = settings.recovery_lr_factor**state.recoveries
    updates = jax.tree.map(lambda u: lr_factor * u, updates)
    params = optax.apply_updates(state.params, updates)
    ema = state.ema
    if ema is not None:
        ema = optax.incremental_update(params, ema, 1 - settings.ema_decay)
    queue = state.queue
    if queue is not None:
        queue = logit_queue.put(queue, aux.enqueued)
    new = TrainState(
        step=state.step + 1,
        recoveries=state.recoveries,
        params=params,
        model_state=aux.model_state,
        opt_state=opt_state,
        ema=ema,
        chains=chains,
        queue=queue,
    )
    if settings.skip_sigma:
        new = _skip_if_bad(state, new, metrics, settings.skip_sigma)
    return new, metrics


def _skip_if_bad(old, new, metrics, sigma):
    """`new`, or after a bad step `old`, chains included: they may be what is bad.

    Loss and norm are the same on all devices, and so is the decision.
    """
    values = jnp.stack([metrics["loss"], metrics["grad_norm"]]).astype(jnp.float32)
    bad = guard.is_bad(old.guard, values, sigma)
    after = guard.update(old.guard, values, bad)
    metrics["skips_in_a_row"] = after.skips_in_a_row.astype(jnp.float32)
    choose = functools.partial(jnp.where, bad)
    kept = jax.tree.map(choose, old.replace(guard=None), new)
    return kept.replace(step=new.step, guard=after)


def _chain_init(recipe, starts):
    """The recipe's own, or starts from a pool; None: uniform ones."""
    if recipe.chain_init is not None or starts is None:
        return recipe.chain_init
    return chain_starts.from_pool(starts)


def _make_examples(state, parts, k_chains, starts, recipe, settings):
    """The samples and adversarial examples that the objective needs, for one part of
    the batch after another, to save memory.  -> [steps, ...], buffer, metrics."""
    if not settings.objective.makes_examples:
        return {}, state.chains, {}
    network, needs = recipe.network, settings.objective.needs

    def logits_fn(x, key, train_mode):  # that chains and attacks follow
        if train_mode:
            return network.train(state.params, state.model_state, x, key)[0]
        return network.apply(state.params, state.model_state, x)

    def make(buffer, numbered_part):
        i, part = numbered_part
        (k_draw,) = _part_keys(i, settings, k_chains)
        # `draw_samples` uses split(k_draw, 3), whose keys are fold_in's of 0, 1 and 2.
        made, metrics = {}, {}
        if settings.objective.sampled:
            made, buffer, metrics = objectives.draw_samples(
                k_draw,
                functools.partial(
                    logits_fn,
                    key=jax.random.fold_in(k_draw, 3),
                    train_mode=settings.chains.train_mode,
                ),
                buffer,
                part,
                needs=needs,
                sampler=recipe.sampler,
                chains=settings.chains,
                num_classes=settings.num_classes,
                chain_init=_chain_init(recipe, starts),
            )
        if "adversarial" in needs:
            k_attack, k_dropout = jax.random.split(jax.random.fold_in(k_draw, 4))
            labelled = part.get("labelled", part)
            attacked = functools.partial(logits_fn, key=k_dropout, train_mode=True)
            made["adversarial"] = recipe.attack(
                k_attack, attacked, labelled["image"], labelled["label"]
            )
        return buffer, (made, metrics)

    buffer, (made, metrics) = _scan(make, state.chains, parts)
    return made, buffer, jax.tree.map(jnp.mean, metrics)


def _gradient(
    params,
    *,
    model_state,
    parts,
    made,
    queue,
    chain_metrics,
    key,
    recipe,
    settings,
    axis_name,
):
    """The gradient on this device's batch, the mean of those of its parts.

    -> gradient, `objectives.Aux` with the metrics of the chains among its own
    """
    grad_fn = jax.grad(objectives.loss, has_aux=True)

    def add(carry, numbered_part):
        i, (part, made) = numbered_part
        (k_part,) = _part_keys(i, settings, key)
        total, model_state = carry
        grads, aux = grad_fn(
            params,
            model_state,
            part,
            made,
            k_part,
            network=recipe.network,
            objective=settings.objective,
            queue=queue,
            axis_name=axis_name,
        )
        if total is not None:
            grads = jax.tree.map(jnp.add, total, grads)
        return (grads, aux.model_state), (aux.metrics, aux.enqueued)

    steps = settings.accumulation_steps
    start = None if steps == 1 else jax.tree.map(jnp.zeros_like, params)
    (grads, model_state), (metrics, enqueued) = _scan(
        add, (start, model_state), (parts, made)
    )
    grads = jax.tree.map(lambda g: g / steps, grads) if steps > 1 else grads
    metrics = jax.tree.map(jnp.mean, metrics) | chain_metrics
    if enqueued is not None:
        enqueued = enqueued.reshape(-1, enqueued.shape[-1])
    return grads, objectives.Aux(model_state, metrics, enqueued)


def _part_keys(i, settings, *keys):
    if settings.accumulation_steps == 1:
        return keys
    return tuple(jax.random.fold_in(key, i) for key in keys)


def _scan(body, carry, parts):
    """`lax.scan` over numbered parts; a single part needs no loop."""
    steps = len(jax.tree.leaves(parts)[0])
    if steps == 1:
        carry, out = body(carry, (0, jax.tree.map(lambda x: x[0], parts)))
        return carry, jax.tree.map(lambda x: x[None], out)
    return lax.scan(body, carry, (jnp.arange(steps), parts))


def _over_devices(local_gradient, params, recipe, axes, axis_name):
    """The gradient, metrics and model state of all devices.

    The gradient is laid out as `axes.params` says. The recipe's own gradient function
    sees whole parameters and gradients.
    """
    if recipe.gradient is None:
        return _mean(*local_gradient(params), axes.params, axis_name)

    def gradient(params):
        return _mean(*local_gradient(params), None, axis_name)

    grads, aux = recipe.gradient(gradient, params)
    return parallel.own_part(grads, axes.params, axis_name), aux


def _mean(grads, aux, axes, axis_name):
    """Over devices; each keeps its own logits for its part of the queue."""
    shared = grads, aux.model_state, aux.metrics
    means = parallel.mean(shared, (axes, None, None), axis_name)
    return means[0], objectives.Aux(*means[1:], aux.enqueued)
