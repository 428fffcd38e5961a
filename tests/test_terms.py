"""HDGE's contrast, outlier exposure and adversarial training, from formula to step."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import test_step
import test_train
import tiny

from ebmjax import (
    adversarial,
    checkpoint,
    data,
    logit_queue,
    losses,
    objectives,
    optim,
    parallel,
    plan,
    recipe,
    train_step,
)
from ebmjax.eval import attacks
from ebmjax.norms import NORMS

KEY = jax.random.key(5)
NETWORK = tiny.mlp()
PARAMS, _ = NETWORK.init(KEY, tiny.batch(2)["image"])
BATCH = tiny.batch(8)
QUEUE = np.random.default_rng(0).normal(size=(12, tiny.NUM_CLASSES)).astype(np.float32)


def written_out_contrast(logits, labels, queue, temperature):
    """As in the paper: every pair, masked by the label, logsumexp over classes."""
    units = [v / np.sqrt(np.sum(v**2)) for v in np.float64(queue)]
    result = []
    for v, y in zip(np.float64(logits), labels, strict=True):
        mask = np.eye(len(v))[y]
        positive = np.log(np.sum(np.exp(mask * v / np.sqrt(np.sum(v**2)))))
        negatives = [np.log(np.sum(np.exp(mask * q))) for q in units]
        every = np.exp(np.array([positive, *negatives]) / temperature)
        result.append(-np.log(every[0] / every.sum()))
    return np.array(result)


@pytest.mark.parametrize("temperature", [0.1, 0.7])
def test_the_contrast_is_the_masked_logsumexp_over_the_queue(temperature):
    rng = np.random.default_rng(1)
    logits = 5 * rng.normal(size=(6, 4)).astype(np.float32)
    queue, labels = rng.normal(size=(9, 4)), np.array([0, 3, 1, 2, 2, 0])
    value = losses.hdge_contrast(
        jnp.asarray(logits), labels, jnp.float32(queue), temperature=temperature
    )
    expected = written_out_contrast(logits, labels, queue, temperature)
    np.testing.assert_allclose(value, expected, rtol=1e-4)


def test_the_contrast_over_devices_counts_all_their_queues():
    logits, labels = jnp.asarray(QUEUE[:8] * 3), BATCH["label"]
    whole = losses.hdge_contrast(logits, labels, QUEUE)
    parts = jax.vmap(
        functools.partial(losses.hdge_contrast, axis_name="i"), axis_name="i"
    )(logits.reshape(4, 2, -1), labels.reshape(4, 2), QUEUE.reshape(4, 3, -1))
    np.testing.assert_allclose(parts.ravel(), whole, rtol=1e-5)


def test_logits_of_length_zero_have_a_finite_contrast_and_gradient():
    zeros = jnp.zeros((2, 3))
    fn = lambda x: losses.hdge_contrast(x, jnp.array([0, 1]), QUEUE).sum()  # noqa: E731
    value, grad = jax.value_and_grad(fn)(zeros)
    assert np.isfinite(value) and np.all(np.isfinite(grad))


def test_energies_beyond_their_margins_count_squared():
    value = losses.energy_margins(
        jnp.array([-27.0, -24.0, -25.0, -20.0]),  # 0, 1, 0, 5 above -25
        jnp.array([-5.0, -9.0]),  # 0, 2 below -7
        margin_in=-25.0,
        margin_out=-7.0,
    )
    np.testing.assert_allclose(value, (0 + 1 + 0 + 25) / 4 + (0 + 4) / 2)


def loss_of(made, batch=BATCH, queue=None, settings=None, **weights):
    objective = objectives.objective(weights, settings=settings)
    return lambda params: objectives.loss(
        params, {}, batch, made, KEY, network=NETWORK, objective=objective, queue=queue
    )


def logits_of(params, x):
    return jnp.stack([NETWORK.apply(params, {}, one[None])[0] for one in x])


def test_the_objectives_are_those_of_the_papers_in_value_and_gradient():
    numbers = objectives.TermSettings(temperature=0.4, margin_in=-1.5, margin_out=-0.8)
    outliers, attacked = tiny.batch(6, seed=8), tiny.batch(8, seed=9)["image"]
    y = BATCH["label"]
    ours = loss_of(
        {"adversarial": attacked},
        BATCH | {"outliers": outliers},
        QUEUE,
        numbers,
        contrast=0.5,
        outliers=0.3,
        adversarial=0.7,
    )

    def theirs(params):
        f_in, f_out, f_adv = (
            logits_of(params, x) for x in (BATCH["image"], outliers["image"], attacked)
        )
        unit, others = (
            v / jnp.linalg.norm(v, axis=-1, keepdims=True) for v in (f_in, QUEUE)
        )
        s = lambda v, y: jax.nn.logsumexp(jax.nn.one_hot(y, 3) * v)  # noqa: E731
        contrast = 0.0
        for v, label in zip(unit, y, strict=True):
            every = jnp.array([s(v, label), *(s(q, label) for q in others)]) / 0.4
            contrast -= jax.nn.log_softmax(every)[0] / len(y)
        above = jnp.maximum(-jax.nn.logsumexp(f_in, axis=-1) + 1.5, 0)
        below = jnp.maximum(-0.8 + jax.nn.logsumexp(f_out, axis=-1), 0)
        ce = optax.softmax_cross_entropy_with_integer_labels(f_adv, y).mean()
        margins = jnp.mean(above**2) + jnp.mean(below**2)
        return 0.5 * contrast + 0.3 * margins + 0.7 * ce

    value, grads = jax.value_and_grad(lambda p: ours(p)[0])(PARAMS)
    expected, their_grads = jax.value_and_grad(theirs)(PARAMS)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    chex.assert_trees_all_close(grads, their_grads, rtol=2e-4, atol=2e-6)


def test_adversarial_training_alone_does_not_pay_for_the_clean_images():
    made = {"adversarial": BATCH["image"]}
    text = str(jax.make_jaxpr(lambda p: loss_of(made, adversarial=1.0)(p)[0])(PARAMS))
    assert text.count("dot_general") == 2  # the two layers, once
    _, aux = loss_of(made, adversarial=1.0)(PARAMS)
    assert set(aux.metrics) == {"loss", "adversarial", "adversarial_accuracy"}


# --- the attack ----------------------------------------------------------------


@pytest.mark.parametrize("norm", NORMS)
def test_pgd_examples_are_those_of_the_written_out_ascent(norm):
    x, y = 0.9 * BATCH["image"], BATCH["label"]
    logits_fn = functools.partial(NETWORK.apply, PARAMS, {})
    eps, step_size = (0.3, 0.12) if norm == "linf" else (0.8, 0.4)
    sizes = dict(norm=norm, eps=eps, step_size=step_size, num_steps=4)
    examples = adversarial.pgd_examples(KEY, logits_fn, x, y, **sizes)

    def size(v):
        axes = (1, 2, 3)
        if norm == "linf":
            return np.abs(v).max(axes, keepdims=True)
        return np.sqrt(np.sum(v**2, axes, keepdims=True))

    def project(z):
        v = z - x
        if norm == "linf":
            v = np.clip(v, -eps, eps)
        else:
            v = v * np.minimum(1, eps / size(v))
        return np.clip(x + v, -1, 1)

    loss = lambda z: optax.softmax_cross_entropy_with_integer_labels(  # noqa: E731
        logits_fn(z), y
    ).sum()
    z = project(x + eps * NORMS[norm].uniform(KEY, x))
    for _ in range(4):
        g = np.asarray(jax.grad(loss)(jnp.asarray(z)))
        z = project(z + step_size * (np.sign(g) if norm == "linf" else g / size(g)))
    np.testing.assert_allclose(examples, z, atol=1e-5)
    assert np.all(size(examples - x) <= eps + 1e-6) and loss(examples) > loss(x)


@pytest.mark.parametrize("norm", NORMS)
def test_training_and_evaluation_find_the_worst_point_of_a_linear_model(norm):
    w = np.random.default_rng(2).normal(size=(16, 2)).astype(np.float32)
    logits_fn = lambda z: z.reshape(len(z), -1) @ w  # noqa: E731
    x, y = 0.5 * BATCH["image"], BATCH["label"] % 2
    sizes = dict(norm=norm, eps=0.1, step_size=1.0, num_steps=20)
    ours, theirs = (
        attack(KEY, logits_fn, x, y, **sizes)
        for attack in (adversarial.pgd_examples, attacks.pgd)
    )
    away = np.where(y[:, None] == 0, w[:, 1] - w[:, 0], w[:, 0] - w[:, 1])
    if norm == "linf":
        away = np.sign(away)
    else:
        away /= np.linalg.norm(away, axis=1, keepdims=True)
    worst = x + 0.1 * away.reshape(x.shape)
    np.testing.assert_allclose(ours, worst, atol=1e-5)
    # The strongest point visited: one step earlier, at an angle of 1e-3, the loss is
    # the same to rounding.
    np.testing.assert_allclose(theirs, worst, atol=2e-4)


def test_an_attack_starts_anywhere_in_its_ball():
    x, y = jnp.zeros((500, 2)), jnp.zeros(500, int)
    sizes = dict(norm="linf", eps=0.5, step_size=1e-9, num_steps=1)
    z = adversarial.pgd_examples(KEY, lambda z: z, x, y, **sizes)
    np.testing.assert_allclose(np.std(z), 0.5 / np.sqrt(3), rtol=0.05)
    with pytest.raises(ValueError, match="norm is 'l1', expected 'linf' or 'l2'"):
        adversarial.pgd_examples(KEY, lambda z: z, x, y, **sizes | {"norm": "l1"})


# --- the step ------------------------------------------------------------------

HDGE = dict(cross_entropy=1.0, contrast=1.0)


def hdge(**changes):
    return tiny.case(**HDGE).replace(queue_size=12, **changes)


def one_device(case, state, batches, **rest):
    """Steps with the first axis of `batches` joined: all examples on one device."""
    run = jax.jit(functools.partial(train_step.train_step, **case._asdict()))
    for batch in batches:
        flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), batch)
        state, metrics = run(state, None, flat, KEY)
    return state, metrics


def test_the_queue_takes_the_logits_of_the_batch_and_drops_its_oldest():
    case = hdge()
    state, (batch, _) = test_step.start(case, 1)
    after, metrics = one_device(case, state, [batch])
    x = test_step.augment.to_float(batch["image"][0])
    logits = case.recipe.network.apply(state.params, {}, x)  # before the update
    np.testing.assert_allclose(after.queue[-8:], logits, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(after.queue[:-8], state.queue[8:])
    expected = written_out_contrast(logits, batch["label"][0], state.queue, 0.1).mean()
    np.testing.assert_allclose(metrics["contrast"], expected, rtol=1e-4)


@pytest.mark.parametrize("method", parallel.METHODS)
def test_four_devices_take_the_hdge_steps_of_one(method):
    case = hdge(augment=test_step.AUGMENTED).replace(queue_size=24)
    state, batches = test_step.start(case, 4)
    one, one_metrics = one_device(case, state, batches)
    program = parallel.spmd(
        functools.partial(train_step.train_step, **case._asdict()),
        in_axes=(train_step.AXES, None, 0, None),
        out_axes=(train_step.AXES, None),
        method=method,
    )
    four = state.replace(queue=logit_queue.split(state.queue, 4))
    four = parallel.place(four, train_step.AXES)
    for batch in batches:
        four, metrics = program(
            four, None, parallel.place(batch, 0), parallel.place(KEY)
        )
    chex.assert_trees_all_close(one.params, four.params, rtol=1e-5, atol=1e-6)
    chex.assert_trees_all_close(one_metrics, metrics, rtol=1e-4)
    np.testing.assert_allclose(  # the order within a batch is of no account
        np.sort(one.queue, axis=0),
        np.sort(np.reshape(four.queue, (24, -1)), axis=0),
        rtol=1e-4,
        atol=1e-5,
    )


def test_accumulation_and_a_second_evaluation_fill_the_queue_once():
    state, (batch, _) = test_step.start(hdge(), 1)
    plain, _ = one_device(hdge(), state, [batch])
    parts, _ = one_device(hdge(accumulation_steps=2), state, [batch])
    twice, _ = one_device(hdge(gradient=optim.sam(0.5)), state, [batch])
    for other in (parts, twice):
        np.testing.assert_allclose(other.queue, plain.queue, rtol=1e-4, atol=1e-5)
    chex.assert_trees_all_close(parts.params, plain.params, rtol=1e-4, atol=1e-5)


def test_a_queue_is_dealt_out_by_age_and_joined_again():
    queue = np.arange(12.0)[:, None]
    parts = logit_queue.split(queue, 3)
    assert parts[:, 0, 0].tolist() == [0, 1, 2] and parts.shape == (3, 4, 1)
    np.testing.assert_array_equal(logit_queue.join(parts), queue)
    newest = logit_queue.put(jnp.asarray(queue), jnp.full((20, 1), 7.0))
    np.testing.assert_array_equal(newest, np.full((12, 1), 7.0))
    with pytest.raises(ValueError, match="queue of 12 logits does not divide over 5"):
        logit_queue.split(queue, 5)


def known_attack(key, logits_fn, x, labels):
    """Depends on all that an attack is given."""
    noise = jax.random.normal(key, x.shape)
    return x + 0.1 * noise + logits_fn(x).mean() + labels[:, None, None, None]


@pytest.mark.parametrize("labelled", [False, True])
def test_the_attack_comes_first_and_the_gradient_sees_its_examples(labelled):
    """The same ones at every evaluation of the gradient."""
    grads = []

    def twice(grad_fn, params):
        once, again = grad_fn(params)[0], grad_fn(params)
        grads.append(jax.tree.map(jnp.subtract, once, again[0]))
        return again

    case = tiny.case(cross_entropy=1.0, adversarial=1.0)
    case = case.replace(attack=known_attack, gradient=twice)
    state, (batch, other) = test_step.start(case, 1)
    flat = jax.tree.map(lambda x: x[0], batch)
    labels = flat["label"]
    if labelled:
        flat["labelled"] = jax.tree.map(lambda x: x[0], other)
        labels = flat["labelled"]["label"]
    seen = []

    def recorded(key, logits_fn, x, labels):
        seen.append((known_attack(key, logits_fn, x, labels), labels))
        return seen[-1][0]

    _, metrics = train_step.train_step(
        state, None, flat, KEY, **case.replace(attack=recorded)._asdict()
    )
    ((examples, attacked_labels),) = seen  # one attack a step
    np.testing.assert_array_equal(attacked_labels, labels)
    logits = case.recipe.network.apply(state.params, {}, examples)
    expected = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
    np.testing.assert_allclose(metrics["adversarial"], expected, rtol=1e-5)
    zeros = jax.tree.map(jnp.zeros_like, grads[0])
    chex.assert_trees_all_close(grads[0], zeros, atol=1e-7)


def test_attacks_differ_between_devices_steps_and_parts():
    starts = []

    def recorded(key, logits_fn, x, labels):
        data = jax.random.key_data(key)
        jax.debug.callback(lambda data: starts.append(data.tobytes()), data)
        return x

    case = tiny.case(adversarial=1.0).replace(attack=recorded, accumulation_steps=2)
    test_step.on_devices(case)
    jax.effects_barrier()
    assert len(starts) == len(set(starts)) == 4 * 2 * 2


def test_outliers_are_augmented_and_read_from_their_own_arrays():
    case = tiny.case(outliers=1.0).replace(augment=lambda key, x: 0.5 * x)
    data = {
        "image": tiny.images(20),
        "label": tiny.labels(20),
        "outliers": {"image": tiny.images(9, 5), "label": np.full(9, -1, np.int32)},
    }
    batch = {"index": np.arange(8), "outliers": {"index": np.array([8, 0, 3, 3])}}
    state, _ = test_step.start(case, 1)
    resident = jax.tree.map(jnp.asarray, data)
    _, metrics = train_step.train_step(state, resident, batch, KEY, **case._asdict())
    x = 0.5 * test_step.augment.to_float(data["outliers"]["image"][[8, 0, 3, 3]])
    logits = case.recipe.network.apply(state.params, {}, x)
    expected = -jax.nn.logsumexp(logits, axis=-1).mean()
    np.testing.assert_allclose(metrics["energy_outliers"], expected, rtol=1e-5)


# --- a run ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(objective__outliers=1.0), "set config.data.outliers to its name"),
        (
            dict(objective__outliers=1.0, data__outliers_batch_size=30),
            "config.data.outliers_batch_size of 30 does not divide over 4 devices",
        ),
        (
            dict(
                objective__outliers=1.0,
                data__outliers_batch_size=12,
                optimizer__accumulation_steps=2,
            ),
            "outliers_batch_size is 12: .*accumulation_steps=2",
        ),
        (
            dict(objective__contrast=1.0, hdge__queue_size=30),
            "config.hdge.queue_size of 30 does not divide over 4 devices",
        ),
    ],
)
def test_what_a_term_needs_is_checked_by_its_key(changes, message):
    if "set config" not in message:
        changes["data__outliers"] = "digits@test"
    with pytest.raises(ValueError, match=message):
        plan.make_plan(test_train.small(**changes))


def test_outliers_may_be_arrays_and_must_be_like_the_data():
    c = test_train.small(objective__outliers=1.0)
    splits = data.load("digits", num_valid=60)
    other = data.Dataset(255 - splits.test.image, splits.test.label)
    made = plan.make_plan(c, splits=splits._replace(outliers=other))
    assert made.streams["outliers"].dataset.image is other.image
    assert "outliers" not in plan.make_plan(test_train.small(), splits=splits).streams
    wide = data.Dataset(np.zeros((70, 8, 9, 1), np.uint8), np.zeros(70, np.int32))
    message = r"the set of outliers has examples of uint8 \(8, 9, 1\)"
    with pytest.raises(ValueError, match=message):
        plan.make_plan(c, splits=splits._replace(outliers=wide))


def test_vectors_are_not_attacked():
    x, y = np.random.default_rng(0).normal(size=(60, 4)), np.arange(60) % 3
    splits = data.from_arrays(x, y, x, y)
    c = test_train.small(objective__adversarial=1.0)
    with pytest.raises(ValueError, match="adversarial is for images, whose pixels"):
        plan.make_plan(c, splits=splits)


def test_numbers_of_the_terms_are_those_of_the_config():
    c = test_train.small(
        objective__contrast=1.0,
        hdge__temperature=0.3,
        hdge__queue_size=40,
        outliers__margin_in=-3.0,
        outliers__margin_out=-2.0,
        adversarial__norm="l2",
        adversarial__eps=0.25,
        adversarial__step_size=0.125,
        adversarial__num_steps=3,
    )
    settings = recipe.settings(c, 10)
    assert settings.objective.settings == objectives.TermSettings(0.3, -3.0, -2.0)
    assert plan.make_plan(c).make_state().queue.shape == (4, 10, 10)
    assert recipe.attack(c).keywords == dict(  # [-1, 1] is two of [0, 1]
        norm="l2", eps=0.5, step_size=0.25, num_steps=3
    )


def test_a_queue_moves_to_another_number_of_devices(tmp_path):
    state, _ = test_step.start(hdge(), 1)
    four = state.replace(queue=logit_queue.split(state.queue, 4))
    two = state.replace(queue=logit_queue.split(state.queue, 2))
    like = jax.eval_shape(lambda: two)
    everywhere = train_step.AXES.replace(queue=None)
    with checkpoint.manager(str(tmp_path)) as checkpoints:
        checkpoint.save(checkpoints, 1, four, {})
        checkpoint.finish(checkpoints)
        restored, _ = checkpoint.restore_latest(
            checkpoints, like, num_blocks=1, axes=everywhere
        )
        np.testing.assert_array_equal(restored.queue, two.queue)
        longer = like.replace(queue=jax.ShapeDtypeStruct((2, 7, 3), np.float32))
        with pytest.raises(ValueError, match=r"queue has shape .12, 3., expected .14"):
            checkpoint.restore_latest(checkpoints, longer, num_blocks=1)
