"""Against `torch_reference`, on networks that have learned something."""

import functools
import os
import pathlib
import pickle
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.datasets import load_digits

from ebmjax import (
    config,
    energy,
    interop,
    models,
    objectives,
    optim,
    replay,
    runs,
    sgld,
    train,
)
from ebmjax import step as steps

torch = pytest.importorskip("torch")
import torch_reference as reference  # noqa: E402

torch.set_num_threads(1)  # two, beside XLA's own, wait for each other
NORMS = list(reference.NORMS)
SIZE = 16  # pixels, half of the official images'


def digits(num, start=0):
    """float [num, 16, 16, 3] in [-1, 1], int [num]; noisy, so that no pixels tie."""
    x, y = load_digits(return_X_y=True)
    x = np.kron(x.reshape(-1, 8, 8, 1) / 10 - 0.9, np.ones((1, 2, 2, 3)))
    x += np.random.default_rng(0).uniform(-0.1, 0.1, x.shape)
    return x[start : start + num].astype(np.float32), y[start : start + num]


def uniform(num, seed=1):
    shape = (num, SIZE, SIZE, 3)
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


def to_torch(x):
    """NHWC -> NCHW."""
    return torch.tensor(np.asarray(x).transpose(0, 3, 1, 2))


def to_numpy(x):
    """NCHW -> NHWC."""
    return x.detach().numpy().transpose(0, 2, 3, 1)


@functools.cache
def trained(norm):
    """The state dict of a WRN-10-1 that has learned to tell digits."""
    torch.manual_seed(0)
    model = reference.Classifier(norm=norm)
    optimizer = reference.adam(model, 1e-2)
    x, y = digits(1280)
    x, y = to_torch(x), torch.tensor(y)
    for step in range(100):
        part = torch.arange(32 * step, 32 * step + 32) % len(x)
        loss = torch.nn.functional.cross_entropy(model(x[part]), y[part])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.state_dict()


def both(norm=None, dtype=torch.float32):
    """The same trained network twice: PyTorch's, and ours with its variables."""
    theirs = reference.Classifier(norm=norm)
    theirs.load_state_dict(trained(norm))
    theirs = theirs.to(dtype)
    state = {name: x.numpy() for name, x in theirs.state_dict().items()}
    ours, variables = interop.from_state_dict(state, norm=norm)
    if dtype == torch.float64:
        ours = ours.clone(dtype=jnp.float64)
    return theirs, ours, jax.tree.map(jnp.array, variables)


def assert_close(ours, theirs, atol, what=""):
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=atol, err_msg=what)


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
    _, model, variables = both()
    start = uniform(16)

    def energy_fn(x):
        logits = model.apply(variables, x)
        if labels is None:
            return energy.from_logits(logits)
        return energy.joint_from_logits(logits, labels)

    def chain(dtype, x):
        y = None if labels is None else torch.tensor(labels)
        return reference.chain(both(None, dtype)[0], x, 20, noise_std=0, labels=y)

    far, theirs = smooth(chain, start, 1e-5)
    sampler = sgld.sgld(energy_fn, step_size=1.0, noise_std=0.0)
    state, _ = sgld.run(jax.random.key(0), sampler, sampler.init(start), 20)
    ours = np.asarray(state.position)
    assert np.abs(ours - start).max() > 1
    assert_close(ours[far], theirs[far], 1e-4, "chain")


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
    batch, drawn = labelled, objectives.Negatives()
    if objective == "jem":  # the official loop has two streams of data
        batch = dict(image=x, label=labels, labelled=labelled)
        drawn = drawn._replace(p_x=x_model)
    if objective == "joint":
        drawn = drawn._replace(p_x_y=x_model)
    return objectives.loss(
        params,
        stats,
        batch,
        drawn,
        jax.random.key(0),
        network=models.network(model),
        weights=objectives.Weights(**OBJECTIVES[objective]),
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
        variables["params"], variables["stats"], model, objective, *arrays
    )
    ours = interop.to_state_dict(model, {"params": grads, "stats": aux.stats})
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
    """Settings and state of JEM in which nothing is left to chance: noise is off,
    and all chains start from the buffer's only slot."""
    settings = steps.Settings(
        network=models.network(model),
        optimizer=optimizer,
        weights=objectives.Weights(cross_entropy=1.0, p_x=1.0),
        num_classes=10,
        sampling=objectives.Sampling(
            noise_std=0.0, reinit_prob=0.0, replace=True, **sampling
        ),
    )
    state = steps.TrainState(
        step=jnp.int32(0),
        recoveries=jnp.int32(0),
        params=variables["params"],
        stats=variables["stats"],
        opt_state=optimizer.init(variables["params"]),
        ema=None,
        chains=replay.Buffer(jnp.array(start)),
    )
    return settings, state


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
    settings, state = one_slot(model, variables, ours, start)
    train_step = jax.jit(functools.partial(steps.train_step, settings=settings))
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

    moved = interop.to_state_dict(model, {"params": state.params, "stats": {}})
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
    settings, state = one_slot(
        model, variables, optimizer, start, num_steps=5, train_mode=train_mode
    )
    image = np.zeros((batch_size, SIZE, SIZE, 3), np.uint8)
    batch = dict(image=image, label=np.zeros(batch_size, np.int32))
    train_step = jax.jit(functools.partial(steps.train_step, settings=settings))
    state, _ = train_step(state, None, batch, jax.random.key(0))
    chains = to_torch(np.repeat(start, batch_size, axis=0))
    right, wrong = (
        to_numpy(reference.chain(theirs, chains, 5, noise_std=0, train_mode=mode)[:1])
        for mode in (train_mode, not train_mode)
    )
    assert np.abs(right - wrong).max() > 1e-2
    assert_close(state.chains.samples, right, 1e-4, "buffer")


