"""APGD, FAB and Square against the official package and brute force."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from autoattacked import (  # noqa: F401
    KEY,
    OFFICIAL,
    images,
    network,
    norms,
    one_thread_of_torch,
    torch_network,
)

from ebmjax import losses
from ebmjax.eval.autoattack import apgd, fab, square
from ebmjax.norms import NORMS

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
