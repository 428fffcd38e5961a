import functools

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attacked import compiled, images, linear, network, pgd

from ebmjax import sgld
from ebmjax.eval import attacks, refinement

KEY = jax.random.key(0)
NORMS = ("linf", "l2")


def norms_of(v):
    v = np.asarray(v, np.float64).reshape(len(v), -1)
    return {"linf": np.abs(v).max(axis=-1), "l2": np.linalg.norm(v, axis=-1)}


def accuracy(x, labels):
    return float(jnp.mean(network(x).argmax(axis=-1) == labels))


# --- the ball, the bounds, and closed forms ---------------------------------


one_for_all_bounds = jax.jit(
    attacks.pgd, static_argnames=("logits_fn", "norm", "num_steps", "num_restarts")
)


@pytest.mark.parametrize("norm", NORMS)
@hypothesis.settings(deadline=None, max_examples=25)
@hypothesis.given(
    seed=st.integers(0, 10_000),
    eps=st.integers(0, 255 * 3).map(lambda i: i / 255),
    share=st.integers(1, 50).map(lambda i: i / 20),
    low=st.integers(-200, -100).map(lambda i: i / 100),
)
def test_the_result_is_in_the_ball_and_in_the_bounds(norm, seed, eps, share, low):
    x = jax.random.uniform(jax.random.key(seed), (4, 3, 3, 1), minval=low, maxval=1.0)
    x_adv = one_for_all_bounds(
        jax.random.key(seed),
        network,
        x,
        jnp.zeros(4, int),
        norm=norm,
        eps=eps,
        step_size=share * eps,
        num_steps=4,
        num_restarts=2,
        bounds=(low, 1.0),
    )
    assert np.all(norms_of(x_adv - x)[norm] <= eps * (1 + 1e-5) + 3e-7)
    assert np.float32(low) <= x_adv.min() and x_adv.max() <= 1


@pytest.mark.parametrize("random_start", [False, True])
def test_on_a_linear_classifier_it_lands_where_algebra_says(random_start):
    w = jnp.array([1.0, -2.0, 0.5])
    x, labels = jnp.array([[0.1, 0.2, 0.3], [0.3, -0.3, 0.0]]), jnp.array([0, 1])
    away = jnp.array([[1.0], [-1.0]])  # the way in which ⟨w, x⟩ must go
    attack = functools.partial(
        compiled,
        KEY,
        lambda x: linear(x, w),
        x,
        labels,
        eps=0.2,
        step_size=0.05,
        random_start=random_start,
    )
    corner = x + 0.2 * away * jnp.sign(w)[None]
    np.testing.assert_allclose(attack(num_steps=10), corner, atol=1e-6)
    radius = x + 0.2 * away * w[None] / jnp.linalg.norm(w)
    np.testing.assert_allclose(attack(num_steps=60, norm="l2"), radius, atol=2e-4)


def test_bounds_cut_the_linear_solution_off():
    w, x = jnp.array([1.0, -1.0]), jnp.array([[0.95, 0.0]])
    x_adv = attacks.pgd(
        KEY,
        lambda x: linear(x, w),
        x,
        jnp.array([0]),
        eps=0.2,
        step_size=0.05,
        num_steps=10,
    )
    np.testing.assert_allclose(x_adv, [[1.0, -0.2]], atol=1e-6)


@pytest.mark.parametrize("norm", NORMS)
def test_random_starts_fill_the_ball_evenly(norm):
    # The share within half the radius of a ball in three dimensions is 1/8.
    start = attacks.NORMS[norm].uniform(KEY, jnp.zeros((40_000, 3)))
    sizes = norms_of(start)[norm]
    assert sizes.max() <= 1 + 1e-6
    np.testing.assert_allclose(np.mean(sizes < 0.5), 1 / 8, atol=0.006)
    np.testing.assert_allclose(np.mean(start, axis=0), 0, atol=0.015)


