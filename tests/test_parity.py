"""Against `torch_reference`, on networks that have learned something."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ebmjax import augment, energy, models, objectives, optim, recipe, replay, sgld
from ebmjax import train_step as steps
from ebmjax.interop import state_dict

torch = pytest.importorskip("torch")
import golden_parity  # noqa: E402
import torch_reference as reference  # noqa: E402
from torch_trained import (  # noqa: E402
    NORMS,
    SIZE,
    assert_close,
    digits,
    to_numpy,
    to_torch,
    trained,
    uniform,
)


def both(norm=None, dtype=torch.float32):
    """The same trained network twice: PyTorch's, and ours with its variables."""
    theirs = reference.Classifier(norm=norm)
    theirs.load_state_dict(trained(norm))
    theirs = theirs.to(dtype)
    state = {name: x.numpy() for name, x in theirs.state_dict().items()}
    ours, variables = state_dict.from_state_dict(state, norm=norm)
    if dtype == torch.float64:
        ours = ours.clone(dtype=jnp.float64)
    return theirs, ours, jax.tree.map(jnp.array, variables)


def smooth(function, x, limit):
    """Which of x are far from kinks: there PyTorch agrees with its own float64."""
    single = function(torch.float32, to_torch(x))
    double = function(torch.float64, to_torch(x).double())
    far = (single - double).abs().flatten(1).max(1).values < limit
    assert far.float().mean() > 0.8
    return far.numpy(), to_numpy(single)


@pytest.mark.parametrize("norm", NORMS)
def test_logits_densities_and_scores(norm):
    theirs, model, variables = both(norm)
    x, _ = digits(50, 1300)
    logits = theirs.eval()(to_torch(x))
    assert logits.std() > 0.5  # it has learned something
    ours = model.apply(variables, x)
    assert_close(ours, logits.detach(), 2e-4, "logits")
    log_p = logits.logsumexp(1).detach()
    assert_close(-energy.from_logits(ours), log_p, 2e-4, "log p(x)")

    def score(dtype, x):
        return reference.score(both(norm, dtype)[0].eval(), x)

    far, theirs = smooth(score, x, 1e-6)
    ours = energy.score(lambda x: energy.from_logits(model.apply(variables, x)), x)
    assert_close(ours[far], theirs[far], 1e-5, "score")


def test_at_the_official_size_the_pool_is_a_mean():
    theirs, model, variables = both()
    x = np.kron(uniform(3), np.ones((1, 2, 2, 1), np.float32))  # 32x32: 8x8 pooled
    assert_close(model.apply(variables, x), theirs(to_torch(x)).detach(), 2e-4)


@pytest.mark.parametrize("labels", [None, np.arange(16) % 10])
def test_a_chain_without_noise(labels):
    """In float64: rounding takes a chain of 20 steps past a kink of the network."""
    with jax.enable_x64(True):
        compare_chains(labels)


def compare_chains(labels):
    theirs, model, variables = both(None, torch.float64)
    start = uniform(16).astype(np.float64)

    def energy_fn(x):
        logits = model.apply(variables, x)
        if labels is None:
            return energy.from_logits(logits)
        return energy.joint_from_logits(logits, labels)

    y = None if labels is None else torch.tensor(labels)
    expected = reference.chain(theirs, to_torch(start), 20, noise_std=0, labels=y)
    sampler = sgld.sgld(energy_fn, step_size=1.0, noise_std=0.0)
    state, _ = sgld.run(jax.random.key(0), sampler, sampler.init(start), 20)
    ours = np.asarray(state.position)
    assert ours.dtype == np.float64 and np.abs(ours - start).max() > 1
    assert_close(ours, to_numpy(expected), 1e-9, "chain")


OBJECTIVES = {
    "jem": dict(cross_entropy=1.0, p_x=1.0),
    "joint": dict(p_x_y=1.0),
    "ng_ebm": dict(cross_entropy=1.0, energy_variance=1.0, approximate_mass=1.0),
}


def their_loss(model, objective, x, x_model, x_labelled, labels):
    x, x_model, x_labelled = map(to_torch, (x, x_model, x_labelled))
    y = torch.tensor(labels)
    if objective == "jem":
        return reference.jem_loss(model, x, x_model, x_labelled, y)
    if objective == "joint":
        return reference.joint_loss(model, x_labelled, x_model, y)
    return reference.ng_ebm_loss(model, x_labelled, y)


