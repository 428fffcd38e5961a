"""AutoAttack against the official package, brute force, and its own rules."""

import functools
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from jax import monitoring

from ebmjax import losses
from ebmjax.eval import attacks
from ebmjax.eval.autoattack import apgd, driver, fab, square
from ebmjax.norms import NORMS

KEY = jax.random.key(0)
OFFICIAL = {"linf": "Linf", "l2": "L2"}
norms = pytest.mark.parametrize("norm", ("linf", "l2"))
slow = pytest.mark.slow


@pytest.fixture(autouse=True)
def one_thread_of_torch():
    """More of them wait for each other where cores are shared."""
    torch = sys.modules.get("torch")
    if torch:
        torch.set_num_threads(1)


# --- a network, in JAX and in PyTorch ---------------------------------------


@functools.cache
def weights():
    rng = np.random.default_rng(0)
    w = rng.normal(0, 0.4, (64, 32)).astype(np.float32)
    return w, rng.normal(0, 1, (32, 10)).astype(np.float32)


def network(x):
    """x [B, 8, 8, 1] in [0, 1] -> [B, 10]; smooth, unsaturated."""
    w, v = weights()
    return jnp.tanh((2 * x.reshape(len(x), -1) - 1) @ w) @ v


def torch_network(torch, dtype="float32"):
    w, v = (torch.tensor(a.astype(dtype)) for a in weights())

    class Network(torch.nn.Module):
        def forward(self, x):  # [B, 1, 8, 8]
            return torch.tanh((2 * x.reshape(len(x), -1) - 1) @ w) @ v

    return Network()


def images(num, seed=1):
    x = np.random.default_rng(seed).uniform(0.05, 0.95, (num, 8, 8, 1))
    x = np.float32(x)
    return x, np.array(network(x).argmax(axis=-1), np.int32)


def robust(x, labels):
    return np.asarray(attacks.is_correct(network(x), jnp.asarray(labels)))


# --- APGD -------------------------------------------------------------------


def official_points(torch, loss, norm, eps, x, labels, targets):
    """The 101 points that the official APGD visits: [101, B, 8, 8, 1]."""
    autopgd = pytest.importorskip("pyautoattack.autopgd_base")
    visited, model = [], torch_network(torch, x.dtype)

    class Recorder(torch.nn.Module):
        def forward(self, z):
            visited.append(z.detach().permute(0, 2, 3, 1).numpy().copy())
            return model(z)

    cls = autopgd.APGDAttack_targeted if "targeted" in loss else autopgd.APGDAttack
    attack = cls(Recorder(), norm=OFFICIAL[norm], eps=eps, seed=0, device="cpu")
    attack.loss, attack.y_target = loss, torch.tensor(targets).long()
    x = torch.tensor(x).permute(0, 3, 1, 2)
    attack.init_hyperparam(x)
    torch.manual_seed(0)
    attack.attack_single_run(x, torch.tensor(labels).long())
    return np.stack(visited)


@norms
@pytest.mark.parametrize("loss", ["ce", "dlr", "dlr-targeted"])
def test_the_loss_curves_of_apgd_are_the_official_ones(loss, norm):
    """In float64, for a step that is taken back in one of them leads elsewhere."""
    torch = pytest.importorskip("torch")
    with jax.enable_x64(True):
        compare_curves(torch, loss, norm)


def compare_curves(torch, loss, norm):
    eps = {"linf": 0.01, "l2": 0.08}[norm] * (3 if loss == "ce" else 1)
    x, labels = images(16)
    x = x.astype(np.float64)
    targets = np.asarray(jnp.argsort(network(x), axis=-1)[:, -2], np.int32)
    points = official_points(torch, loss, norm, eps, x, labels, targets)
    loss_fn = {
        "ce": lambda logits: losses.cross_entropy(logits, labels),
        "dlr": lambda logits: apgd.dlr(logits, labels),
        "dlr-targeted": lambda logits: apgd.targeted_dlr(logits, labels, targets),
    }[loss]
    assert len(points) == apgd.NUM_STEPS + 1
    theirs = np.asarray(jax.lax.map(lambda z: loss_fn(network(z)), points))
    look = apgd.look(network, loss_fn, labels)
    settings = dict(x=jnp.asarray(x), norm=norm, eps=jnp.float64(eps), bounds=(0, 1))

    def visit(state, i):
        loss = loss_fn(network(state.x))
        return apgd.visit(look, KEY, state, i, **settings), loss

    start = apgd.init(jnp.asarray(points[0]), settings["eps"])
    state, ours = jax.lax.scan(visit, start, jnp.arange(len(points)))
    # Where the label's logit is the third, the gradient of DLR is 0 but for rounding;
    # where the first three or four are close, it is large.
    smooth = (np.abs(theirs - 1).min(axis=0) > 1e-3) & (theirs.max(axis=0) < 10)
    assert smooth.sum() >= 8
    ours, theirs = ours[:, smooth], theirs[:, smooth]
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
    halvings = np.log2(2 * eps / np.asarray(state.step_size).reshape(-1))
    np.testing.assert_allclose(halvings, np.round(halvings), atol=1e-3)
    assert halvings.min() > 0.5
    assert norm == "linf" or np.ptp(halvings) > 0.5  # image by image