def test_margin_against_a_plain_loop():
    logits = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    labels = np.array([0, 1, 2, 3, 0, 1])
    expected = [
        max(f for k, f in enumerate(row) if k != y) - row[y]
        for row, y in zip(logits, labels, strict=True)
    ]
    np.testing.assert_allclose(attacks.margin(logits, jnp.asarray(labels)), expected)


# --- against a plain restatement, and foolbox ---------------------------------


def plain_pgd(x, labels, loss, *, eps, step_size, num_steps):
    """One image at a time in NumPy, no random start: all L-inf points visited."""
    grad = jax.jit(jax.grad(loss))
    paths = []
    for image, label in zip(np.asarray(x), np.asarray(labels), strict=True):
        z, path = image, [image]
        for _ in range(num_steps):
            z = z + step_size * np.sign(grad(z, label))
            z = np.clip(image + np.clip(z - image, -eps, eps), -1, 1)
            path.append(z)
        paths.append(path)
    return np.array(paths, np.float32).swapaxes(0, 1)  # [S + 1, B, ...]


@pytest.mark.parametrize("loss", ["cross_entropy", "margin"])
def test_it_returns_the_worst_point_of_the_path_that_a_plain_loop_takes(loss):
    x, labels = images(size=6)

    def one(z, label):
        logits = network(z[None])[0]
        if loss == "margin":
            others = jnp.where(jnp.arange(4) == label, -jnp.inf, logits)
            return others.max() - logits[label]
        return jax.nn.logsumexp(logits) - logits[label]

    path = plain_pgd(x, labels, one, eps=0.3, step_size=0.06, num_steps=15)
    margins = np.stack([attacks.margin(network(z), labels) for z in path])
    worst = path[margins.argmax(axis=0), np.arange(len(x))]
    x_adv = pgd(KEY, network, x, labels, random_start=False, loss=loss)
    np.testing.assert_allclose(x_adv, worst, atol=1e-6)


def test_restarts_take_losses_in_turns():
    x, labels = images(size=6)
    options = dict(random_start=False, eps=0.3, step_size=0.06, num_steps=15)
    alone = [
        compiled(KEY, network, x, labels, loss=loss, **options)
        for loss in ("cross_entropy", "margin")
    ]
    both = compiled(
        KEY,
        network,
        x,
        labels,
        loss=("cross_entropy", "margin"),
        num_restarts=2,
        **options,
    )
    harm = [attacks.margin(network(z), labels) for z in (*alone, both)]
    np.testing.assert_allclose(harm[2], np.maximum(*harm[:2]), rtol=1e-5)


@pytest.mark.parametrize("norm", NORMS)
def test_fgsm_is_the_first_point_of_that_path(norm):
    x, labels = images(size=6)
    grad = jax.grad(
        lambda x: -jnp.sum(jax.nn.log_softmax(network(x)) * jax.nn.one_hot(labels, 4))
    )(x)
    flat = np.asarray(grad).reshape(6, -1)
    step = np.sign(flat) if norm == "linf" else flat / norms_of(flat)["l2"][:, None]
    expected = np.clip(x + 0.3 * step.reshape(x.shape), -1, 1)
    x_adv = attacks.fgsm(network, x, labels, norm=norm, eps=0.3)
    np.testing.assert_allclose(x_adv, expected, atol=1e-6)