def our_loss(params, stats, model, objective, x, x_model, x_labelled, labels):
    labelled = dict(image=x_labelled, label=labels)
    batch, drawn = labelled, {}
    if objective == "jem":  # the official loop has two streams of data
        batch = dict(image=x, label=labels, labelled=labelled)
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
        objective=objectives.objective(OBJECTIVES[objective]),
    )


def losses_and_gradients(objective, norm, dtype=np.float32):
    """((loss, tensors), (loss, tensors)), ours and theirs; the tensors are gradients
    and, of batch norm, running moments."""
    x_labelled, labels = digits(16, 1316)
    arrays = digits(16, 1300)[0], uniform(16), x_labelled
    arrays = (*(x.astype(dtype) for x in arrays), labels)
    torch_dtype = torch.float64 if dtype == np.float64 else torch.float32
    theirs, model, variables = both(norm, torch_dtype)
    loss = their_loss(theirs, objective, *arrays)
    loss.backward()
    gradients = {n: p.grad for n, p in theirs.named_parameters() if p.grad is not None}
    moments = {n: x for n, x in theirs.named_buffers() if "running" in n}

    (value, aux), grads = jax.value_and_grad(our_loss, has_aux=True)(
        variables["params"], variables["batch_stats"], model, objective, *arrays
    )
    ours = state_dict.to_state_dict(
        model, {"params": grads, "batch_stats": {}} | aux.model_state
    )
    tensors = {name: x.numpy() for name, x in (gradients | moments).items()}
    return (float(value), ours), (loss.item(), tensors)


@pytest.mark.parametrize(
    "objective, norm",
    [("jem", norm) for norm in NORMS]
    + [("ng_ebm", norm) for norm in NORMS]
    + [("joint", None), ("joint", "batch")],
)
def test_losses_gradients_and_running_moments(objective, norm):
    (value, ours), (loss, theirs) = losses_and_gradients(objective, norm)
    np.testing.assert_allclose(value, loss, rtol=1e-5)
    moments = {name for name in theirs if "running" in name}
    largest = max(np.abs(x).max() for n, x in theirs.items() if n not in moments)
    for name, x in theirs.items():
        scale = np.abs(x).max() if name in moments else largest
        assert_close(ours[name], x, 1e-4 * scale, name)


@pytest.mark.slow
def test_in_double_precision_all_agrees_to_ten_digits():
    with jax.enable_x64(True):
        theirs, model, variables = both(None, torch.float64)
        x = digits(20, 1300)[0].astype(np.float64)
        logits = theirs(to_torch(x))
        assert_close(model.apply(variables, x), logits.detach(), 1e-10, "logits")

        def energy_fn(x):
            return energy.from_logits(model.apply(variables, x))

        sampler = sgld.sgld(energy_fn, step_size=1.0, noise_std=0.0)
        state, _ = sgld.run(jax.random.key(0), sampler, sampler.init(x), 20)
        chain = reference.chain(theirs, to_torch(x), 20, noise_std=0)
        assert_close(state.position, to_numpy(chain), 1e-10, "chain")
        for objective in OBJECTIVES:
            found = losses_and_gradients(objective, None, np.float64)
            (value, ours), (loss, theirs) = found
            np.testing.assert_allclose(value, loss, rtol=1e-10)
            for name, x in theirs.items():
                assert_close(ours[name], x, 1e-10, f"{objective} {name}")


def one_slot(model, variables, optimizer, start, **sampling):
    """What `train_step` takes, and a state, of JEM in which nothing is left to
    chance: noise is off, and all chains start from the buffer's only slot."""
    case = dict(
        recipe=recipe.Recipe(
            network=models.network(model, per_example=model.norm != "batch"),
            sampler=functools.partial(sgld.sgld, step_size=1.0, noise_std=0.0),
            optimizer=optimizer,
            augment=augment.standard(),
        ),
        settings=recipe.Settings(
            objective=objectives.objective({"cross_entropy": 1.0, "p_x": 1.0}),
            num_classes=10,
            chains=objectives.ChainSettings(reinit_prob=0.0, replace=True, **sampling),
        ),
    )
    stats = variables["batch_stats"]
    state = steps.TrainState(
        step=jnp.int32(0),
        recoveries=jnp.int32(0),
        params=variables["params"],
        model_state={"batch_stats": stats} if stats else {},
        opt_state=optimizer.init(variables["params"]),
        ema=None,
        chains=replay.Buffer(jnp.array(start)),
    )
    return case, state