# Files


def save(path, content, **options):
    torch.save(content, path, **options)
    return str(path)


def official(norm=None, num_chains=20):
    """A checkpoint as the official program writes it."""
    buffer = to_torch(uniform(num_chains))
    return {"model_state_dict": trained(norm), "replay_buffer": buffer}


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("kind", ["jem", "no buffer", "empty buffer", "bare", "module"])
def test_every_form_of_a_checkpoint_is_read(tmp_path, kind, zipped):
    content = official()
    if kind == "no buffer":
        del content["replay_buffer"]
    if kind == "empty buffer":
        content["replay_buffer"] = []
    if kind == "bare":
        content = content["model_state_dict"]
    if kind == "module":
        state = content["model_state_dict"]
        content["model_state_dict"] = {f"module.{k}": x for k, x in state.items()}
    options = dict(_use_new_zipfile_serialization=zipped)
    path = save(tmp_path / "ckpt.pt", content, **options)
    model, variables, chains = interop.load_torch_checkpoint(path)
    assert (model.depth, model.width, model.num_classes, model.norm) == (
        10,
        1,
        10,
        None,
    )
    if kind in ("jem", "module"):
        np.testing.assert_array_equal(chains, uniform(20))
    else:
        assert chains is None
    x, _ = digits(5)
    theirs = reference.Classifier()
    theirs.load_state_dict(trained(None))
    assert_close(model.apply(variables, x), theirs(to_torch(x)).detach(), 2e-4)


@pytest.mark.parametrize("depth, width, num_classes", [(10, 2, 100), (22, 1, 7)])
@pytest.mark.parametrize("norm", NORMS)
def test_size_and_norm_are_read_off_the_tensors(depth, width, num_classes, norm):
    theirs = reference.Classifier(depth, width, num_classes, norm)
    state = {name: x.numpy() for name, x in theirs.state_dict().items()}
    ambiguous = norm in ("instance", "layer")
    model, _ = interop.from_state_dict(state, norm=norm if ambiguous else None)
    found = model.depth, model.width, model.num_classes, model.norm
    assert found == (depth, width, num_classes, norm)
    if ambiguous:
        with pytest.raises(ValueError, match="may be instance or layer, whose tensors"):
            interop.from_state_dict(state)
    else:
        with pytest.raises(ValueError, match=f"norm is {norm}, not layer"):
            interop.from_state_dict(state, norm="layer")


@pytest.mark.parametrize("norm", NORMS)
def test_a_round_trip_is_exact(tmp_path, norm):
    path = save(tmp_path / "theirs.pt", official(norm))
    model, variables, chains = interop.load_torch_checkpoint(path, norm=norm)
    back = str(tmp_path / "ours.pt")
    interop.save_torch_checkpoint(back, model, variables, chains)
    content = torch.load(back, weights_only=True)
    assert torch.equal(content["replay_buffer"], official()["replay_buffer"])
    state = content["model_state_dict"]
    for name, x in trained(norm).items():
        assert state[name].dtype == x.dtype
        if not name.startswith(("f.linear", "energy_output")) and "num_" not in name:
            assert torch.equal(state[name], x), name
    # The official class takes it, strictly.
    reference.Classifier(norm=norm).load_state_dict(state)
    again = interop.load_torch_checkpoint(back, norm=norm)
    jax.tree.map(np.testing.assert_array_equal, (variables, chains), again[1:])
    assert sorted(os.listdir(tmp_path)) == ["ours.pt", "theirs.pt"]


def test_unused_tensors_are_named(tmp_path, caplog):
    path = save(tmp_path / "ckpt.pt", official("batch"))
    with caplog.at_level("INFO"):
        interop.load_torch_checkpoint(path)
    for name in ("energy_output", "f.linear"):
        assert f"{name}.bias, {name}.weight" in caplog.text
    assert "num_batches_tracked" not in caplog.text