@pytest.mark.parametrize("norm, eps", [("linf", 0.15), ("l2", 0.5)])
def test_it_finds_no_fewer_mistakes_than_foolbox(norm, eps):
    foolbox = pytest.importorskip("foolbox")  # an extra
    import eagerpy

    x, labels = images(size=200)
    attack = {
        "linf": foolbox.attacks.LinfBasicIterativeAttack(rel_stepsize=0.05, steps=40),
        "l2": foolbox.attacks.L2BasicIterativeAttack(rel_stepsize=0.05, steps=40),
    }[norm]
    model = foolbox.models.JAXModel(
        jax.jit(network), bounds=(-1, 1), data_format="channels_last"
    )
    _, theirs, _ = attack(
        model,
        eagerpy.astensor(x),
        eagerpy.astensor(labels),
        epsilons=eps,
    )
    ours = compiled(
        KEY,
        network,
        x,
        labels,
        norm=norm,
        eps=eps,
        step_size=0.05 * eps,
        num_steps=40,
        random_start=False,  # with one, the luck of it decides on two images
    )
    assert accuracy(ours, labels) <= accuracy(theirs.raw, labels)
    assert 0.1 < accuracy(ours, labels) < 0.9  # neither all nor none: it can tell


# --- what the options promise ---------------------------------------------------


@pytest.mark.parametrize("norm", NORMS)
def test_restarts_and_the_clean_image_can_only_make_it_worse(norm):
    x, _ = images(size=60)
    labels = jnp.arange(60) % 4  # many wrong from the start
    harm = [
        attacks.margin(network(x), labels),
        *(
            attacks.margin(
                network(
                    compiled(
                        KEY,
                        network,
                        x,
                        labels,
                        norm=norm,
                        eps=0.1,
                        step_size=0.05,
                        num_steps=2,
                        num_restarts=n,
                    )
                ),
                labels,
            )
            for n in (1, 5)
        ),
    ]
    assert np.all(harm[1] >= harm[0] - 1e-6)
    assert np.mean(harm[2]) > np.mean(harm[1]) > np.mean(harm[0])


def test_eps_may_differ_from_image_to_image():
    x, labels = images(size=3)
    eps = jnp.array([0.0, 0.1, 0.4])
    x_adv = pgd(KEY, network, x, labels, eps=eps, step_size=eps / 4)
    np.testing.assert_allclose(norms_of(x_adv - x)["linf"], eps, atol=1e-6)


def test_images_do_not_influence_each_other():
    x, labels = images(size=4)
    together = pgd(KEY, network, x, labels, random_start=False)
    alone = pgd(KEY, network, x[2:3], labels[2:3], random_start=False)
    np.testing.assert_allclose(together[2:3], alone, atol=1e-6)


def test_targeted_reaches_its_target():
    x, labels = images(size=40)
    target = (labels + 1) % 4
    x_adv = pgd(KEY, network, x, target, eps=0.8, step_size=0.1, targeted=True)
    before, after = (jnp.mean(network(z).argmax(-1) == target) for z in (x, x_adv))
    assert before == 0 and after > 0.8
    x_adv = attacks.fgsm(network, x, target, eps=0.1, targeted=True)
    assert jnp.mean(attacks.margin(network(x_adv), target)) < jnp.mean(
        attacks.margin(network(x), target)
    )


def test_early_stop_finds_as_many_mistakes_in_fewer_steps():
    x, labels = images(size=20)
    options = dict(eps=1.0, step_size=0.3, num_steps=500)
    looks = []

    def counted(x):
        jax.debug.callback(lambda: looks.append(1))
        return network(x)

    stopped = pgd(KEY, counted, x, labels, early_stop=True, **options)
    jax.effects_barrier()
    assert accuracy(stopped, labels) == accuracy(
        pgd(KEY, network, x, labels, **options), labels
    )
    assert len(looks) < 50


def test_sure_classifiers_hide_their_gradient_from_cross_entropy_not_from_margin():
    x, labels = images(size=40)

    def sure(x):
        return 100 * network(x)  # p_y rounds to 1: no gradient left in float32

    entropy, margin = (
        accuracy(
            pgd(KEY, sure, x, labels, eps=0.2, loss=loss, random_start=False), labels
        )
        for loss in ("cross_entropy", "margin")
    )
    assert margin < entropy - 0.2