def test_the_reviews_of_apgd():
    due = apgd.periods()
    assert list(np.flatnonzero(due) + 1) == [22, 41, 57, 70, 80, 87, 93, 99]
    assert list(due[due > 0]) == [22, 19, 16, 13, 10, 7, 6, 6]


# --- FAB --------------------------------------------------------------------


def projections(norm, num=60, seed=0):
    rng = np.random.default_rng(seed)
    u = np.float32(rng.uniform(0, 1, (num, 7)))
    u[:10, :3] = rng.integers(0, 2, (10, 3))  # at a bound
    w = np.float32(rng.normal(0, 1, (num, 7)))
    w[10:20, :2] = 0
    gap = np.float32(rng.normal(0, 1.5, num))
    d = fab.project(jnp.asarray(u), jnp.asarray(w), gap, norm=norm, bounds=(0, 1))
    return u, w, gap, np.asarray(d)


@norms
def test_the_projection_is_the_official_one(norm):
    torch = pytest.importorskip("torch")
    theirs = pytest.importorskip("pyautoattack.fab_projections")
    u, w, gap, d = projections(norm)
    b = np.sum(w * u, axis=1) - gap
    project = {"linf": theirs.projection_linf, "l2": theirs.projection_l2}[norm]
    expected = project(*map(torch.tensor, (u, w, b))).numpy()
    np.testing.assert_allclose(d, expected, atol=2e-5)


@norms
def test_the_projection_is_the_least_move(norm):
    u, w, gap, d = projections(norm, num=25)
    assert np.all(u + d >= -1e-6) and np.all(u + d <= 1 + 1e-6)
    reach = np.where(np.sign(gap)[:, None] * w > 0, u, 1 - u)
    most = np.sum(np.abs(w) * reach, axis=1)
    moved = -np.sign(gap) * np.sum(w * d, axis=1)
    np.testing.assert_allclose(moved, np.minimum(np.abs(gap), most), atol=1e-5)
    for i in np.flatnonzero(np.abs(gap) < 0.99 * most):
        size = {"linf": _least_linf, "l2": _least_l2}[norm](u[i], w[i], gap[i])
        ours = NORMS[norm].size(jnp.asarray(d[i : i + 1])).item()
        assert ours == pytest.approx(size, abs=2e-4)


def _least_linf(u, w, gap):
    """By linear programming: min t with |d| <= t."""
    n = len(u)
    above = np.block([[np.eye(n), -np.ones((n, 1))], [-np.eye(n), -np.ones((n, 1))]])
    return scipy.optimize.linprog(
        np.append(np.zeros(n), 1),
        A_ub=above,
        b_ub=np.zeros(2 * n),
        A_eq=np.append(w, 0)[None],
        b_eq=[-gap],
        bounds=[*zip(-u, 1 - u, strict=True), (0, None)],
    ).fun


def _least_l2(u, w, gap):
    found = scipy.optimize.minimize(
        lambda d: np.sum(d**2),
        np.zeros(len(u)),
        jac=lambda d: 2 * d,
        bounds=list(zip(-u, 1 - u, strict=True)),
        constraints={"type": "eq", "fun": lambda d: w @ d + gap, "jac": lambda d: w},
        options={"ftol": 1e-12},
    )
    return np.sqrt(found.fun)


# --- Square -----------------------------------------------------------------