def test_what_is_missing_or_unexpected_is_listed(tmp_path):
    content = official()
    state = dict(content["model_state_dict"])
    state["f.extra.weight"] = state.pop("f.layer2.0.conv2.weight")
    path = save(tmp_path / "ckpt.pt", dict(model_state_dict=state))
    with pytest.raises(
        ValueError,
        match="ckpt.pt is not an official checkpoint: missing: f.layer2.0.conv2.weight;"
        " unexpected: f.extra.weight",
    ):
        interop.load_torch_checkpoint(path)
    state = dict(trained(None), **{"f.conv1.bias": torch.zeros(17)})
    path = save(tmp_path / "ckpt.pt", state)
    with pytest.raises(ValueError, match=r"conv1/bias has shape \(17,\), not \(16,\)"):
        interop.load_torch_checkpoint(path)
    with pytest.raises(ValueError, match="missing: f.layer1.0.conv1.weight"):
        interop.load_torch_checkpoint(save(path, {"a": torch.zeros(1)}))
    content["replay_buffer"] = torch.zeros(5)
    with pytest.raises(ValueError, match=r"\(5,\) is not \[N, C, H, W\]"):
        interop.load_torch_checkpoint(save(path, content))


@pytest.mark.parametrize(
    "content, message",
    [
        ([torch.zeros(1)], "holds a list, not a state dict"),
        ({}, "no state dict"),
        ({"model_state_dict": 3}, "no state dict"),
        ({"model_state_dict": {"a": 3}}, "a is a int, not a tensor"),
    ],
)
def test_other_content_is_refused(tmp_path, content, message):
    with pytest.raises(ValueError, match=f"ckpt.pt.*{message}"):
        interop.load_torch_checkpoint(save(tmp_path / "ckpt.pt", content))


@pytest.mark.parametrize("content", [b"", b"no checkpoint", b"PK\x03\x04 cut short"])
def test_other_files_are_refused(tmp_path, content):
    path = tmp_path / "ckpt.pt"
    with pytest.raises(FileNotFoundError):
        interop.load_torch_checkpoint(str(path))
    path.write_bytes(content)
    with pytest.raises(ValueError, match="ckpt.pt") as caught:
        interop.load_torch_checkpoint(str(path))
    assert "\n" not in str(caught.value)


class Malicious:
    def __init__(self, victim):
        self.victim = str(victim)

    def __reduce__(self):
        return os.mkdir, (self.victim,)


@pytest.mark.parametrize("form", ["zip", "old", "plain pickle"])
def test_nothing_in_a_file_is_executed(tmp_path, form):
    path, victim = tmp_path / "ckpt.pt", tmp_path / "victim"
    content = official() | {"extra": Malicious(victim)}
    if form == "plain pickle":
        path.write_bytes(pickle.dumps(content, protocol=2))
    else:
        save(path, content, _use_new_zipfile_serialization=form == "zip")
    with pytest.raises(ValueError, match="holds more than tensors.*nothing of it was"):
        interop.load_torch_checkpoint(str(path))
    assert not victim.exists()
    if form != "plain pickle":  # and it would have been
        torch.load(path, weights_only=False)
        assert victim.exists()


def test_without_pytorch_one_sentence_says_so(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ImportError, match=r"pip install 'ebmjax\[torch\]'"):
        interop.load_torch_checkpoint(str(tmp_path / "ckpt.pt"))


# Runs


def digits_checkpoint(path, num_chains=40, **size):
    """An official checkpoint but for its images, which are digits'."""
    torch.manual_seed(1)
    model = reference.Classifier(10, 1, channels=1, **size)
    buffer = torch.empty(num_chains, 1, 8, 8).uniform_(-1, 1)
    content = dict(model_state_dict=model.state_dict(), replay_buffer=buffer)
    return save(path, content), model, buffer


def digits_config(**objective):
    c = config.default()
    c.data.update(name="digits", num_valid=17, pad=0, flip=False)
    c.objective.update(objective)
    c.batch_size = 8
    c.sgld.update(num_steps=2, buffer_size=40)
    c.num_steps = 2
    c.tensorboard = False
    return c


