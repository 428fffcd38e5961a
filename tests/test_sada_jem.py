"""Steps of SADA-JEM and M-JEM against `torch_reference`, in double precision."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ebmjax import models, objectives, optim, recipe, sgld
from ebmjax import train_step as steps
from ebmjax.interop import state_dict

torch = pytest.importorskip("torch")
import torch_reference as reference  # noqa: E402
from torch_trained import (  # noqa: E402
    assert_close,
    digits,
    to_numpy,
    to_torch,
    trained,
)

NUM_CLASSES = NUM_CHAINS = 10
NUM_LABELLED = 16
RATE, DECAY, RHO = 0.1, 5e-4, 2.0
CLIPPED = dict(step_size=1.0, noise_std=0.0, clip_grad=1.0, clip_x=1.0)
WEIGHTS = {"sada_jem": {}, "m_jem": {"mean_energy_l2": 0.5}}


def brighter(key, x):
    """The augmentation of the labelled stream."""
    return 0.9 * x + 0.1


def our_case(method):
    model = models.WideResNet(10, 1, NUM_CLASSES, norm="batch", dtype=jnp.float64)
    weights = {"cross_entropy": 1.0, "p_x": 1.0} | WEIGHTS[method]
    return dict(
        recipe=recipe.Recipe(
            network=models.network(model, per_example=False),
            sampler=functools.partial(sgld.sgld, **CLIPPED),
            optimizer=optim.optimizer("sgd", lambda step: RATE, weight_decay=DECAY),
            gradient=optim.sam(RHO, adaptive=True) if method == "sada_jem" else None,
            augment=brighter,
        ),
        settings=recipe.Settings(
            objective=objectives.objective(weights),
            num_classes=NUM_CLASSES,
            plain_main_batch=True,
            # All chains start afresh, one of each class.
            chains=objectives.ChainSettings(
                num_steps=5, reinit_prob=1.0, train_mode=True
            ),
        ),
    )


def their_step(model, optimizer, method, pool, x, x_labelled, labels):
    """One step, in the order of the program.  -> loss, chains"""
    with reference.frozen_moments(model):
        chains = reference.chain(model, pool, 5, train_mode=True, **CLIPPED)

    def loss():
        model.train()
        data = reference.log_p(model, x).mean()
        samples = reference.log_p(model, chains).mean()
        logits = model(x_labelled)
        energy_l2 = data**2 + samples**2
        weight = WEIGHTS[method].get("mean_energy_l2", 0.0)
        cross_entropy = torch.nn.functional.cross_entropy(logits, labels)
        return samples - data + cross_entropy + weight * energy_l2

    if method == "sada_jem":
        value = reference.sam_gradients(model, loss, RHO)
    else:
        optimizer.zero_grad()
        value = loss()
        value.backward()
    optimizer.step()
    return value.item(), chains


@pytest.mark.slow
@pytest.mark.parametrize("method", WEIGHTS)
def test_three_steps_with_batch_norm(method):
    rng = np.random.default_rng(0)
    images, labels = digits(3 * (NUM_CHAINS + NUM_LABELLED))
    images = images.astype(np.float64)
    pool = rng.uniform(-1, 1, (NUM_CLASSES, 1, *images.shape[1:]))
    theirs = reference.Classifier(norm="batch")
    theirs.load_state_dict(trained("batch"))
    theirs = theirs.double()
    optimizer = torch.optim.SGD(
        theirs.parameters(), RATE, momentum=0.9, weight_decay=DECAY
    )
    start = {name: x.numpy().copy() for name, x in theirs.state_dict().items()}
    with jax.enable_x64(True):
        _, variables = state_dict.from_state_dict(start, norm="batch")
        case = our_case(method)
        variables = jax.tree.map(jnp.array, variables)
        state = steps.init_state(
            jax.random.key(0),
            jnp.array(images[:1]),
            *case.values(),
            pool,
            num_chains=10,
        ).replace(
            params=variables["params"],
            model_state={"batch_stats": variables["batch_stats"]},
        )
        step = jax.jit(functools.partial(steps.train_step, **case))
        for i in range(3):
            first = slice(26 * i, 26 * i + NUM_CHAINS)
            second = slice(26 * i + NUM_CHAINS, 26 * (i + 1))
            batch = dict(image=images[first], label=labels[first])
            batch["labelled"] = dict(image=images[second], label=labels[second])
            state, metrics = step(state, None, batch, jax.random.key(0), pool)
            loss, chains = their_step(
                theirs,
                optimizer,
                method,
                to_torch(pool[:, 0]),
                to_torch(images[first]),
                to_torch(brighter(None, images[second])),
                torch.tensor(labels[second]),
            )
            np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-7)
        ours = state_dict.to_state_dict(
            models.WideResNet(10, 1, NUM_CLASSES, norm="batch"),
            {"params": state.params, **state.model_state},
        )
        samples = np.asarray(state.chains.samples)
    chains = to_numpy(chains)
    assert_close(np.sort(samples, axis=0), np.sort(chains, axis=0), 1e-6, "chains")
    assert np.abs(chains - pool[:, 0]).max() > 0.1
    compared = {name for name, p in theirs.named_parameters() if p.grad is not None}
    compared |= {name for name, _ in theirs.named_buffers() if "running" in name}
    for name in compared:
        x = theirs.state_dict()[name].numpy()
        assert np.abs(x - start[name]).max() > 1e-5, name
        assert_close(ours[name], x, 1e-6 * max(1.0, np.abs(x).max()), name)
