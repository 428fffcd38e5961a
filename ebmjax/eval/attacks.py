"""Adversarial examples: small changes of an image that make a classifier wrong.

Pure functions of a `logits_fn` (x [B, ...] -> [B, K]), to be jitted by the caller.
x is floating point, and its dtype is that of the result, whatever the dtype of eps
or of the logits. eps, step sizes and distances are in the units of `x` and `bounds`:
for images in [-1, 1] they are twice the usual ones, which are for [0, 1].

An attack that fails proves nothing: a mistake it finds is a mistake, but where it
finds none the attack may be too weak. Hence restarts and a second loss, and for a
random classifier (`refinement`) enough copies and the true gradient.

For the same reason nothing that is not a number counts as robust. NaN entries of a
gradient count as 0, so that the others still drive the attack, and the affected
images are reported (`Info`); NaN logits count as a mistake.

Labels outside 0..K-1 raise ValueError where their values are known; where they are
traced, as under jit, the image's logits are treated as NaN. x outside `bounds`
raises likewise; where it is traced, x itself may be returned, other points not.
"""

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ebmjax import energy, losses
from ebmjax.eval.autoattack.driver import autoattack
from ebmjax.eval.margins import attack_margin, check, is_correct, margin, without_nan
from ebmjax.norms import NORMS, PerImage, choose, clip, per_image

__all__ = [
    "LOSSES",
    "Distal",
    "Info",
    "Minimal",
    "autoattack",
    "distal",
    "fgsm",
    "is_correct",
    "margin",
    "minimal_distance",
    "pgd",
]

# x [B, ...] -> [B, K], or (key, x) -> [B, K] where `random` is set
LogitsFn = Callable[..., jax.Array]


LOSSES = {"cross_entropy": losses.cross_entropy, "margin": margin}


class Info(NamedTuple):
    """What the caller of an attack should know of it."""

    nan_gradient: jax.Array  # [B] bool: an entry was NaN at some point; taken as 0


def fgsm(
    logits_fn: LogitsFn,
    x: jax.Array,
    labels: jax.Array,
    *,
    norm: str = "linf",
    eps: PerImage,
    bounds: tuple[float, float] = (-1.0, 1.0),
    targeted: bool = False,
    return_info: bool = False,
) -> jax.Array | tuple[jax.Array, Info]:
    """One full step up the cross-entropy (Goodfellow et al., 2015).  x -> x_adv.

    With `targeted` the labels are those that the attack wants to see, and the step
    goes down. With `return_info` the result is (x_adv, `Info`).
    """
    check(x, labels, norm, bounds)
    ball, sign = NORMS[norm], -1 if targeted else 1
    grad = jax.grad(lambda x: sign * losses.cross_entropy(logits_fn(x), labels).sum())
    grad, has_nan = without_nan(grad(x))
    x = clip(x + per_image(eps, x) * ball.steepest(grad), bounds)
    _warn_of_nan(has_nan)
    return (x, Info(has_nan)) if return_info else x


class _Best(NamedTuple):
    """The best of the points visited, from the attack's point of view."""

    x: jax.Array
    margin: jax.Array  # [B], positive where the attack has succeeded