@pytest.mark.slow
@pytest.mark.parametrize("weight_decay", [0.0, 1e-2])
def test_three_steps_of_jem(weight_decay):
    """The compiled step whole: chains, losses, warm-up and Adam."""
    rate, warmup_steps, batch_size = 1e-4, 2, 16
    theirs, model, variables = both()
    optimizer = reference.adam(theirs, rate, weight_decay)
    start = uniform(1)
    schedule = optim.schedule(rate, num_steps=100, warmup_steps=warmup_steps)
    ours = optim.optimizer("adam", schedule, weight_decay=weight_decay)
    case, state = one_slot(model, variables, ours, start)
    train_step = jax.jit(functools.partial(steps.train_step, **case))
    image, label = digits(6 * batch_size)
    image = np.round((image + 1) * 127.5).astype(np.uint8)
    for i in range(3):
        first, second = (
            slice((2 * i + j) * batch_size, (2 * i + j + 1) * batch_size)
            for j in range(2)
        )
        batch = dict(image=image[first], label=label[first])
        batch["labelled"] = dict(image=image[second], label=label[second])
        state, metrics = train_step(state, None, batch, jax.random.key(0))

        x, x_labelled = (
            to_torch(image[p] / np.float32(127.5) - 1) for p in (first, second)
        )
        y = torch.tensor(label[second])
        chains = to_torch(np.repeat(start, batch_size, axis=0))
        chains = reference.chain(theirs, chains, 20, noise_std=0)
        start = to_numpy(chains[:1])
        loss = reference.jem_loss(theirs, x, chains, x_labelled, y)
        reference.warm_up(optimizer, rate, i, warmup_steps)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        np.testing.assert_allclose(metrics["loss"], loss.item(), rtol=1e-5, atol=1e-5)

    moved = state_dict.to_state_dict(model, {"params": state.params, "batch_stats": {}})
    before = trained(None)
    for name, p in theirs.named_parameters():
        if p.grad is not None:
            assert (p - before[name]).abs().max() > 1e-5
            assert_close(moved[name], p.detach(), 1e-6, name)
    assert_close(state.chains.samples, start, 1e-4, "buffer")


@pytest.mark.slow
@pytest.mark.parametrize("train_mode", [False, True])
def test_chains_see_batch_norm_in_either_mode(train_mode):
    theirs, model, variables = both("batch")
    start, batch_size = uniform(1), 4
    optimizer = optim.optimizer("sgd", 0.0)
    case, state = one_slot(
        model, variables, optimizer, start, num_steps=5, train_mode=train_mode
    )
    image = np.zeros((batch_size, SIZE, SIZE, 3), np.uint8)
    batch = dict(image=image, label=np.zeros(batch_size, np.int32))
    train_step = jax.jit(functools.partial(steps.train_step, **case))
    state, _ = train_step(state, None, batch, jax.random.key(0))
    chains = to_torch(np.repeat(start, batch_size, axis=0))
    right, wrong = (
        to_numpy(reference.chain(theirs, chains, 5, noise_std=0, train_mode=mode)[:1])
        for mode in (train_mode, not train_mode)
    )
    assert np.abs(right - wrong).max() > 1e-2
    assert_close(state.chains.samples, right, 1e-4, "buffer")


def test_the_golden_values_are_those_of_the_reference():
    """After an intended change: python tests/golden_parity.py"""
    values = golden_parity.generate()
    stored = np.load(golden_parity.FILE)
    assert set(stored) == set(values)
    for name, value in values.items():
        if np.asarray(value).dtype.kind == "U":
            assert (stored[name] == value).all(), name
        else:
            np.testing.assert_allclose(stored[name], value, rtol=1e-9, atol=1e-9)
