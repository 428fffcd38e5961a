"""Auto-PGD (Croce & Hein, 2020, algorithm 1): gradient ascent with momentum, whose
step size is halved, image by image, where the loss no longer rises.

The constants are those of the official implementation. Unlike there, an image's
answer is the first wrong point on its way, not the last, and the loop ends once all
have one: which images fall is the same, and does not depend on the batch.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ebmjax import energy, losses
from ebmjax.eval.autoattack.common import Found, draw, fold
from ebmjax.eval.margins import is_correct, without_nan
from ebmjax.norms import NORMS, choose, clip

NUM_STEPS = 100
MOMENTUM = 0.75  # the share of the new direction
RHO = 0.75  # the share of steps in which the loss has to rise


def dlr(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """The difference of logits ratio.  [B, K], [B] -> [B]; needs three classes."""
    own = -energy.joint_from_logits(logits, labels)
    ordered = jnp.sort(logits, axis=-1)
    is_first = (jnp.argmax(logits, axis=-1) == labels).astype(logits.dtype)
    other = ordered[:, -2] * is_first + ordered[:, -1] * (1 - is_first)
    return -(own - other) / (ordered[:, -1] - ordered[:, -3] + 1e-12)


def targeted_dlr(logits: jax.Array, labels: jax.Array, targets: jax.Array) -> jax.Array:
    """DLR towards a class.  [B, K], [B], [B] -> [B]; needs four classes."""
    own, other = (-energy.joint_from_logits(logits, k) for k in (labels, targets))
    ordered = jnp.sort(logits, axis=-1)
    scale = ordered[:, -1] - (ordered[:, -3] + ordered[:, -4]) / 2
    return -(own - other) / (scale + 1e-12)


def periods(num_steps: int = NUM_STEPS) -> np.ndarray:
    """[num_steps] int: after which steps the step size is reviewed, as the number of
    steps since the last review; 0 elsewhere."""
    period, least, less = (max(int(s * num_steps), 1) for s in (0.22, 0.06, 0.03))
    result, last = np.zeros(num_steps, np.int32), 0
    while last + period <= num_steps:
        result[last + period - 1] = period
        last, period = last + period, max(period - less, least)
    return result


class Point(NamedTuple):
    x: jax.Array  # [B, ...]
    gradient: jax.Array  # [B, ...], of the loss
    loss: jax.Array  # [B]


class State(NamedTuple):
    """After visit i the point to visit next is `x`; visit 0 is to the start."""

    x: jax.Array  # [B, ...], to be visited
    previous_x: jax.Array  # [B, ...], from where the step to `x` began
    previous_loss: jax.Array  # [B], of the last point visited
    best: Point  # of the largest loss so far
    step_size: jax.Array  # [B, 1, ...]
    rises: jax.Array  # [B], of the loss since the last review
    reviewed_loss: jax.Array  # [B], the best loss at the last review
    halved: jax.Array  # [B] bool, at the last review
    found: Found


Look = Callable[[jax.Array, jax.Array], tuple[Point, jax.Array, jax.Array]]


def look(logits_fn, loss_fn, labels, num_draws=0) -> Look:
    """(number, x) -> the `Point`, whether it is right, whether a gradient has NaN.

    Where `num_draws` is not 0, logits_fn is random, and takes a key as well: the
    gradient is the mean over the draws, and all else that of the last one.
    """

    def once(x, *key):
        def total(x):
            logits = logits_fn(*key, x)
            loss = loss_fn(logits)
            return loss.sum(), (loss, is_correct(logits, labels))

        gradient, (loss, right) = jax.grad(total, has_aux=True)(x)
        gradient, has_nan = without_nan(gradient)
        return Point(x, gradient, loss), right, has_nan

    def mean_of_draws(key, x):
        def add(carry, key):
            total, any_nan = carry
            point, right, has_nan = once(x, key)
            carry = total + point.gradient / num_draws, any_nan | has_nan
            return carry, (point.loss, right)

        zero = jnp.zeros_like(x), jnp.zeros(len(x), bool)
        keys = jax.random.split(key, num_draws)
        (gradient, has_nan), (loss, right) = lax.scan(add, zero, keys)
        return Point(x, gradient, loss[-1]), right[-1], has_nan

    return mean_of_draws if num_draws else lambda key, x: once(x)


def random_start(keys, x, norm, eps, bounds):
    """A point at the distance eps from x, before it is clipped."""
    if norm == "linf":
        step = draw(jax.random.uniform, keys, x.shape[1:], x.dtype, -1.0, 1.0)
    else:
        step = draw(jax.random.normal, keys, x.shape[1:], x.dtype)
    return clip(x + eps * step / NORMS[norm].size(step), bounds)


def init(start: jax.Array, eps: jax.Array) -> State:
    """Before visit 0."""
    num, no = len(start), jnp.zeros(len(start), bool)
    lowest = jnp.full(num, -jnp.inf, start.dtype)
    return State(
        x=start,
        previous_x=start,
        # The official code compares the loss after the first step with 0.
        previous_loss=jnp.zeros(num, start.dtype),
        best=Point(start, jnp.zeros_like(start), lowest),
        step_size=jnp.broadcast_to(2 * eps, (num, *[1] * (start.ndim - 1))),
        rises=jnp.zeros(num, jnp.int32),
        reviewed_loss=lowest,
        halved=~no,
        found=Found(start, no, no, no),
    )


def visit(look: Look, key, state: State, i, *, x, norm, eps, bounds) -> State:
    """Visits a point, number i of 0..`NUM_STEPS`, and chooses the next one."""
    point, right, has_nan = look(key, state.x)
    state = _recorded(state, i, point, right, has_nan)
    now, state = _review(state, i, point)
    ball = NORMS[norm]

    def project(z):
        return clip(x + ball.project(z - x, eps), bounds)

    share = jnp.where(i == 0, 1, MOMENTUM).astype(x.dtype)
    z = project(now.x + state.step_size * ball.steepest(now.gradient))
    inertia = (1 - share) * (now.x - state.previous_x)
    z = project(now.x + share * (z - now.x) + inertia)
    return state._replace(x=z, previous_x=now.x)


def _recorded(state, i, point, right, has_nan):
    """With what was seen at visit i."""
    found, first = state.found, i == 0
    zero = jnp.all(point.gradient == 0, axis=tuple(range(1, point.x.ndim)))
    new = ~found.wrong & ~right
    return state._replace(
        previous_loss=jnp.where(first, 0, point.loss),
        best=choose(point.loss > state.best.loss, point, state.best),
        rises=state.rises + (~first & (point.loss > state.previous_loss)),
        reviewed_loss=jnp.where(first, point.loss, state.reviewed_loss),
        found=Found(
            choose(new, point.x, found.x),
            found.wrong | ~right,
            found.zero_gradient | (first & zero),
            found.nan_gradient | has_nan,
        ),
    )


def _review(state, i, now):
    """Halves step sizes, and goes on from the best point, where that is due.

    -> the point to go on from, the state.
    """
    period = jnp.asarray(np.append(0, periods()))[i]
    due = period > 0
    seldom = state.rises <= RHO * period
    stuck = ~state.halved & (state.reviewed_loss >= state.best.loss)
    halve = due & (seldom | stuck)
    size = state.step_size
    return choose(halve, state.best, now), state._replace(
        step_size=choose(halve, size / 2, size),
        rises=jnp.where(due, 0, state.rises),
        reviewed_loss=jnp.where(due, state.best.loss, state.reviewed_loss),
        halved=jnp.where(due, halve, state.halved),
    )


def attack(
    keys,
    logits_fn,
    x,
    labels,
    targets,
    *,
    norm,
    eps,
    bounds,
    loss: str,
    num_draws: int = 0,
) -> Found:
    """`loss` is "cross_entropy", "dlr" or "targeted_dlr"; see `common` for the rest."""
    loss_fn = {
        "cross_entropy": lambda logits: losses.cross_entropy(logits, labels),
        "dlr": lambda logits: dlr(logits, labels),
        "targeted_dlr": lambda logits: targeted_dlr(logits, labels, targets),
    }[loss]
    eps = jnp.asarray(eps, x.dtype)
    view = look(logits_fn, loss_fn, labels, num_draws)
    one = functools.partial(visit, view, x=x, norm=norm, eps=eps, bounds=bounds)
    # A random classifier gets one key for the whole batch.
    key = fold(keys, 1)[0]

    def unfinished(carry):
        i, state = carry
        return (i <= NUM_STEPS) & ~jnp.all(state.found.wrong)

    def body(carry):
        i, state = carry
        return i + 1, one(jax.random.fold_in(key, i), state, i)

    state = init(random_start(keys, x, norm, eps, bounds), eps)
    _, state = lax.while_loop(unfinished, body, (0, state))
    found = state.found
    return found._replace(x=choose(found.wrong, found.x, x))
