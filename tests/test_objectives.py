import collections
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny

from ebmjax import models, objectives, replay, sgld

KEY = jax.random.key(0)
NETWORK = tiny.mlp()
PARAMS, STATS = NETWORK.init(KEY, tiny.batch(2)["image"])
BATCH = tiny.batch(8)
DRAWN = {
    "samples": tiny.batch(8, seed=5)["image"],
    "joint_samples": tiny.batch(8, seed=6)["image"],
}


def weighted(**weights):
    return objectives.objective(weights)


def loss(weights, batch=BATCH, drawn=DRAWN, network=NETWORK):
    """Of the parameters; only what the weights ask for is passed on."""
    drawn = {name: x for name, x in drawn.items() if name in weights.needs}
    return lambda params: objectives.loss(
        params, STATS, batch, drawn, KEY, network=network, objective=weights
    )[0]


def by_the_book(weights, batch=BATCH, labelled=BATCH, drawn=DRAWN):
    """Section by section from the papers: every term with its own passes, one
    example at a time, gradients of gradients."""

    weight = collections.defaultdict(float, weights.weights)

    def f(params, x):
        return NETWORK.apply(params, {}, x[None])[0]

    def log_p(params, x):
        return jax.nn.logsumexp(f(params, x))

    def total(params):
        each = jax.vmap(lambda x: log_p(params, x))
        joint = jax.vmap(lambda x, y: f(params, x)[y])
        slope = jax.vmap(jax.grad(lambda x: log_p(params, x)))
        image, label = batch["image"], labelled["label"]
        logits = jax.vmap(lambda x: f(params, x))(labelled["image"])
        return (
            weight["cross_entropy"]
            * optax.softmax_cross_entropy_with_integer_labels(logits, label).mean()
            - weight["p_x"] * (each(image).mean() - each(drawn["samples"]).mean())
            - weight["p_x_y"]
            * (
                joint(labelled["image"], label) - joint(drawn["joint_samples"], label)
            ).mean()
            + weight["energy_variance"] * jnp.var(each(image))
            + weight["mean_energy_l2"]
            * (each(image).mean() ** 2 + each(drawn["samples"]).mean() ** 2)
            + weight["approximate_mass"]
            * jnp.sqrt(jnp.sum(slope(image) ** 2, axis=(1, 2, 3))).mean()
        )

    return total


def agree(ours, theirs):
    ours, theirs = (jax.value_and_grad(f)(PARAMS) for f in (ours, theirs))
    chex.assert_trees_all_close(ours, theirs, rtol=2e-4, atol=2e-6)


@pytest.mark.parametrize(
    "weights",
    [
        dict(cross_entropy=1.0),
        dict(cross_entropy=1.0, p_x=0.7),  # JEM
        dict(p_x=1.0),  # the unconditional EBM
        dict(p_x_y=1.0),
        dict(cross_entropy=1.0, p_x=1.0, mean_energy_l2=0.5),  # M-JEM
        dict(cross_entropy=1.0, energy_variance=0.3, approximate_mass=0.2),  # NG-EBM
        dict(approximate_mass=1.0),
        dict(
            cross_entropy=1.0,
            p_x=0.7,
            p_x_y=0.5,
            energy_variance=0.3,
            approximate_mass=0.2,
        ),
    ],
    ids=lambda weights: "+".join(weights),
)
def test_every_objective_is_that_of_the_papers_in_value_and_gradient(weights):
    weights = weighted(**weights)
    agree(loss(weights), by_the_book(weights))


def test_labelled_images_serve_the_terms_with_labels_and_no_others():
    weights = weighted(cross_entropy=1.0, p_x=0.5, energy_variance=0.3)
    labelled = tiny.batch(8, seed=9)
    both = BATCH | {"labelled": labelled}
    agree(loss(weights, both), by_the_book(weights, labelled=labelled))


def test_with_one_class_p_x_and_p_x_y_are_the_same():
    network = models.network(models.MLP(1, features=(8,)), per_example=True)
    params, _ = network.init(KEY, BATCH["image"])
    batch = {"image": BATCH["image"], "label": jnp.zeros(8, int)}
    drawn = {"samples": DRAWN["samples"], "joint_samples": DRAWN["samples"]}
    marginal, joint = (
        jax.grad(loss(weighted(**w), batch, drawn, network))(params)
        for w in (dict(p_x=1.0), dict(p_x_y=1.0))
    )
    chex.assert_trees_all_close(marginal, joint, rtol=1e-5)


