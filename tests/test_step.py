import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny

from ebmjax import augment, models, objectives, optim, parallel, sgld, train_step

KEY = jax.random.key(7)
AUGMENTED = augment.standard(pad=1, flip=True, noise_std=0.1)
DETERMINISTIC = [
    dict(cross_entropy=1.0),
    dict(cross_entropy=1.0, energy_variance=1.0, approximate_mass=0.5),
]
JEM = dict(cross_entropy=1.0, p_x=1.0)


def start(case, num_devices):
    """A state for so many devices, and two steps' batches as [D, B/D, ...]."""
    x = tiny.batch(8)["image"]
    state = train_step.init_state(jax.random.key(1), x, *case, num_chains=24)
    if state.chains is not None:
        chains = jax.tree.map(
            lambda b: b.reshape(num_devices, -1, *b.shape[1:]), state.chains
        )
        state = state.replace(chains=chains)
    batches = [
        {"image": tiny.images(8, seed), "label": tiny.labels(8, seed)}
        for seed in (3, 4)
    ]
    split = lambda x: x.reshape(num_devices, -1, *x.shape[1:])  # noqa: E731
    return state, [jax.tree.map(split, batch) for batch in batches]


def on_devices(case, method="shard_map", max_traces=1):
    """Two steps on all devices, with one trace."""
    chex.clear_trace_counter()

    @chex.assert_max_traces(n=max_traces)
    def counted(*args, axis_name):
        return train_step.train_step(*args, **case._asdict(), axis_name=axis_name)

    program = parallel.spmd(
        counted,
        in_axes=(train_step.AXES, None, 0, None),
        out_axes=(train_step.AXES, None),
        method=method,
        donate=(0,),
    )
    state, batches = start(case, jax.device_count())
    state = parallel.place(state, train_step.AXES)
    for batch in batches:
        state, metrics = program(
            state, None, parallel.place(batch, 0), parallel.place(KEY)
        )
    return state, metrics


def on_one(case, num_devices):
    """The same on one device, which plays `num_devices` of them by vmap."""
    state, batches = start(case, num_devices)
    fn = functools.partial(train_step.train_step, **case._asdict(), axis_name="i")
    fn = jax.vmap(
        fn, (train_step.AXES, None, 0, None), (train_step.AXES, None), axis_name="i"
    )
    for batch in batches:
        state, metrics = jax.jit(fn)(state, None, batch, KEY)
    return state, metrics


@pytest.mark.parametrize("weights", DETERMINISTIC, ids=["classifier", "ng_ebm"])
@pytest.mark.parametrize("method", parallel.METHODS)
def test_four_devices_take_the_steps_that_one_takes(weights, method):
    case = tiny.case(augment=AUGMENTED, **weights)
    one, one_metrics = on_one(case, num_devices=1)
    four, four_metrics = on_devices(case, method)
    chex.assert_trees_all_close(one.params, four.params, rtol=1e-5, atol=1e-6)
    chex.assert_trees_all_close(one_metrics, four_metrics, rtol=1e-5)
    assert jax.tree.leaves(four.params)[0].ndim < 3  # no device axis


@pytest.mark.parametrize("method", parallel.METHODS)
def test_four_devices_take_the_jem_steps_of_four_simulated_ones(method):
    case = tiny.case(**JEM)
    one, one_metrics = on_one(case, num_devices=4)
    four, four_metrics = on_devices(case, method)
    chex.assert_trees_all_close(one.params, four.params, rtol=1e-5, atol=1e-6)
    chex.assert_trees_all_close(one_metrics, four_metrics, rtol=1e-4)
    chex.assert_trees_all_close(one.chains, four.chains, atol=1e-5)