@pytest.mark.parametrize("option", [dict(norm="l1"), dict(loss="dlr")])
def test_unknown_names_are_refused(option):
    x, labels = images(size=2)
    with pytest.raises(ValueError, match="is 'l1', not|is 'dlr', not"):
        pgd(KEY, network, x, labels, **option)


# --- refined classifiers ----------------------------------------------------------


def test_a_random_classifier_is_attacked_through_its_chain():
    x, labels = images(size=30)
    harm = {}
    refined = functools.partial(
        refinement.refined_classifier,
        network,
        num_steps=3,
        num_copies=2,
        input_noise_std=0.02,
        sampler=functools.partial(sgld.sgld, step_size=0.05, noise_std=0.01),
    )
    for gradient in ("true", "straight_through"):
        x_adv = pgd(
            KEY,
            refined(gradient=gradient),
            x,
            labels,
            eps=0.1,
            step_size=0.02,
            num_steps=8,
            loss="margin",
            random=True,
            random_start=False,
        )
        logits = refined()(jax.random.key(1), x_adv)
        harm[gradient] = float(attacks.margin(logits, labels).mean())
    clean = float(attacks.margin(refined()(jax.random.key(1), x), labels).mean())
    assert harm["true"] > harm["straight_through"] > clean


# --- distances and distal examples ------------------------------------------------


@pytest.mark.parametrize("norm, dual", [("linf", 1), ("l2", 2)])
def test_minimal_distance_of_a_linear_classifier(norm, dual):
    # |⟨w, x⟩| / ‖w‖_dual is the distance of x to the plane ⟨w, x⟩ = 0.
    w = jnp.array([1.0, -2.0, 0.5])
    x = 0.3 * jax.random.normal(KEY, (8, 3))
    labels = jnp.int32(x @ w > 0)
    nearest = attacks.minimal_distance(
        KEY,
        lambda x: linear(x, w),
        x,
        labels,
        norm=norm,
        max_eps=2.0,
        relative_step_size=0.2,
        num_steps=30,
        num_rounds=14,
        bounds=(-10.0, 10.0),
    )
    expected = np.abs(x @ w) / np.linalg.norm(w, dual)
    np.testing.assert_allclose(nearest.distance, expected, rtol=3e-3, atol=1e-3)
    np.testing.assert_allclose(
        norms_of(nearest.x - x)[norm], nearest.distance, rtol=1e-5
    )
    assert np.all(linear(nearest.x, w).argmax(axis=-1) != labels)


def test_distance_is_zero_where_wrong_already_and_infinite_where_none_was_found():
    w, x = jnp.array([1.0, 1.0]), jnp.array([[0.5, 0.5], [0.5, 0.5], [0.0, 0.1]])
    nearest = attacks.minimal_distance(
        KEY,
        lambda x: linear(x, w),
        x,
        jnp.array([0, 1, 1]),
        max_eps=0.2,
        relative_step_size=0.25,
        num_steps=10,
    )
    np.testing.assert_allclose(nearest.distance, [0.0, np.inf, 0.05], atol=1e-3)
    np.testing.assert_array_equal(nearest.x[:2], x[:2])


def test_distal_climbs_until_each_image_is_sure_and_no_further():
    x = jax.random.uniform(KEY, (4, 3, 3, 1), minval=-1.0, maxval=1.0)
    targets = jnp.arange(4)
    example = attacks.distal(
        network, x, targets, step_size=0.1, num_steps=200, confidence=0.9
    )
    own = jax.nn.softmax(network(example.x))[jnp.arange(4), targets]
    assert np.all(own >= 0.9) and np.all(own < 0.97)  # a step is 0.1 long
    assert 0 < example.num_steps.max() < 200
    assert np.abs(example.x).max() <= 1
    still = attacks.distal(network, example.x, targets, step_size=0.1, num_steps=9)
    np.testing.assert_array_equal(still.num_steps, 0)
    np.testing.assert_array_equal(still.x, example.x)