def test_batch_norm_sees_every_set_of_images_by_itself():
    network = tiny.batch_norm_net()
    params, stats = network.init(KEY, BATCH["image"])
    weights = weighted(cross_entropy=1.0, p_x=1.0)
    drawn = {"samples": DRAWN["samples"]}
    total, aux = objectives.loss(
        params, stats, BATCH, drawn, KEY, network=network, objective=weights
    )
    f_model, after = network.train(params, stats, DRAWN["samples"], KEY)
    f_data, after = network.train(params, after, BATCH["image"], KEY)
    expected = (
        optax.softmax_cross_entropy_with_integer_labels(f_data, BATCH["label"]).mean()
        - jax.nn.logsumexp(f_data, axis=-1).mean()
        + jax.nn.logsumexp(f_model, axis=-1).mean()
    )
    np.testing.assert_allclose(total, expected, rtol=1e-5)
    chex.assert_trees_all_close(aux.model_state, after, rtol=1e-5)


OTHER = tiny.batch(8, seed=7)


@pytest.mark.parametrize("separate", [False, True])
@pytest.mark.parametrize(
    "weights",
    [
        {"p_x": 1.0},
        {"p_x_y": 1.0},
        {"p_x": 1.0, "energy_variance": 1.0, "approximate_mass": 1.0},
        {"adversarial": 1.0},
        {"p_x": 1.0, "p_x_y": 1.0, "adversarial": 1.0, "approximate_mass": 1.0},
    ],
    ids="-".join,
)
def test_evaluation_normalises_by_the_moments_of_labelled_images(weights, separate):
    """0.9 of the running moments are those of the last pass."""
    network = tiny.batch_norm_net()
    params, stats = network.init(KEY, BATCH["image"])
    batch = BATCH | {"labelled": OTHER} if separate else BATCH
    drawn = DRAWN | {"adversarial": tiny.batch(8, seed=9)["image"]}
    _, aux = objectives.loss(
        params,
        stats,
        batch,
        drawn,
        KEY,
        network=network,
        objective=weighted(cross_entropy=1.0, **weights),
    )

    def mean(state):
        return jax.tree.leaves(state)[0]  # of the first layer

    def after(x):
        return mean(network.train(params, stats, x, KEY)[1])

    # The last pass has a weight of 0.9, and all before it together 0.1.
    labelled = (OTHER if separate else BATCH)["image"]
    earlier = [*drawn.values(), BATCH["image"]]
    farthest = max(np.abs(after(x) - mean(stats)).max() / 0.9 for x in earlier)
    found = mean(aux.model_state)
    np.testing.assert_allclose(found, after(labelled), atol=0.1 * farthest)


def test_outliers_are_normalised_with_the_labelled_images():
    """As in the program of Liu et al., or the moments would tell them apart."""
    network = tiny.batch_norm_net()
    params, stats = network.init(KEY, BATCH["image"])
    batch = BATCH | {"outliers": OTHER}
    weights = weighted(cross_entropy=1.0, outliers=0.1)
    _, aux = objectives.loss(
        params, stats, batch, {}, KEY, network=network, objective=weights
    )
    both = jnp.concatenate([BATCH["image"], OTHER["image"]])
    logits, after = network.train(params, stats, both, KEY)
    chex.assert_trees_all_close(aux.model_state, after, rtol=1e-5)
    energies = -jax.nn.logsumexp(logits[8:], axis=-1)
    np.testing.assert_allclose(
        aux.metrics["energy_outliers"], energies.mean(), rtol=1e-5
    )


def test_terms_without_weight_are_not_computed():
    weights = weighted(cross_entropy=1.0)
    classifier = jax.make_jaxpr(loss(weights))(PARAMS)
    ng_ebm = jax.make_jaxpr(loss(weighted(cross_entropy=1.0, approximate_mass=1.0)))(
        PARAMS
    )
    dots = [str(jaxpr).count("dot_general") for jaxpr in (classifier, ng_ebm)]
    assert dots[0] == 2  # the two layers, once
    assert dots[1] > 2


def run_chains(chains, buffer, *, noise_std=0.01, **weights):
    return objectives.draw_samples(
        KEY,
        lambda x: NETWORK.apply(PARAMS, STATS, x),
        buffer,
        BATCH,
        needs=weighted(**weights).needs,
        sampler=functools.partial(sgld.sgld, step_size=1.0, noise_std=noise_std),
        chains=chains,
        num_classes=tiny.NUM_CLASSES,
    )


def test_chains_walk_down_the_energy_and_return_to_their_slots():
    buffer = replay.init(KEY, 24, tiny.SHAPE)
    chains = objectives.ChainSettings(num_steps=5, reinit_prob=0.0)
    drawn, after, _ = run_chains(chains, buffer, noise_std=0.0, p_x=1.0)

    def log_p(x):
        return jax.nn.logsumexp(NETWORK.apply(PARAMS, STATS, x), axis=-1).mean()

    moved = np.any(np.asarray(buffer.samples != after.samples), axis=(1, 2, 3))
    assert moved.sum() == 8 and "joint_samples" not in drawn
    assert log_p(after.samples[moved]) > log_p(buffer.samples[moved]) + 0.01
    assert {x.tobytes() for x in np.asarray(drawn["samples"])} == {
        x.tobytes() for x in np.asarray(after.samples)[moved]
    }


