"""Against what `torch_reference` computed, without PyTorch; see `golden_parity`."""

import functools

import golden_parity as golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ebmjax import energy, models, objectives, optim, sgld
from ebmjax.interop import state_dict

VALUES = dict(np.load(golden.FILE))


@pytest.fixture(autouse=True)
def double_precision():
    """Where the two must agree to rounding, and no kink is met."""
    with jax.enable_x64(True):
        yield


def assert_close(ours, theirs, what=""):
    np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-9, err_msg=what)


def network(norm):
    shapes = [
        tuple(map(int, filter(None, text.split(","))))
        for text in VALUES[f"{norm}/shapes"]
    ]
    state = golden.weights(dict(zip(VALUES[f"{norm}/names"], shapes, strict=True)))
    model, variables = state_dict.from_state_dict(state, norm=norm)
    return model.clone(dtype=jnp.float64), jax.tree.map(jnp.array, variables)


@pytest.mark.parametrize("norm", golden.NORMS)
def test_logits_and_scores(norm):
    model, variables = network(norm)
    x = golden.images(0)
    logits = model.apply(variables, x)
    assert logits.std() > 0.5
    assert_close(logits, VALUES[f"{norm}/logits"])
    score = energy.score(lambda x: energy.from_logits(model.apply(variables, x)), x)
    assert_close(golden.fingerprint(score), VALUES[f"{norm}/score"])


@pytest.mark.parametrize("labels", [None, golden.LABELS], ids=["marginal", "joint"])
def test_a_chain_without_noise(labels):
    model, variables = network(None)

    def energy_fn(x):
        logits = model.apply(variables, x)
        if labels is None:
            return energy.from_logits(logits)
        return energy.joint_from_logits(logits, labels)

    start = jnp.array(golden.images(0))
    sampler = sgld.sgld(energy_fn, step_size=1.0, noise_std=0.0)
    state, _ = sgld.run(jax.random.key(0), sampler, sampler.init(start), 20)
    assert jnp.abs(state.position - start).max() > 0.1
    name = "marginal" if labels is None else "joint"
    assert_close(golden.fingerprint(state.position), VALUES[f"chain/{name}"])


def our_loss(params, stats, model, objective):
    x, x_model, x_labelled = map(jnp.array, map(golden.images, range(3)))
    labelled = dict(image=x_labelled, label=jnp.array(golden.LABELS))
    batch, drawn = labelled, {}
    if objective == "jem":  # the official loop has two streams of data
        batch = dict(image=x, label=labelled["label"], labelled=labelled)
        drawn = {"samples": x_model}
    if objective == "joint":
        drawn = {"joint_samples": x_model}
    return objectives.loss(
        params,
        {"batch_stats": stats} if stats else {},
        batch,
        drawn,
        jax.random.key(0),
        network=models.network(model),
        objective=objectives.objective(golden.OBJECTIVES[objective]),
    )


@pytest.mark.parametrize("objective, norm", golden.CASES)
def test_losses_gradients_and_running_moments(objective, norm):
    model, variables = network(norm)
    fn = functools.partial(our_loss, model=model, objective=objective)
    (value, aux), grads = jax.jit(jax.value_and_grad(fn, has_aux=True))(
        variables["params"], variables["batch_stats"]
    )
    assert_close(value, VALUES[f"{objective}/{norm}/loss"])
    ours = state_dict.to_state_dict(
        model, {"params": grads, "batch_stats": {}} | aux.model_state
    )
    names = VALUES[f"{objective}/{norm}/names"]
    assert len(names) > 15
    for name, theirs in zip(names, VALUES[f"{objective}/{norm}/tensors"], strict=True):
        assert_close(golden.fingerprint(ours[name]), theirs, name)


@pytest.mark.parametrize("decay", golden.WEIGHT_DECAYS)
def test_adam(decay):
    schedule = optim.schedule(golden.RATE, num_steps=10)
    optimizer = optim.optimizer("adam", schedule, weight_decay=decay)
    parameter = jnp.ones(8)
    state = optimizer.init(parameter)
    for gradient in golden.gradients():
        update, state = optimizer.update(jnp.array(gradient), state, parameter)
        parameter = parameter + update
    assert jnp.abs(parameter - 1).max() > 1e-2
    assert_close(parameter, VALUES[f"adam/{decay}"])