def test_four_devices_share_their_batch_statistics():
    network = tiny.batch_norm_net()
    over_devices = models.network(
        models.WideResNet(
            10, 1, tiny.NUM_CLASSES, norm="batch", axis_name=parallel.AXIS
        ),
        per_example=False,
    )
    state, batches = start(tiny.case(network, cross_entropy=1.0), 1)
    single = functools.partial(
        train_step.train_step, **tiny.case(network, cross_entropy=1.0)._asdict()
    )
    flat = jax.tree.map(lambda x: x[0], batches[0])
    one, _ = jax.jit(single)(state, None, flat, KEY)
    program = parallel.spmd(
        functools.partial(
            train_step.train_step,
            **tiny.case(over_devices, cross_entropy=1.0)._asdict(),
        ),
        in_axes=(train_step.AXES, None, 0, None),
        out_axes=(train_step.AXES, None),
    )
    batch = parallel.place(parallel.split(flat), 0)
    four, _ = program(
        parallel.place(state, train_step.AXES), None, batch, parallel.place(KEY)
    )
    chex.assert_trees_all_close(one.model_state, four.model_state, rtol=1e-4, atol=1e-6)


def batch_norm_case(axis_name, **weights):
    """Five chain steps through batch norm without chance: every chain of the buffer
    moves, without noise."""
    module = models.WideResNet(
        10, 1, tiny.NUM_CLASSES, norm="batch", axis_name=axis_name
    )
    return tiny.case(
        models.network(module, per_example=False),
        chains=objectives.ChainSettings(num_steps=5, reinit_prob=0.0, train_mode=True),
        **weights,
    ).replace(
        sampler=functools.partial(
            sgld.sgld, step_size=1.0, noise_std=0.0, clip_grad=1.0, clip_x=1.0
        ),
        optimizer=optax.sgd(0.1),
    )


def streams_of_eight(seed):
    return {
        "image": tiny.images(8, seed),
        "label": tiny.labels(8, seed),
        "labelled": {
            "image": tiny.images(16, seed + 1),
            "label": tiny.labels(16, seed + 1),
        },
    }


def test_chains_through_batch_norm_on_four_devices_are_those_of_one():
    """Batch statistics are those of all chains, as are the squared mean energies."""
    weights = dict(cross_entropy=1.0, p_x=1.0, mean_energy_l2=0.5)
    single = batch_norm_case(None, **weights)
    state = train_step.init_state(
        jax.random.key(1), tiny.batch(8)["image"], *single, num_chains=8
    )
    start = np.asarray(state.chains.samples)
    batch = streams_of_eight(3)
    one, one_metrics = jax.jit(
        functools.partial(train_step.train_step, **single._asdict())
    )(state, None, batch, KEY)

    program = parallel.spmd(
        functools.partial(
            train_step.train_step, **batch_norm_case(parallel.AXIS, **weights)._asdict()
        ),
        in_axes=(train_step.AXES, None, 0, None),
        out_axes=(train_step.AXES, None),
    )
    spread = state.replace(chains=parallel.split(state.chains))
    four, four_metrics = program(
        parallel.place(spread, train_step.AXES),
        None,
        parallel.place(parallel.split(batch), 0),
        parallel.place(KEY),
    )
    samples = np.asarray(four.chains.samples).reshape(start.shape)
    assert np.abs(samples - start).max() > 0.1
    np.testing.assert_allclose(samples, one.chains.samples, atol=1e-4)
    chex.assert_trees_all_close(one.params, four.params, rtol=1e-4, atol=1e-5)
    chex.assert_trees_all_close(one.model_state, four.model_state, rtol=1e-4, atol=1e-5)
    del one_metrics["sgld_grad_norm"], four_metrics["sgld_grad_norm"]  # at a kink
    chex.assert_trees_all_close(one_metrics, four_metrics, rtol=1e-3, atol=1e-5)


def test_chains_leave_the_running_moments_alone():
    """They are those of three passes in the official order: data, samples, labelled."""
    case = batch_norm_case(None, cross_entropy=1.0, p_x=1.0)
    state = train_step.init_state(
        jax.random.key(1), tiny.batch(8)["image"], *case, num_chains=8
    )
    batch = streams_of_eight(3)
    after, _ = jax.jit(functools.partial(train_step.train_step, **case._asdict()))(
        state, None, batch, KEY
    )
    moments = state.model_state
    for x in (
        tiny.batch(8, 3)["image"],
        after.chains.samples,  # all of which are this step's samples
        tiny.batch(16, 4)["image"],
    ):
        _, moments = case.recipe.network.train(state.params, moments, x, KEY)
    chex.assert_trees_all_close(after.model_state, moments, rtol=1e-4, atol=1e-5)