def pgd(
    key: jax.Array,
    logits_fn: LogitsFn,
    x: jax.Array,
    labels: jax.Array,
    *,
    norm: str = "linf",
    eps: PerImage,
    step_size: PerImage,
    num_steps: int,
    num_restarts: int = 1,
    random_start: bool = True,
    bounds: tuple[float, float] = (-1.0, 1.0),
    loss: str | tuple[str, ...] = "cross_entropy",
    targeted: bool = False,
    random: bool = False,
    early_stop: bool = False,
    return_info: bool = False,
) -> jax.Array | tuple[jax.Array, Info]:
    """Projected gradient ascent on a loss (Madry et al., 2018).  x -> x_adv.

    Steps have the length `step_size` in the norm ("linf": by the gradient's sign,
    "l2": along it), and end in the eps-ball about x and in `bounds`, in which x
    must be. Of all points visited, x among them, every image gets the one with
    the largest margin against it; so more steps or restarts never help the
    classifier, and what is wrong already stays wrong.

    * `loss`: "cross_entropy", "margin", or several that restarts take in turns.
    * `targeted`: the labels are those that the attack wants to see.
    * `random`: logits_fn is a random classifier, (key, x) -> [B, K], and gets a
      key of its own at every evaluation. Which visited point is the best is then
      subject to chance: evaluate the result with fresh keys.
    * `early_stop`: end once the whole batch is wrong. For a rate of success, not
      for random classifiers, nor for the strongest examples.
    * `return_info`: the result is (x_adv, `Info`). Without it, NaN in a gradient is
      reported only outside of transformations such as jit, by a RuntimeWarning.
    """
    names = (loss,) if isinstance(loss, str) else tuple(loss)
    if not names or set(names) - set(LOSSES):
        raise ValueError(f"loss is {loss!r}, not 'cross_entropy' or 'margin'")
    check(x, labels, norm, bounds)
    ball, sign = NORMS[norm], -1 if targeted else 1
    eps, step_size = per_image(eps, x), per_image(step_size, x)
    period = num_steps + 1
    # Margins are compared at the precision of x, and at float32 for lesser ones.
    precision = np.promote_types(x.dtype, np.float32)

    def project(z):
        return clip(x + ball.project(z - x, eps), bounds)

    def start(key):
        return project(x + eps * ball.uniform(key, x)) if random_start else x

    def ascend(key, z, turn):
        """The margin at z, the next z, and where the gradient at z has NaN."""

        def objective(z):
            logits = logits_fn(key, z) if random else logits_fn(z)
            each = jnp.stack([LOSSES[name](logits, labels).sum() for name in names])
            return sign * each[turn % len(names)], attack_margin(
                logits, labels, targeted
            )

        grad, margins = jax.grad(objective, has_aux=True)(z)
        grad, has_nan = without_nan(grad)
        z_next = project(z + step_size * ball.steepest(grad))
        return margins.astype(precision), z_next, has_nan

    def body(carry):
        visit, z, best, nan_gradient = carry
        k_look, k_start = jax.random.split(jax.random.fold_in(key, visit))
        margins, z_next, has_nan = ascend(k_look, z, visit // period)
        best = choose(margins > best.margin, _Best(z, margins), best)
        restart = visit % period == 0
        z_next = lax.cond(restart, start, lambda _: z_next, k_start)
        return visit + 1, z_next, best, nan_gradient | has_nan

    def unfinished(carry):
        visit, _, best, _ = carry
        more = visit < 1 + num_restarts * period
        return more & ~(early_stop & jnp.all(best.margin > 0))

    # One loop over all points, so that the network is compiled once: x, then for
    # each restart its start and `num_steps` more.
    none = _Best(x, jnp.full(len(x), -jnp.inf, precision))
    carry = 0, x, none, jnp.zeros(len(x), bool)
    _, _, best, nan_gradient = lax.while_loop(unfinished, body, carry)
    _warn_of_nan(nan_gradient)
    return (best.x, Info(nan_gradient)) if return_info else best.x


class Minimal(NamedTuple):
    x: jax.Array  # [B, ...], the nearest wrong point found, or x itself if none
    distance: jax.Array  # [B], 0 where x is wrong already, inf where none was found
    nan_gradient: jax.Array  # [B] bool, as in `Info`


def minimal_distance(
    key: jax.Array,
    logits_fn: LogitsFn,
    x: jax.Array,
    labels: jax.Array,
    *,
    norm: str = "linf",
    max_eps: float,
    relative_step_size: float,
    num_steps: int,
    num_rounds: int = 10,
    **pgd_options,
) -> Minimal:
    """The distance to the nearest mistake, by bisection over eps for each image.

    Every round is a `pgd` from a new start, with steps of `relative_step_size` times
    the eps tried. The first tries `max_eps`. JEM's robustness curves are made of
    such distances: the accuracy at eps is the share of images with a larger one.
    """
    bounds = pgd_options.get("bounds", (-1.0, 1.0))
    check(x, labels, norm, bounds)
    ball, targeted = NORMS[norm], pgd_options.get("targeted", False)
    largest = jnp.asarray(max_eps, x.dtype)
    relative = jnp.asarray(relative_step_size, x.dtype)

    def is_wrong(z):
        return attack_margin(logits_fn(z), labels, targeted) > 0

    def search(carry, key):
        nearest, low = carry
        unknown = jnp.isinf(nearest.distance)
        eps = jnp.where(unknown, largest, (low + nearest.distance) / 2)
        sizes = dict(eps=eps, step_size=relative * eps, num_steps=num_steps)
        options: dict[str, Any] = dict(norm=norm, return_info=True) | pgd_options
        z, info = pgd(key, logits_fn, x, labels, **sizes, **options)
        distance, wrong = ball.size(z - x).reshape(len(x)), is_wrong(z)
        nan_gradient = nearest.nan_gradient | info.nan_gradient
        low = jnp.where(wrong | unknown, low, eps)
        nearest = choose(
            wrong & (distance < nearest.distance),
            Minimal(z, distance, nan_gradient),
            nearest._replace(nan_gradient=nan_gradient),
        )
        return (nearest, low), None

    distance = jnp.where(is_wrong(x), 0, jnp.full(len(x), jnp.inf, x.dtype))
    none = Minimal(x, distance, jnp.zeros(len(x), bool))
    start = none, jnp.zeros(len(x), x.dtype)
    (nearest, _), _ = lax.scan(search, start, jax.random.split(key, num_rounds))
    _warn_of_nan(nearest.nan_gradient)
    return nearest


class Distal(NamedTuple):
    x: jax.Array  # [B, ...]
    num_steps: jax.Array  # [B] int, taken until confident
    nan_gradient: jax.Array  # [B] bool, as in `Info`


def distal(
    logits_fn: Callable[[jax.Array], jax.Array],
    x: jax.Array,
    targets: jax.Array,
    *,
    step_size: float,
    num_steps: int,
    confidence: float = 0.9,
    bounds: tuple[float, float] = (-1.0, 1.0),
) -> Distal:
    """From noise x, climbs log p(target | x) until it is `confidence`, image by image.

    Steps have length `step_size` in L2. A classifier that recognises its classes
    should end in something like the class, not in noise (Grathwohl et al., 2020,
    section 5.3, after Schott et al., 2019).
    """
    check(x, targets, "l2", bounds)
    length = per_image(step_size, x)

    def log_prob(z):
        log_probs = -losses.cross_entropy(logits_fn(z), targets)
        return log_probs.sum(), log_probs

    def unfinished(carry):
        step, _, _, confident, _ = carry
        return (step < num_steps) & ~jnp.all(confident)

    def body(carry):
        step, z, count, _, nan_gradient = carry
        grad, log_probs = jax.grad(log_prob, has_aux=True)(z)
        grad, has_nan = without_nan(grad)
        confident = log_probs >= jnp.log(jnp.asarray(confidence, log_probs.dtype))
        z_next = clip(z + length * NORMS["l2"].steepest(grad), bounds)
        count = jnp.where(confident, count, count + 1)
        z = choose(confident, z, z_next)
        return step + 1, z, count, confident, nan_gradient | has_nan

    no = jnp.zeros(len(x), bool)
    carry = 0, x, jnp.zeros(len(x), jnp.int32), no, no
    _, z, count, _, nan_gradient = lax.while_loop(unfinished, body, carry)
    _warn_of_nan(nan_gradient)
    return Distal(z, count, nan_gradient)


def _warn_of_nan(nan_gradient):
    known = energy.known_value(nan_gradient)
    if known is not None and known.any():
        warnings.warn(
            f"the gradient of {known.sum()} of {known.size} images has NaN, taken as 0:"
            " where the attack finds no mistake, they are not shown to be robust",
            RuntimeWarning,
            stacklevel=3,
        )
