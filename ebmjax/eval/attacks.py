"""Adversarial examples: small changes of an image that make a classifier wrong.

Pure functions of a `logits_fn` (x [B, ...] -> [B, K]), to be jitted by who calls
them. eps, step sizes and distances are in the units of `x` and `bounds`: for
images in [-1, 1] they are twice the usual ones, which are for [0, 1].

An attack's result is evidence one way only: a wrong answer found is an error
proven, none found may be the attack's fault. So take restarts and a second loss,
and for a random classifier (`refinement`) copies enough and the true gradient.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from ebmjax import losses

# x [B, ...] -> [B, K], or (key, x) -> [B, K] where `random` is set
LogitsFn = Callable[..., jax.Array]
PerImage = float | jax.Array  # a number, or one for each image [B]


def margin(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """max_{k≠y} f_k - f_y, positive where the answer is wrong.  [B, K], [B] -> [B].

    As a loss it is that of Carlini & Wagner (2017). Its gradient does not vanish
    where the classifier is sure, as that of cross-entropy does.
    """
    own = jax.nn.one_hot(labels, logits.shape[-1], dtype=bool)
    others = jnp.where(own, -jnp.inf, logits).max(axis=-1)
    return others - jnp.take_along_axis(logits, labels[:, None], axis=-1)[:, 0]


LOSSES = {"cross_entropy": losses.cross_entropy, "margin": margin}


class Norm(NamedTuple):
    """What an attack asks of a norm. v, g are [B, ...]; eps is [B, 1, ...]."""

    size: Callable[[jax.Array], jax.Array]  # v -> [B, 1, ...]
    steepest: Callable[[jax.Array], jax.Array]  # g -> the best v of size 1
    project: Callable[[jax.Array, jax.Array], jax.Array]  # v, eps -> size <= eps
    uniform: Callable[[jax.Array, jax.Array], jax.Array]  # key, v -> in the ball, 1


def _max_size(v):
    return jnp.max(jnp.abs(v), axis=_image_axes(v), keepdims=True)


def _l2_size(v):
    return jnp.sqrt(jnp.sum(v**2, axis=_image_axes(v), keepdims=True))


def _l2_steepest(g):
    size = _l2_size(g)
    return g / jnp.where(size > 0, size, 1.0)


def _l2_project(v, eps):
    size = _l2_size(v)
    return v * jnp.minimum(1.0, eps / jnp.where(size > 0, size, 1.0))


def _l2_uniform(key, v):
    k_direction, k_radius = jax.random.split(key)
    direction = _l2_steepest(jax.random.normal(k_direction, v.shape, v.dtype))
    share = jax.random.uniform(k_radius, _l2_size(v).shape, v.dtype)
    return direction * share ** (1 / v[0].size)


NORMS = {
    "linf": Norm(
        size=_max_size,
        steepest=jnp.sign,
        project=lambda v, eps: jnp.clip(v, -eps, eps),
        uniform=lambda key, v: jax.random.uniform(
            key, v.shape, v.dtype, minval=-1.0, maxval=1.0
        ),
    ),
    "l2": Norm(
        size=_l2_size,
        steepest=_l2_steepest,
        project=_l2_project,
        uniform=_l2_uniform,
    ),
}


def fgsm(
    logits_fn: LogitsFn,
    x: jax.Array,
    labels: jax.Array,
    *,
    norm: str = "linf",
    eps: PerImage,
    bounds: tuple[float, float] = (-1.0, 1.0),
    targeted: bool = False,
) -> jax.Array:
    """One full step up the cross-entropy (Goodfellow et al., 2015).  x -> x_adv.

    With `targeted` the labels are those wanted, and it goes down.
    """
    ball, sign = NORMS[norm], -1 if targeted else 1
    grad = jax.grad(lambda x: sign * losses.cross_entropy(logits_fn(x), labels).sum())
    return jnp.clip(x + _broad(eps, x) * ball.steepest(grad(x)), *bounds)


class _Worst(NamedTuple):
    x: jax.Array
    harm: jax.Array  # [B], positive where the attack has what it wants


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
) -> jax.Array:
    """Projected gradient ascent on a loss (Madry et al., 2018).  x -> x_adv.

    Steps have the length `step_size` in the norm ("linf": by the gradient's sign,
    "l2": along it), and end in the eps-ball about x and in `bounds`, in which x
    must be. Of all points visited, x among them, every image gets the one with
    the largest margin against it; so more steps or restarts never help the
    classifier, and what is wrong already stays wrong.

    * `loss`: "cross_entropy", "margin", or several that restarts take in turns.
    * `targeted`: the labels are those that the attack wants to see.
    * `random`: logits_fn is a random classifier, (key, x) -> [B, K], and gets a
      key of its own at every look. Which visited point is worst is then subject
      to luck: judge the result with fresh keys.
    * `early_stop`: end once the whole batch is wrong. For a rate of success, not
      for random classifiers, nor for the strongest examples.
    """
    names = (loss,) if isinstance(loss, str) else tuple(loss)
    if norm not in NORMS:
        raise ValueError(f"norm is {norm!r}, not 'linf' or 'l2'")
    if not names or set(names) - set(LOSSES):
        raise ValueError(f"loss is {loss!r}, not 'cross_entropy' or 'margin'")
    ball, sign = NORMS[norm], -1 if targeted else 1
    eps, step_size = _broad(eps, x), _broad(step_size, x)
    period = num_steps + 1

    def project(z):
        return jnp.clip(x + ball.project(z - x, eps), *bounds)

    def start(key):
        return project(x + eps * ball.uniform(key, x)) if random_start else x

    def ascend(key, z, turn):
        """The harm done at z, and the next z."""

        def objective(z):
            logits = logits_fn(key, z) if random else logits_fn(z)
            each = jnp.stack([LOSSES[name](logits, labels).sum() for name in names])
            return sign * each[turn % len(names)], sign * margin(logits, labels)

        grad, harm = jax.grad(objective, has_aux=True)(z)
        return harm, project(z + step_size * ball.steepest(grad))

    def body(carry):
        visit, z, worst = carry
        k_look, k_start = jax.random.split(jax.random.fold_in(key, visit))
        harm, following = ascend(k_look, z, visit // period)
        worst = _choose(harm > worst.harm, _Worst(z, harm), worst)
        restart = visit % period == 0
        following = lax.cond(restart, start, lambda _: following, k_start)
        return visit + 1, following, worst

    def going(carry):
        visit, _, worst = carry
        more = visit < 1 + num_restarts * period
        return more & ~(early_stop & jnp.all(worst.harm > 0))

    # One loop over all points, so that the network is compiled once: x, then for
    # each restart its start and `num_steps` more.
    nothing = _Worst(x, jnp.full(len(x), -jnp.inf, x.dtype))
    return lax.while_loop(going, body, (0, x, nothing))[2].x


class Minimal(NamedTuple):
    x: jax.Array  # [B, ...], the nearest wrong point found, or x itself if none
    distance: jax.Array  # [B], 0 where x is wrong already, inf where none was found


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
    """How far is the nearest mistake?  Bisection over eps, image by image.

    Every round is a `pgd` from a new start, with steps of `relative_step_size` times
    the eps tried. The first tries `max_eps`. JEM's robustness curves are made of
    such distances: the accuracy at eps is the share of images with a larger one.
    """
    ball, sign = NORMS[norm], -1 if pgd_options.get("targeted") else 1

    def is_wrong(z):
        return sign * margin(logits_fn(z), labels) > 0

    def search(carry, key):
        found, low = carry
        unknown = jnp.isinf(found.distance)
        eps = jnp.where(unknown, max_eps, (low + found.distance) / 2)
        z = pgd(
            key,
            logits_fn,
            x,
            labels,
            norm=norm,
            eps=eps,
            step_size=relative_step_size * eps,
            num_steps=num_steps,
            **pgd_options,
        )
        distance, wrong = ball.size(z - x).reshape(len(x)), is_wrong(z)
        nearer = wrong & (distance < found.distance)
        low = jnp.where(wrong | unknown, low, eps)
        return (_choose(nearer, Minimal(z, distance), found), low), None

    none = Minimal(x, jnp.where(is_wrong(x), 0.0, jnp.inf).astype(x.dtype))
    start = none, jnp.zeros(len(x), x.dtype)
    (found, _), _ = lax.scan(search, start, jax.random.split(key, num_rounds))
    return found


class Distal(NamedTuple):
    x: jax.Array  # [B, ...]
    num_steps: jax.Array  # [B] int, taken until confident


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
    """From noise x, climbs log p(target | x) until it is sure, image by image.

    Steps have length `step_size` in L2. A classifier that knows what it has seen
    should end in something like the class, not in noise (Grathwohl et al., 2020,
    section 5.3, after Schott et al., 2019).
    """

    def log_prob(z):
        log_probs = -losses.cross_entropy(logits_fn(z), targets)
        return log_probs.sum(), log_probs

    def going(carry):
        step, _, _, sure = carry
        return (step < num_steps) & ~jnp.all(sure)

    def body(carry):
        step, z, taken, _ = carry
        grad, log_probs = jax.grad(log_prob, has_aux=True)(z)
        sure = log_probs >= jnp.log(confidence)
        following = jnp.clip(z + step_size * _l2_steepest(grad), *bounds)
        taken = jnp.where(sure, taken, taken + 1)
        return step + 1, _choose(sure, z, following), taken, sure

    start = 0, x, jnp.zeros(len(x), jnp.int32), jnp.zeros(len(x), bool)
    _, z, taken, _ = lax.while_loop(going, body, start)
    return Distal(z, taken)


def _choose(condition, yes, no):
    """Leaf by leaf and image by image; `condition` is [B]."""
    return jax.tree.map(lambda a, b: jnp.where(_broad(condition, a), a, b), yes, no)


def _broad(value, x):
    """A number, or one an image [B], so that it meets x [B, ...]."""
    value = jnp.asarray(value)
    return value.reshape(-1, *[1] * (x.ndim - 1)) if value.ndim else value


def _image_axes(x):
    return tuple(range(1, x.ndim))