def test_the_main_batch_is_plain_and_the_labelled_one_augmented():
    def brighter(key, x):
        return x + 0.5

    weights = dict(cross_entropy=1.0, energy_variance=1.0)
    case = tiny.case(augment=brighter, **weights)
    state, _ = start(case, 1)
    step = functools.partial(train_step.train_step, state, None)
    batch = streams_of_eight(3)
    _, both = step(batch, KEY, **case._asdict())
    _, plain = step(batch, KEY, **case.replace(plain_main_batch=True)._asdict())
    assert plain["cross_entropy"] == both["cross_entropy"]
    network = case.recipe.network
    for metrics, shift in ((both, 0.5), (plain, 0.0)):
        logits = network.apply(state.params, {}, tiny.batch(8, 3)["image"] + shift)
        expected = jnp.var(jax.nn.logsumexp(logits, axis=-1))
        np.testing.assert_allclose(metrics["energy_variance"], expected, rtol=1e-4)


def test_fresh_chains_come_from_the_pool_which_is_no_constant_of_the_program():
    chains = objectives.ChainSettings(num_steps=1, reinit_prob=1.0)
    case = tiny.case(**JEM, chains=chains).replace(
        sampler=functools.partial(sgld.sgld, step_size=1e-9, noise_std=0.0)
    )
    state, (batch, _) = start(case, 1)
    state = state.replace(chains=jax.tree.map(lambda x: x[0], state.chains))
    flat = jax.tree.map(lambda x: x[0], batch)
    pool = np.random.default_rng(0).uniform(-1, 1, (3, 500, *tiny.SHAPE))
    pool = pool.astype(np.float32)
    step = jax.jit(functools.partial(train_step.train_step, **case._asdict()))
    new, _ = step(state, None, flat, KEY, pool)
    moved = np.any(new.chains.samples != state.chains.samples, axis=(1, 2, 3))
    assert moved.sum() == 8
    rows = pool.reshape(-1, 16)
    for x in np.asarray(new.chains.samples)[moved].reshape(-1, 16):
        assert np.abs(rows - x).max(axis=1).min() < 1e-6
    text = step.lower(state, None, flat, KEY, pool).as_text()
    assert len(text) < 500_000


def test_devices_have_chains_of_their_own():
    """From equal buffers, without fresh starts: slots and noise alone differ."""
    chains = objectives.ChainSettings(num_steps=1, reinit_prob=0.0)
    case = tiny.case(**JEM, chains=chains)
    state, batches = start(case, jax.device_count())
    samples = np.array(state.chains.samples)
    samples[:] = samples[:1]
    state = state.replace(chains=state.chains._replace(samples=samples))
    program = parallel.spmd(
        functools.partial(train_step.train_step, **case._asdict()),
        in_axes=(train_step.AXES, None, 0, None),
        out_axes=(train_step.AXES, None),
    )
    placed = parallel.place(state, train_step.AXES)
    batch = parallel.place(batches[0], 0)
    after = np.asarray(program(placed, None, batch, parallel.place(KEY))[0].chains[0])
    assert len({x.tobytes() for x in after}) == 4
    assert np.any(after != samples)


def test_indices_into_resident_data_are_the_same_as_images():
    case = tiny.case(augment=AUGMENTED, cross_entropy=1.0)
    state, _ = start(case, 1)
    data = {"image": tiny.images(20), "label": tiny.labels(20)}
    index = np.array([3, 19, 0, 7])
    run = jax.jit(functools.partial(train_step.train_step, **case._asdict()))
    by_index, _ = run(state, data, {"index": index}, KEY)
    by_image, _ = run(state, None, {k: v[index] for k, v in data.items()}, KEY)
    chex.assert_trees_all_equal(by_index.params, by_image.params)