@pytest.mark.slow
def test_a_run_of_a_checkpoint_goes_on(tmp_path):
    path, theirs, buffer = digits_checkpoint(tmp_path / "ckpt.pt")
    workdir = str(tmp_path / "run")
    c = digits_config(p_x=1.0)
    described = interop.make_run(path, workdir, c)
    assert "WRN-10-1, norm None, 10 classes\n40 chains\n" in described
    assert "energy_output.bias" in described
    assert c.model.depth == 28  # the caller's config is left alone

    run = runs.load(workdir)
    x, _ = load_digits(return_X_y=True)
    x = (x[:20].reshape(-1, 8, 8, 1) / 8 - 1).astype(np.float32)
    assert_close(run.logits(x), theirs(to_torch(x)).detach(), 2e-4)
    np.testing.assert_array_equal(run.buffer, to_numpy(buffer))
    assert run.step == 0 and run.class_names == tuple("0123456789")

    train.fit(run.config, workdir)
    run = runs.load(workdir)
    assert run.step == 2
    changed = (run.buffer != to_numpy(buffer)).any(axis=(1, 2, 3)).sum()
    assert 8 < changed <= 16  # two steps of 8 chains
    out = tmp_path / "back.pt"
    interop.export_run(workdir, str(out))
    content = torch.load(out, weights_only=True)
    theirs.load_state_dict(content["model_state_dict"])
    assert_close(run.logits(x), theirs(to_torch(x)).detach(), 2e-4)
    np.testing.assert_array_equal(run.buffer, to_numpy(content["replay_buffer"]))


def test_a_run_has_the_chains_that_its_objective_needs(tmp_path):
    path, _, _ = digits_checkpoint(tmp_path / "ckpt.pt")
    described = interop.make_run(path, str(tmp_path / "a"), digits_config())
    assert "no chains" in described
    assert runs.load(str(tmp_path / "a")).buffer is None

    path, _, _ = digits_checkpoint(tmp_path / "none.pt", num_chains=0)
    c = digits_config(p_x=1.0)
    c.data.name = "cifar10"  # which is not there
    c.data.data_dir = str(tmp_path)
    described = interop.make_run(path, str(tmp_path / "b"), c)
    assert "40 chains from noise, the file having none" in described
    run = runs.load(str(tmp_path / "b"))
    assert run.buffer.shape == (40, 32, 32, 1)
    assert run.class_names == tuple("0123456789")


def test_without_a_config_a_buffer_makes_it_jem(tmp_path):
    state = reference.Classifier(num_classes=100).state_dict()
    path = save(tmp_path / "ckpt.pt", state)
    interop.make_run(path, str(tmp_path / "a"))
    c = runs.read_config(str(tmp_path / "a"))
    assert (c.data.name, c.objective.p_x) == ("cifar100", 0)
    buffer = torch.zeros(30, 3, 32, 32)
    content = dict(model_state_dict=trained(None), replay_buffer=buffer)
    interop.make_run(save(path, content), str(tmp_path / "b"))
    c = runs.read_config(str(tmp_path / "b"))
    assert (c.data.name, c.objective.p_x, c.sgld.buffer_size) == ("cifar10", 1, 30)


def test_what_cannot_be_a_run_leaves_nothing_behind(tmp_path):
    path, _, _ = digits_checkpoint(tmp_path / "ckpt.pt", num_classes=7)
    workdir = tmp_path / "run"
    with pytest.raises(ValueError, match="7 classes: name the data with --config"):
        interop.make_run(path, str(workdir))
    with pytest.raises(ValueError, match="has 7 classes, digits 10"):
        interop.make_run(path, str(workdir), digits_config())
    assert not workdir.exists()
    path, _, _ = digits_checkpoint(tmp_path / "ckpt.pt")
    interop.make_run(path, str(workdir), digits_config())
    with pytest.raises(ValueError, match="run holds a run: choose another --workdir"):
        interop.make_run(path, str(workdir), digits_config())
    c = runs.read_config(str(workdir))
    c.model.name = "convnet"
    (workdir / "config.json").write_text(config.to_json(c))
    with pytest.raises(ValueError, match="a convnet: only a wide_resnet is official"):
        interop.export_run(str(workdir), str(tmp_path / "out.pt"))
    assert not (tmp_path / "out.pt").exists()


@pytest.mark.slow
def test_the_command_line_there_and_back(tmp_path):
    path, theirs, _ = digits_checkpoint(tmp_path / "ckpt.pt")
    lab_note = pathlib.Path("configs/classifier_digits.py").resolve()
    there = ["ckpt.pt", "--workdir=run", f"--config={lab_note}", "--config.seed=3"]
    back = ["back.pt", "--workdir=run", "--to-torch"]

    def command(*args):
        line = [sys.executable, "-m", "ebmjax.interop", *args]
        return subprocess.run(line, cwd=tmp_path, capture_output=True, text=True)

    for args in (there, back):
        done = command(*args)
        assert done.returncode == 0, done.stderr
    state = torch.load(tmp_path / "back.pt", weights_only=True)["model_state_dict"]
    assert torch.equal(state["f.conv1.weight"], theirs.f.conv1.weight)
    assert runs.read_config(str(tmp_path / "run")).seed == 3
    again = command(*there)
    assert again.returncode == 1
    assert again.stderr == "error: run holds a run: choose another --workdir\n"