def test_class_conditional_chains_climb_their_own_logit():
    buffer = replay.init(KEY, 24, tiny.SHAPE)  # 8 slots a class
    chains = objectives.ChainSettings(
        num_steps=5, reinit_prob=0.0, class_conditional=True
    )
    _, after, _ = run_chains(chains, buffer, noise_std=0.0, p_x=1.0)
    moved = np.flatnonzero(np.any(buffer.samples != after.samples, axis=(1, 2, 3)))
    label = moved // 8
    logit = [
        np.asarray(NETWORK.apply(PARAMS, STATS, b.samples[moved]))[range(8), label]
        for b in (buffer, after)
    ]
    assert np.all(logit[1] > logit[0])


def test_fresh_chains_without_classes_start_from_all_of_them():
    def by_label(key, n, labels):
        return jnp.broadcast_to(labels[:, None, None, None] / 4, (n, *tiny.SHAPE))

    drawn, _, _ = objectives.draw_samples(
        KEY,
        lambda x: jnp.zeros((len(x), tiny.NUM_CLASSES)) * x.sum(),
        replay.init(KEY, 24, tiny.SHAPE),
        BATCH,
        needs=weighted(p_x=1.0, p_x_y=1.0).needs,
        sampler=functools.partial(sgld.sgld, step_size=1.0, noise_std=0.0),
        chains=objectives.ChainSettings(num_steps=1, reinit_prob=1.0),
        num_classes=tiny.NUM_CLASSES,
        chain_init=by_label,
    )
    start = {k: np.asarray(4 * x[:, 0, 0, 0], int) for k, x in drawn.items()}
    np.testing.assert_array_equal(start["joint_samples"], BATCH["label"])
    assert sorted(np.bincount(start["samples"])) == [2, 3, 3]  # of three classes


def test_p_x_y_chains_stay_in_the_blocks_of_the_batch_labels():
    buffer = replay.init(KEY, 24, tiny.SHAPE)
    chains = objectives.ChainSettings(num_steps=1, reinit_prob=0.0)
    _, after, _ = run_chains(chains, buffer, p_x_y=1.0)
    moved = np.flatnonzero(np.any(buffer.samples != after.samples, axis=(1, 2, 3)))
    np.testing.assert_array_equal(
        np.sort(moved // 8), np.sort(np.asarray(BATCH["label"]))
    )


def test_data_and_samples_have_dropout_of_their_own():
    """Also where the input gradient takes the data in a pass by itself."""

    def train(params, model_state, x, key):
        return jax.random.uniform(key, (len(x), 3)) + 0 * x.sum(), model_state

    network = models.Network(None, None, train, None, per_example=True)
    watch = objectives.Term(lambda p: p.logits - p.sample_logits, ("data", "samples"))
    objective = objectives.objective(
        {"p_x": 1.0, "watch": 1.0, "approximate_mass": 1.0},
        objectives.TERMS | {"watch": watch},
    )
    _, aux = objectives.loss(
        PARAMS,
        {},
        BATCH,
        {"samples": BATCH["image"]},
        KEY,
        network=network,
        objective=objective,
    )
    assert np.abs(aux.metrics["watch"]).min() > 0


def test_a_term_of_ones_own_is_weighed_with_the_others():
    double = objectives.Term(lambda p: 2.0 * p.energies.mean(), ("data",))
    terms = objectives.TERMS | {"double": double}
    mine = objectives.objective({"cross_entropy": 1.0, "double": 0.5}, terms)
    value = loss(mine)(PARAMS)
    logits = NETWORK.apply(PARAMS, {}, BATCH["image"])
    expected = (
        optax.softmax_cross_entropy_with_integer_labels(logits, BATCH["label"]).mean()
        - jax.nn.logsumexp(logits, axis=-1).mean()
    )
    np.testing.assert_allclose(value, expected, rtol=1e-5)


@pytest.mark.parametrize(
    "weights, terms, message",
    [
        ({"cross_entrpy": 1.0}, {}, "no such term; did you mean 'cross_entropy'"),
        ({"cross_entropy": 0.0}, {}, "no term with a weight"),
        ({"odd": 1.0}, {"odd": objectives.Term(sum, ("label",))}, "needs 'label'"),
    ],
)
def test_an_objective_that_cannot_be_is_refused(weights, terms, message):
    with pytest.raises(ValueError, match=message):
        objectives.objective(weights, objectives.TERMS | terms)