@pytest.mark.parametrize("side", (8, 28, 32))
def test_the_windows_of_square_are_the_official_ones(side):
    pytest.importorskip("torch")
    official = pytest.importorskip("pyautoattack.square").SquareAttack(
        None, eps=1.0, resc_schedule=False
    )
    for odd in (False, True):
        ours = square.sides(side, side, odd=odd)
        for query in (0, 10, 11, 50, 51, 200, 201, 501, 1001, 2001, 4000, 4001, 4999):
            theirs = round(np.sqrt(official.p_selection(query) * side**2))
            theirs = max(theirs, 3 if odd else 1)
            theirs += odd and theirs % 2 == 0
            assert ours[query] == min(theirs, side)


@pytest.mark.parametrize("side", (1, 2, 3, 5, 6, 8, 15, 29))
def test_the_bump_of_square_is_the_official_one(side, monkeypatch):
    torch = pytest.importorskip("torch")
    official = pytest.importorskip("pyautoattack.square").SquareAttack(
        None, eps=1.0, norm="L2", device="cpu"
    )
    monkeypatch.setattr(torch, "rand", lambda shape: torch.zeros(shape))
    np.testing.assert_allclose(square.bump(side), official.eta(side), atol=1e-6)


@norms
@pytest.mark.parametrize("channels", (1, 3))
def test_every_query_of_square_is_in_the_ball(norm, channels):
    start, query = {
        "linf": (square._start_linf, square._query_linf),
        "l2": (square._start_l2, square._query_l2),
    }[norm]
    x = jax.random.uniform(KEY, (3, 9, 8, channels))
    keys = jax.random.split(KEY, 3)
    z, changed = start(keys, x, 0.3, (0, 1)), []
    query = jax.jit(query, static_argnames=("eps", "bounds"))
    for i in (0, 400, 4500):
        dice = square._throw(square.fold(keys, i), channels)
        new = query(dice, i, z, x, eps=0.3, bounds=(0.0, 1.0))
        assert NORMS[norm].size(new - x).max() <= 0.3 * 1.00001
        assert new.min() >= 0 and new.max() <= 1
        changed.append(np.asarray(new != z).any(axis=-1))
        z = new
    assert NORMS[norm].size(z - x).min() > 0.15
    windows = [change[i] for change in changed[1:] for i in range(3)]
    assert len({window.tobytes() for window in windows}) > 3  # one for each image


# --- all together -----------------------------------------------------------


@slow
@norms
def test_examples_are_in_the_ball_and_no_weaker_than_those_of_pgd(norm):
    eps = {"linf": 0.02, "l2": 0.15}[norm]
    x, labels = images(60)
    labels[:3] = (labels[:3] + 1) % 10  # wrong already
    x_adv = attacks.autoattack(
        KEY, network, x, labels, norm=norm, eps=eps, bounds=(0, 1), batch_size=60
    )
    assert NORMS[norm].size(jnp.asarray(x_adv - x)).max() <= eps * 1.00001
    assert x_adv.min() >= 0 and x_adv.max() <= 1
    stands = robust(x_adv, labels)
    np.testing.assert_array_equal(x_adv[stands], x[stands])
    np.testing.assert_array_equal(x_adv[:3], x[:3])
    worst = attacks.pgd(
        KEY,
        network,
        jnp.asarray(x),
        jnp.asarray(labels),
        norm=norm,
        eps=eps,
        step_size=eps / 10,
        num_steps=40,
        num_restarts=4,
        loss=("cross_entropy", "margin"),
        bounds=(0, 1),
    )
    assert 5 < stands.sum() <= robust(worst, labels).sum()


@slow
def test_results_do_not_depend_on_the_batch_or_on_the_units():
    x, labels = images(20)
    options = dict(norm="linf", eps=0.02)
    one = attacks.autoattack(
        KEY, network, x, labels, **options, bounds=(0, 1), batch_size=20
    )
    few = attacks.autoattack(
        KEY, network, x, labels, **options, bounds=(0, 1), batch_size=8
    )
    np.testing.assert_array_equal(robust(one, labels), robust(few, labels))
    np.testing.assert_allclose(one, few, atol=1e-3)

    def doubled(z):
        return network((z + 1) / 2)

    other = attacks.autoattack(
        KEY, doubled, 2 * x - 1, labels, norm="linf", eps=0.04, batch_size=20
    )
    np.testing.assert_array_equal(robust(one, labels), robust((other + 1) / 2, labels))


def test_batches_are_not_much_larger_than_their_images():
    sizes = {0: 28, 1: 28, 53: 76, 113: 128, 152: 152, 153: 176, 201: 128, 613: 176}
    assert jax.device_count() == 4
    assert {num: driver.padded_size(num, 200) for num in sizes} == sizes