def test_a_step_is_adam_on_the_gradient_of_the_loss():
    case = tiny.case(cross_entropy=1.0)
    state, _ = start(case, 1)
    batch = {"image": tiny.images(8), "label": tiny.labels(8)}
    found, metrics = train_step.train_step(state, None, batch, KEY, **case._asdict())

    def loss(params):
        logits = case.recipe.network.apply(params, {}, tiny.batch(8)["image"])
        return optax.softmax_cross_entropy_with_integer_labels(
            logits, tiny.labels(8)
        ).mean()

    value, grads = jax.value_and_grad(loss)(state.params)
    updates, _ = optax.adam(1e-2).update(grads, optax.adam(1e-2).init(state.params))
    expected = optax.apply_updates(state.params, updates)
    chex.assert_trees_all_close(found.params, expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(metrics["loss"], value, rtol=1e-5)
    np.testing.assert_allclose(metrics["grad_norm"], optax.tree.norm(grads), rtol=1e-5)


def test_a_recovered_run_has_another_stream_and_smaller_updates():
    case = tiny.case(cross_entropy=1.0).replace(recovery_lr_factor=0.25)
    noisy = case.replace(augment=AUGMENTED)
    state, _ = start(case, 1)
    batch = {"image": tiny.images(8), "label": tiny.labels(8)}
    recovered = state.replace(recoveries=jnp.int32(2))
    change = lambda new: jax.tree.map(jnp.subtract, new.params, state.params)  # noqa: E731
    once, _ = train_step.train_step(state, None, batch, KEY, **case._asdict())
    again, _ = train_step.train_step(recovered, None, batch, KEY, **case._asdict())
    expected = jax.tree.map(lambda d: d / 16, change(once))
    chex.assert_trees_all_close(change(again), expected, rtol=1e-3, atol=1e-7)
    _, first = train_step.train_step(state, None, batch, KEY, **noisy._asdict())
    _, other = train_step.train_step(recovered, None, batch, KEY, **noisy._asdict())
    assert first["loss"] != other["loss"]


def test_ema_is_the_running_mean_of_the_parameters():
    case = tiny.case(cross_entropy=1.0).replace(ema_decay=0.75)
    state, _ = start(case, 1)
    batch = {"image": tiny.images(8), "label": tiny.labels(8)}
    after, _ = train_step.train_step(state, None, batch, KEY, **case._asdict())
    expected = jax.tree.map(
        lambda old, new: 0.75 * old + 0.25 * new, state.params, after.params
    )
    chex.assert_trees_all_close(after.ema, expected, rtol=1e-5)


def test_a_labelled_stream_feeds_cross_entropy_alone():
    case = tiny.case(
        cross_entropy=1.0, energy_variance=1.0, chains=objectives.ChainSettings()
    )
    state, _ = start(case, 1)
    batch = {"image": tiny.images(8), "label": tiny.labels(8)}
    labelled = {"image": tiny.images(8, 9), "label": tiny.labels(8, 9)}
    run = functools.partial(train_step.train_step, **case._asdict())
    _, plain = run(state, None, batch, KEY)
    _, both = run(state, None, batch | {"labelled": labelled}, KEY)
    assert both["energy_variance"] == plain["energy_variance"]
    logits = case.recipe.network.apply(state.params, {}, tiny.batch(8, 9)["image"])
    expected = optax.softmax_cross_entropy_with_integer_labels(
        logits, labelled["label"]
    ).mean()
    np.testing.assert_allclose(both["cross_entropy"], expected, rtol=1e-5)


def test_a_long_gradient_is_cut_to_the_norm_that_is_allowed():
    case = tiny.case(cross_entropy=1.0).replace(optimizer=optax.sgd(1.0))

    def length_of_step(clip_norm):
        state, (batch, _) = start(case, 1)
        flat = jax.tree.map(lambda x: x[0], batch)
        clipped = case.replace(clip_norm=clip_norm)
        new, metrics = train_step.train_step(
            state, None, flat, KEY, **clipped._asdict()
        )
        moved = jax.tree.map(jnp.subtract, new.params, state.params)
        return float(optax.tree.norm(moved)), float(metrics["grad_norm"])

    full, norm = length_of_step(0.0)
    np.testing.assert_allclose(full, norm, rtol=1e-5)
    for clip_norm, expected in [(norm / 2, norm / 2), (norm * 2, norm)]:
        moved, still = length_of_step(clip_norm)
        np.testing.assert_allclose(moved, expected, rtol=1e-5)
        np.testing.assert_allclose(still, norm, rtol=1e-5)  # as it was before


@pytest.mark.parametrize("adaptive", [False, True])
def test_sharpness_aware_steps_are_the_same_on_one_device_and_on_four(adaptive):
    case = tiny.case(**JEM).replace(gradient=optim.sam(0.1, adaptive=adaptive))
    one, one_metrics = on_one(case, num_devices=4)
    four, four_metrics = on_devices(case)
    chex.assert_trees_all_close(one.params, four.params, rtol=1e-5, atol=1e-6)
    chex.assert_trees_all_close(one_metrics, four_metrics, rtol=1e-4)


def test_a_gradient_function_that_evaluates_twice_does_not_sample_twice():
    chains = []

    def counting(energy_fn):
        chains.append(1)
        return sgld.JEM(energy_fn)

    case = tiny.case(**JEM).replace(gradient=optim.sam(0.1), sampler=counting)
    state, (batch, _) = start(case, 1)
    state = state.replace(chains=jax.tree.map(lambda x: x[0], state.chains))
    flat = jax.tree.map(lambda x: x[0], batch)
    train_step.train_step(state, None, flat, KEY, **case._asdict())
    assert len(chains) == 1


STABILISED = dict(
    cross_entropy=1.0,
    p_x=0.5,
    energy_l2=0.3,
    mean_energy_l2=0.2,
    input_gradient=0.05,
)


@pytest.mark.parametrize("alone", ["", "energy_l2", "mean_energy_l2", "input_gradient"])
def test_a_step_with_stabilisers_is_the_written_out_one(alone):
    """One example at a time, at the samples that the step put into its buffer."""
    weights = {alone: 0.4} if alone else STABILISED
    chains = objectives.ChainSettings(num_steps=2, reinit_prob=0.0)
    case = tiny.case(chains=chains, **weights).replace(optimizer=optax.sgd(0.1))
    x, labels = tiny.batch(8)["image"], tiny.labels(8)
    state = train_step.init_state(jax.random.key(1), x, *case, num_chains=8)
    run = jax.jit(functools.partial(train_step.train_step, **case._asdict()))
    batch = {"image": tiny.images(8), "label": labels}
    after, metrics = run(state, None, batch, KEY)
    samples = after.chains.samples if after.chains else x  # all eight of this step

    def loss(params):
        def energy(x):
            return -jax.nn.logsumexp(case.recipe.network.apply(params, {}, x[None])[0])

        logits = case.recipe.network.apply(params, {}, x)
        data, model = jax.vmap(energy)(x), jax.vmap(energy)(samples)
        slopes = jax.vmap(jax.grad(energy))(x)
        values = {
            "cross_entropy": optax.softmax_cross_entropy_with_integer_labels(
                logits, labels
            ).mean(),
            "p_x": data.mean() - model.mean(),
            "energy_l2": (data**2).mean() + (model**2).mean(),
            "mean_energy_l2": data.mean() ** 2 + model.mean() ** 2,
            "input_gradient": (slopes**2).sum(axis=(1, 2, 3)).mean(),
        }
        values = {name: values[name] for name in weights}
        return sum(weights[name] * value for name, value in values.items()), values

    (total, values), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(
        state.params
    )
    for name, value in (values | {"loss": total}).items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-4, err_msg=name)
    moved = jax.tree.map(lambda w, g: w - 0.1 * g, state.params, grads)
    chex.assert_trees_all_close(after.params, moved, rtol=1e-4, atol=1e-6)
