"""Sharpness-aware minimisation beside what else changes how a gradient is taken: a
spread state, batch statistics over devices, a batch in parts."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import on_devices
import optax
import pytest
import test_parallel
import test_step
import tiny

from ebmjax import models, optim, parallel, train_step

WEIGHTS = dict(cross_entropy=1.0, p_x=0.1, energy_l2=0.1, input_gradient=0.05)


def spreadable(**changes):
    """With parameters that are large enough to be spread."""
    network = models.MLP(tiny.NUM_CLASSES, features=(2048,))
    return on_devices.case(WEIGHTS).replace(
        network=models.network(network, per_example=True),
        optimizer=optim.optimizer("sgd", lambda _: 0.1, weight_decay=0.01),
        **changes,
    )


@pytest.mark.parametrize("adaptive, parts", [(False, 1), (True, 2)])
def test_a_spread_state_takes_the_steps_of_a_whole_one(adaptive, parts):
    """Its perturbation has the norm of all parameters, not of a device's part."""
    sam = optim.sam(0.5, adaptive=adaptive)
    case = spreadable(gradient=sam, accumulation_steps=parts)
    whole, whole_metrics = test_parallel.three_steps(case, spread=False)
    spread, spread_metrics = test_parallel.three_steps(case, spread=True)
    part, one = (test_parallel.held(state.params) for state in (spread, whole))
    assert part < 0.4 * one  # of the first of four devices
    chex.assert_trees_all_close(whole, spread, rtol=1e-4, atol=1e-6)
    chex.assert_trees_all_close(whole_metrics, spread_metrics, rtol=1e-4, atol=1e-6)


def deterministic():
    """An objective in which parts of a batch have nothing random of their own."""
    weights = dict(cross_entropy=1.0, input_gradient=0.05)
    return tiny.case(**weights).replace(optimizer=optax.sgd(0.1))


def flat_start(case):
    state, (batch, _) = test_step.start(case, 1)
    return state, jax.tree.map(lambda x: x[0], batch)


@pytest.mark.parametrize("adaptive", [False, True])
def test_parts_of_a_batch_are_perturbed_by_the_gradient_of_all_of_it(adaptive):
    """Perturbing by the gradient of each part would be another method."""
    case = deterministic().replace(gradient=optim.sam(0.5, adaptive=adaptive))
    state, batch = flat_start(case)
    run = functools.partial(train_step.train_step, state, None, batch, test_step.KEY)
    whole, whole_metrics = run(**case._asdict())
    parts, metrics = run(**case.replace(accumulation_steps=4)._asdict())
    chex.assert_trees_all_close(whole.params, parts.params, rtol=1e-5, atol=1e-6)
    chex.assert_trees_all_close(whole_metrics, metrics, rtol=1e-4, atol=1e-6)

    def loss(params):
        x, apply = tiny.batch(8, 3)["image"], case.recipe.network.apply
        logits = apply(params, {}, x)
        slope = jax.grad(lambda x: jax.nn.logsumexp(apply(params, {}, x), -1).sum())
        penalty = jnp.mean(jnp.sum(slope(x) ** 2, axis=(1, 2, 3)))
        return 0.05 * penalty + jnp.mean(
            optax.softmax_cross_entropy_with_integer_labels(logits, tiny.labels(8, 3))
        )

    w, unravel = jax.flatten_util.ravel_pytree(state.params)
    g, _ = jax.flatten_util.ravel_pytree(jax.grad(loss)(state.params))
    scale = np.abs(w) if adaptive else np.ones_like(w)
    e = 0.5 * scale**2 * g / np.linalg.norm(scale * g)
    step = jax.tree.map(lambda g: -0.1 * g, jax.grad(loss)(unravel(w + e)))
    expected = optax.apply_updates(state.params, step)
    chex.assert_trees_all_close(whole.params, expected, rtol=1e-4, atol=1e-6)


def in_double_precision(tree):
    return jax.tree.map(lambda x: x.astype(jnp.float64), tree)


def batch_norm_case(axis_name):
    module = models.WideResNet(
        *(10, 1, tiny.NUM_CLASSES),
        norm="batch",
        dtype=jnp.float64,
        axis_name=axis_name,
    )
    case = test_step.batch_norm_case(axis_name, cross_entropy=1.0, p_x=1.0)
    return case.replace(
        network=models.network(module, per_example=False),
        gradient=optim.sam(0.1, adaptive=True),
    )


@pytest.mark.slow
def test_batch_norm_on_four_devices_takes_the_step_of_one():
    """With statistics over all devices, nothing differs but rounding."""
    with jax.enable_x64(True):
        single = batch_norm_case(None)
        state = train_step.init_state(
            jax.random.key(1), tiny.batch(8)["image"], *single, num_chains=8
        )
        state = state.replace(
            params=in_double_precision(state.params),
            model_state=in_double_precision(state.model_state),
            chains=in_double_precision(state.chains),
        )
        batch = test_step.streams_of_eight(3)
        run = functools.partial(train_step.train_step, **single._asdict())
        one, one_metrics = jax.jit(run)(state, None, batch, test_step.KEY)

        program = parallel.spmd(
            functools.partial(
                train_step.train_step, **batch_norm_case(parallel.AXIS)._asdict()
            ),
            in_axes=(train_step.AXES, None, 0, None),
            out_axes=(train_step.AXES, None),
        )
        spread = state.replace(chains=parallel.split(state.chains))
        four, four_metrics = program(
            parallel.place(jax.device_get(spread), train_step.AXES),
            None,
            parallel.place(parallel.split(batch), 0),
            parallel.place(test_step.KEY),
        )
        chains = np.reshape(four.chains.samples, one.chains.samples.shape)
        moved = np.abs(chains - state.chains.samples).max()
    assert chains.dtype == np.float64 and moved > 0.1
    np.testing.assert_allclose(chains, one.chains.samples, atol=1e-8)
    for found, expected in (
        (four.params, one.params),
        (four.model_state, one.model_state),
    ):
        chex.assert_trees_all_close(found, expected, rtol=1e-7, atol=1e-9)
    del one_metrics["sgld_grad_norm"], four_metrics["sgld_grad_norm"]  # at a kink
    chex.assert_trees_all_close(one_metrics, four_metrics, rtol=1e-6, atol=1e-7)