def test_nothing_is_compiled_for_another_eps():
    """Where all images stand, so that batches are of one size."""
    x, labels = images(8)
    compiled = []

    def listen(name, *args, **more):
        if "backend_compile" in name:
            compiled.append(name)

    options = dict(norm="linf", bounds=(0, 1), batch_size=8)
    monitoring.register_event_duration_secs_listener(listen)
    try:
        attacks.autoattack(KEY, network, x, labels, eps=1e-5, **options)
        assert len(compiled) >= 4  # an attack each
        compiled.clear()
        x_adv = attacks.autoattack(KEY, network, x, labels, eps=2e-5, **options)
    finally:
        monitoring.unregister_event_duration_listener(listen)
    assert not compiled and np.array_equal(x_adv, x)


def test_too_few_classes_are_refused():
    x = np.zeros((2, 8, 8, 1), np.float32)
    labels = np.zeros(2, np.int32)

    def three(x):
        return network(x)[:, :3]

    with pytest.raises(ValueError, match="needs 4 classes, not 3"):
        attacks.autoattack(KEY, three, x, labels, eps=0.1)


def test_probabilities_and_randomness_are_reported():
    logits = np.random.default_rng(0).normal(size=(5, 4))
    assert driver.check_logits(logits, logits) == []
    probs = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    assert "probabilities" in driver.check_logits(probs)[0]
    assert "random" in driver.check_logits(logits, logits + 0.01)[0]


def test_doubts():
    steps = driver.steps("standard", 10)
    assert len(steps) == 1 + 9 + 9 + 1
    no = np.zeros(4, bool)
    state = driver.State(np.array([-1, 1, 20, 0]), np.full(4, 20), no, ~no)
    assert driver.accuracies(state, steps) == {
        "clean": 0.75,
        "APGD-CE": 0.5,
        "APGD-T": 0.5,
        "FAB-T": 0.5,
        "Square": 0.25,
    }
    nan, weak = driver.doubts(state, steps)
    assert "4 images has NaN" in nan and "by 25.00%" in weak
    zero = driver.doubts(state._replace(zero_gradient=~no, nan_gradient=no), steps)
    assert "is 0 for 4 images" in zero[0]


# --- the same numbers as the official program -------------------------------


@slow
@norms
def test_robust_accuracy_is_the_official_one(norm):
    torch = pytest.importorskip("torch")
    official = pytest.importorskip("pyautoattack.autoattack")
    eps = {"linf": 0.015, "l2": 0.1}[norm]
    x, labels = images(100, seed=2)
    x_adv = attacks.autoattack(
        KEY, network, x, labels, norm=norm, eps=eps, bounds=(0, 1), batch_size=100
    )
    attack = official.AutoAttack(
        torch_network(torch), norm=OFFICIAL[norm], eps=eps, seed=0
    )
    theirs, _ = attack.run_standard_evaluation(
        torch.tensor(x).permute(0, 3, 1, 2), torch.tensor(labels).long(), batch_size=100
    )
    theirs = robust(theirs.permute(0, 2, 3, 1).numpy(), labels)
    ours = robust(x_adv, labels)
    assert 10 < theirs.sum() < 90 and abs(int(ours.sum()) - int(theirs.sum())) <= 1


def test_rand_fools_a_linear_classifier_where_it_can_be_fooled():
    """A logit is the sum of two pixels of its own: within eps an image falls if and
    only if the margin is below 4 eps."""
    x = np.float32(np.random.default_rng(3).uniform(-0.3, 0.3, (12, 2, 3, 1)))
    w = np.float32(np.repeat(np.eye(3), 2, axis=0))
    logits = x.reshape(12, 6) @ w
    labels, ordered = logits.argmax(-1), np.sort(logits, axis=-1)
    margins = np.sort(ordered[:, -1] - ordered[:, -2])
    eps = float(margins[5] + margins[6]) / 8

    x_adv = attacks.autoattack(
        KEY,
        lambda key, x: x.reshape(len(x), 6) @ w,
        jnp.asarray(x),
        jnp.asarray(labels),
        norm="linf",
        eps=eps,
        version="rand",
    )
    assert eps < 0.7  # nothing is clipped
    assert np.abs(x_adv - x).max() <= eps + 1e-6
    assert np.sum((x_adv.reshape(12, 6) @ w).argmax(-1) != labels) == 6
