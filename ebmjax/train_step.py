"""One training step, as a function of state and batch."""

from typing import Any, NamedTuple

import flax
import jax
import jax.numpy as jnp
import optax
from jax import lax

from ebmjax import augment, objectives, parallel, replay
from ebmjax.models import Network


@flax.struct.dataclass
class TrainState:
    """Everything that the next step needs."""

    step: Any  # int32, and with `recoveries` the only source of "when" for keys
    recoveries: Any  # int32, how often training went back after a divergence
    params: Any
    stats: Any  # norm statistics, {} without
    opt_state: Any
    ema: Any  # averaged parameters, or None
    chains: Any  # replay.Buffer, or None: this device's own, unlike all the rest


# Which leaves differ from device to device (0: a leading axis [D]).
AXES = TrainState(None, None, None, None, None, None, chains=0)


def fully_sharded(like: TrainState) -> TrainState:
    """Axes with which devices share parameters, moments and averages between steps
    (FSDP; Rajbhandari et al., 2020). In a step every device has all parameters, once:
    20 steps of chains would ask for them 40 times. `like` has the shapes of a state."""
    params, opt_state, ema = parallel.spread((like.params, like.opt_state, like.ema))
    return AXES.replace(params=params, opt_state=opt_state, ema=ema)


class Inputs(NamedTuple):
    """How uint8 images become what the network sees."""

    pad: int = 0  # reflect-pad by so many pixels, then crop at random
    flip: bool = False  # horizontally, with probability 1/2
    noise_std: float = 0.0  # Gaussian, in units of [-1, 1]


class Settings(NamedTuple):
    """All that is fixed during a run."""

    network: Network
    optimizer: optax.GradientTransformation
    weights: objectives.Weights
    num_classes: int
    sampling: objectives.Sampling = objectives.Sampling()
    inputs: Inputs = Inputs()
    clip_norm: float = 0.0  # bound on the gradient's global norm; 0 is none
    ema_decay: float = 0.0
    recovery_lr_factor: float = 1.0  # multiplies the updates once a recovery
    parts: int = 1  # of a device's batch, one after the other, to save memory


def init_state(
    key: jax.Array, x: jax.Array, settings: Settings, *, num_chains: int
) -> TrainState:
    """A fresh state, with `num_chains` chains if the objective samples.

    x [B, H, W, C] is a batch of real images: their shape is the chains', and
    "act" norms take their scale from them.
    """
    k_params, k_chains = jax.random.split(key)
    params, stats = settings.network.init(k_params, x)
    chains = None
    if settings.weights.sampled:
        chains = replay.init(k_chains, num_chains, x.shape[1:])
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        recoveries=jnp.zeros((), jnp.int32),
        params=params,
        stats=stats,
        opt_state=settings.optimizer.init(params),
        ema=jax.tree.map(jnp.copy, params) if settings.ema_decay else None,
        chains=chains,
    )


def train_step(
    state: TrainState,
    data: Any,
    batch: dict,
    key: jax.Array,
    *,
    settings: Settings,
    axes: TrainState = AXES,
    axis_name: str | None = None,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """(state, batch) -> (state, metrics), metrics being means over all devices.

    `batch` holds uint8 "image" and "label", or "index" into the resident
    `data`; and perhaps "labelled", the same again. `key` is the run's: the
    step's own is folded from it, so a resumed run goes on with the same stream.
    `axes` says how `parallel.spmd` lays out the state.
    """
    key = jax.random.fold_in(jax.random.fold_in(key, state.recoveries), state.step)
    k_input, k_chains, k_train = jax.random.split(key, 3)
    device = 0 if axis_name is None else lax.axis_index(axis_name)
    k_chains = jax.random.fold_in(k_chains, device)
    k_train = jax.random.fold_in(k_train, device)

    batch = _prepare(k_input, data, batch, device, settings.inputs)

    whole = state.replace(params=parallel.gather(state.params, axes.params, axis_name))
    gradient = _gradient if settings.parts == 1 else _gradient_by_parts
    grads, metrics, stats, chains = gradient(
        whole, batch, k_chains, k_train, settings=settings, axis_name=axis_name
    )
    if axis_name is not None:
        layout = axes.params, None
        grads, metrics = parallel.mean((grads, metrics), layout, axis_name)
    metrics["grad_norm"] = norm = parallel.norm(grads, axes.params, axis_name)
    if settings.clip_norm:
        shorter = jnp.minimum(1.0, settings.clip_norm / norm)
        grads = jax.tree.map(lambda g: shorter * g, grads)

    updates, opt_state = settings.optimizer.update(grads, state.opt_state, state.params)
    lr_factor = settings.recovery_lr_factor**state.recoveries
    updates = jax.tree.map(lambda u: lr_factor * u, updates)
    params = optax.apply_updates(state.params, updates)
    ema = state.ema
    if ema is not None:
        ema = optax.incremental_update(params, ema, 1 - settings.ema_decay)
    return TrainState(
        step=state.step + 1,
        recoveries=state.recoveries,
        params=params,
        stats=stats,
        opt_state=opt_state,
        ema=ema,
        chains=chains,
    ), metrics


def _gradient(state, batch, k_chains, k_train, *, settings, axis_name):
    """-> the gradient on this device's batch, metrics, statistics and chains."""

    def logits_fn(x):  # that the chains follow
        if settings.sampling.train_mode:
            key = jax.random.fold_in(k_train, 1)
            return settings.network.train(state.params, state.stats, x, key)[0]
        return settings.network.apply(state.params, state.stats, x)

    drawn, chains, sampler_metrics = objectives.Negatives(), state.chains, {}
    if settings.weights.sampled:
        drawn, chains, sampler_metrics = objectives.negatives(
            k_chains,
            logits_fn,
            state.chains,
            batch,
            weights=settings.weights,
            sampling=settings.sampling,
            num_classes=settings.num_classes,
        )
    grad_fn = jax.grad(objectives.loss, has_aux=True)
    grads, aux = grad_fn(
        state.params,
        state.stats,
        batch,
        drawn,
        k_train,
        network=settings.network,
        weights=settings.weights,
        axis_name=axis_name,
    )
    return grads, aux.metrics | sampler_metrics, aux.stats, chains


def _gradient_by_parts(state, batch, k_chains, k_train, *, settings, axis_name):
    """`_gradient` as the mean over `settings.parts` parts of the batch, which come
    one after the other and need the memory of one."""
    shared = dict(settings=settings, axis_name=axis_name)
    parts = jax.tree.map(lambda x: x.reshape(settings.parts, -1, *x.shape[1:]), batch)
    numbers = jnp.arange(settings.parts)

    def one(stats, chains, i, part):
        now = state.replace(stats=stats, chains=chains)
        keys = (jax.random.fold_in(k, i) for k in (k_chains, k_train))
        return _gradient(now, part, *keys, **shared)

    def add(carry, part):
        total, *rest = carry
        *new, stats, chains = one(*rest, *part)
        return (jax.tree.map(jnp.add, total, new), stats, chains), None

    first = jax.tree.map(lambda x: x[0], (numbers, parts))
    *like, _, _ = jax.eval_shape(one, state.stats, state.chains, *first)
    zero = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), like)
    start = (zero, state.stats, state.chains)
    (total, stats, chains), _ = lax.scan(add, start, (numbers, parts))
    grads, metrics = jax.tree.map(lambda x: x / settings.parts, total)
    return grads, metrics, stats, chains


def _prepare(key, data, batch, device, inputs):
    """The batch as the network sees it, and the labelled one if it comes with one."""
    prepared = _see(key, data, batch, device, inputs)
    if "labelled" in batch:
        k_labelled = jax.random.fold_in(key, 1)
        prepared["labelled"] = _see(k_labelled, data, batch["labelled"], device, inputs)
    return prepared


def _see(key, data, part, device, inputs):
    """Images in [-1, 1], augmented and noised. Every place in the batch of all
    devices has its own key, so the number of devices changes nothing."""
    if "index" in part:
        part = {name: values[part["index"]] for name, values in data.items()}
    count = len(part["label"])
    place = device * count + jnp.arange(count)
    keys = jax.vmap(lambda i: jax.random.split(jax.random.fold_in(key, i)))(place)
    x = augment.to_float(part["image"])
    x = augment.crop_and_flip(keys[:, 0], x, pad=inputs.pad, flip=inputs.flip)
    x = augment.add_noise(keys[:, 1], x, inputs.noise_std)
    return {"image": x, "label": part["label"]}
