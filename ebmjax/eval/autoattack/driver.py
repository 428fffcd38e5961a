"""Runs the attacks of AutoAttack in their order, each on the images that still stand.

An image falls at its first wrong answer. A targeted attack is one step for each
target, so that images which fall are not attacked further.
"""

import functools
import warnings
from collections.abc import Callable, Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ebmjax import batching
from ebmjax.eval.autoattack import apgd, fab, square
from ebmjax.eval.autoattack.common import Found, fold
from ebmjax.eval.margins import check, is_correct

NUM_DRAWS = 20  # over which "rand" averages gradients

# {name: attack}, in the order of each version
VERSIONS = {
    "standard": {
        "APGD-CE": functools.partial(apgd.attack, loss="cross_entropy"),
        "APGD-T": functools.partial(apgd.attack, loss="targeted_dlr"),
        "FAB-T": fab.attack,
        "Square": square.attack,
    },
    "rand": {
        "APGD-CE": functools.partial(
            apgd.attack, loss="cross_entropy", num_draws=NUM_DRAWS
        ),
        "APGD-DLR": functools.partial(apgd.attack, loss="dlr", num_draws=NUM_DRAWS),
    },
}
TARGETED = ("APGD-T", "FAB-T")
NUM_TARGETS = 9
LEAST_CLASSES = {"standard": 4, "rand": 3}  # that the DLR losses need


class Step(NamedTuple):
    attack: str
    rank: int = 0  # of the target among the clean logits


class State(NamedTuple):
    """How far the evaluation is.  Steps are counted from 1.

    Work on an image is due at step s if it stands and has done s - 1: so the state
    may be stored after any batch.
    """

    fell: np.ndarray  # [N] int: the step; 0 it stands, -1 it was wrong before
    done: np.ndarray  # [N] int: steps that are done
    zero_gradient: np.ndarray  # [N] bool, at the start of a DLR attack
    nan_gradient: np.ndarray  # [N] bool

    @property
    def stands(self) -> np.ndarray:
        return self.fell == 0


# (fn, *arrays) -> NumPy: `fn(logits_fn, *arrays) -> tree of [b, ...]` for one batch,
# on all devices; it compiles `fn` once for each shape.
Map = Callable[..., Found]


def autoattack(
    key: jax.Array,
    logits_fn: Callable[..., jax.Array],
    x: jax.Array,
    labels: jax.Array,
    *,
    norm: str = "linf",
    eps: float,
    bounds: tuple[float, float] = (-1.0, 1.0),
    version: str = "standard",
    batch_size: int = 250,
) -> np.ndarray:
    """Adversarial examples of AutoAttack (Croce & Hein, 2020).  x -> x_adv.

    Of each image the first wrong point within eps that APGD-CE, APGD-T, FAB-T or
    Square finds, in this order, and x itself where none does; so the robust accuracy
    is that of `logits_fn` on x_adv. eps is in the units of x and `bounds`.

    With the version "rand", for random classifiers, logits_fn is (key, x) -> [B, K],
    and the attacks are APGD-CE and APGD-DLR with gradients averaged over 20 draws.

    It compiles its own programs, for batches over all devices, and cannot itself be
    transformed by jit or grad. A logits_fn is compiled once for each norm and shape if
    the same function is passed again. Warns (RuntimeWarning) of what makes the result
    doubtful: see `check_logits` and `doubts`.

    Raises ValueError for fewer than four classes, three for "rand".
    """
    check(x, labels, norm, bounds)
    if version not in VERSIONS:
        raise ValueError(f"version is {version!r}, not 'standard' or 'rand'")
    x, labels = np.asarray(x), np.asarray(labels)
    x_adv = x.copy()

    def on_batch(fn, *arrays):
        program = _program(fn, logits_fn)
        return batching.over_batches(program, (), *arrays, batch_size=len(arrays[0]))

    logits, reasons = clean_logits(key, on_batch, x, batch_size, version=version)
    state = initial_state(logits, labels)
    for after, index, found in run(
        key,
        on_batch,
        state,
        x,
        labels,
        norm=norm,
        eps=eps,
        bounds=bounds,
        version=version,
        logits=logits,
        batch_size=batch_size,
    ):
        state, x_adv[index] = after, found.x
    for reason in [*reasons, *doubts(state, steps(version, logits.shape[-1]))]:
        warnings.warn(reason, RuntimeWarning, stacklevel=2)
    return x_adv


@functools.lru_cache(maxsize=16)
def _program(fn, logits_fn):
    return batching.program(lambda _, key, *arrays: fn(logits_fn, *arrays))


def steps(version: str, num_classes: int) -> list[Step]:
    """All steps of a version, in order."""
    ranks = range(1, min(NUM_TARGETS, num_classes - 1) + 1)
    return [
        Step(attack, rank)
        for attack in VERSIONS[version]
        for rank in (ranks if attack in TARGETED else (0,))
    ]


@functools.cache
def step_fn(attack: str, version: str, norm: str, bounds: tuple[float, float]):
    """fn(logits_fn, key data, x, labels, targets, eps) -> `Found`, for a `Map`."""

    def fn(logits_fn, key_data, x, labels, targets, eps):
        keys = jax.random.wrap_key_data(key_data)
        eps = eps.reshape(-1, *[1] * (x.ndim - 1))
        chosen = VERSIONS[version][attack]
        options = dict(norm=norm, eps=eps, bounds=bounds)
        found = chosen(keys, logits_fn, x, labels, targets, **options)
        if version != "rand":
            return found
        # A random classifier has to be wrong again.
        again = ~is_correct(logits_fn(fold(keys, 2)[0], found.x), labels)
        return found._replace(wrong=found.wrong & again)

    return fn


def run(
    key: jax.Array,
    on_batch: Map,
    state: State,
    x: np.ndarray,
    labels: np.ndarray,
    *,
    norm: str,
    eps: float,
    logits: np.ndarray,
    bounds: tuple[float, float] = (-1.0, 1.0),
    version: str = "standard",
    batch_size: int = 250,
    progress: Callable[[str], Callable[[range], Iterable]] = lambda text: iter,
):
    """Yields (state, index, found) after every batch: the images `index` [n] fell, at
    the points `found.x` [n, ...].

    `logits` [N, K] are those of x. Every image has keys of its own, from `key` and its
    place in x; so an evaluation that begins with a stored `State` ends as if it had
    not been interrupted.
    """
    num_classes = logits.shape[-1]
    check_classes(num_classes, version)
    classes = np.argsort(-logits, axis=-1, kind="stable")
    bounds = tuple(map(float, bounds))
    keys = jax.vmap(functools.partial(jax.random.fold_in, key))(jnp.arange(len(x)))
    for number, (attack, rank) in enumerate(steps(version, num_classes), 1):
        fn = step_fn(attack, version, norm, bounds)
        text = f"{attack} {rank}" if rank else attack
        key_data = np.asarray(jax.random.key_data(fold(keys, number)))
        due = np.flatnonzero(state.stands & (state.done < number))
        size = padded_size(len(due), batch_size)
        for batch in progress(text)(range(-(-len(due) // size))):
            index = due[batch * size : (batch + 1) * size]
            arrays = key_data, x, labels, classes[:, rank].astype(np.int32)
            found = _attack(fn, on_batch, size, index, arrays, eps)
            state = _after(state, index, found, number, attack)
            yield state, index[found.wrong], found._replace(x=found.x[found.wrong])


def _attack(fn, on_batch, size, index, arrays, eps):
    """`Found` of the images `index`; the batch is filled up with these."""
    parts = [array[np.resize(index, size)] for array in arrays]
    found = on_batch(fn, *parts, np.full(size, eps, parts[1].dtype))
    return jax.tree.map(lambda a: a[: len(index)], found)


def _after(state, index, found, number, attack):
    state = State(*(a.copy() for a in state))
    state.fell[index[found.wrong]] = number
    state.done[index] = number
    if attack in ("APGD-T", "APGD-DLR"):
        state.zero_gradient[index] |= found.zero_gradient
    state.nan_gradient[index] |= found.nan_gradient
    return state


def padded_size(num: int, batch_size: int) -> int:
    """The size of the batches for `num` images: of the eighths of `batch_size` the
    least with which they need no more batches. So few programs are compiled, and no
    batch is much larger than its images."""
    sizes = [_over_devices(-(-batch_size * k // 8)) for k in range(1, 9)]
    num_batches = -(-num // sizes[-1])
    return next(size for size in sizes if size * num_batches >= num)


def _over_devices(size):
    num_devices = jax.device_count()
    return -(-size // num_devices) * num_devices


# --- before and after ----------------------------------------------------------


def check_classes(num_classes: int, version: str = "standard") -> None:
    """Raises ValueError if there are too few for the attacks' losses."""
    least = LEAST_CLASSES[version]
    if num_classes < least:
        raise ValueError(
            f"AutoAttack's DLR loss needs {least} classes, not {num_classes}; use"
            " attacks.pgd with the losses 'cross_entropy' and 'margin'"
        )


def initial_state(logits: np.ndarray, labels: np.ndarray) -> State:
    """Before the first attack.  [N, K], [N]."""
    num = len(labels)
    right = np.asarray(is_correct(jnp.asarray(logits), jnp.asarray(labels)))
    no = np.zeros(num, bool)
    fell = np.where(right, 0, -1).astype(np.int16)
    return State(fell, np.zeros(num, np.int16), no, no.copy())


def clean_logits(
    key: jax.Array, on_batch: Map, x: np.ndarray, batch_size: int, *, version: str
) -> tuple[np.ndarray, list[str]]:
    """Logits of all images [N, K], and what `check_logits` says of the first batch."""
    fn = _clean_random if version == "rand" else _clean
    size = _over_devices(min(batch_size, len(x)))
    key_data = jax.random.key_data(jax.random.split(key, size))

    def logits(start):
        part = x[start : start + size]
        arrays = np.asarray(key_data), np.resize(part, (size, *x.shape[1:]))
        return on_batch(fn, *arrays)[: len(part)]

    parts = [logits(start) for start in range(0, len(x), size)]
    again = logits(0) if version != "rand" else None
    return np.concatenate(parts), check_logits(parts[0], again)


def _clean(logits_fn, key_data, x):
    del key_data
    return logits_fn(x)


def _clean_random(logits_fn, key_data, x):
    return logits_fn(jax.random.wrap_key_data(key_data)[0], x)


def check_logits(logits: np.ndarray, again: np.ndarray | None = None) -> list[str]:
    """Why these outputs make the result doubtful, as the official code checks:
    probabilities instead of logits, and, if `again` is another evaluation of the same
    images, randomness.  [N, K] each."""
    reasons, tolerance = [], 1e-5
    sums = np.abs(logits.sum(axis=-1) - 1)
    inside = logits.min() > -tolerance and logits.max() < 1 + tolerance
    if inside and np.all(sums < tolerance):
        reasons.append(
            "the outputs look like probabilities: pass logits, on which the losses of"
            " AutoAttack are defined"
        )
    if again is not None and _differ(logits, again):
        reasons.append(
            "the outputs are random: use version='rand', for the gradients of one draw"
            " mislead the attacks"
        )
    return reasons


def _differ(logits, again):
    first, second = (
        a / (np.linalg.norm(a, axis=-1, keepdims=True) + 1e-10) for a in (logits, again)
    )
    return bool(np.max(np.linalg.norm(first - second, axis=-1)) > 1e-4)


def accuracies(state: State, steps: list[Step]) -> dict[str, float]:
    """{"clean": share, attack: share of all images that stand after it, ...}."""
    result = {"clean": float(np.mean(state.fell >= 0))}
    for number, step in enumerate(steps, 1):
        stands = (state.fell == 0) | (state.fell > number)
        result[step.attack] = float(np.mean(stands))
    return result


def doubts(state: State, steps: list[Step]) -> list[str]:
    """Why the result of an evaluation is doubtful, as the official code checks."""
    reasons = []
    if num := int(state.zero_gradient.sum()):
        reasons.append(
            f"the gradient of the DLR loss is 0 for {num} images: attacks by gradients"
            " may be too weak"
        )
    if num := int(state.nan_gradient.sum()):
        reasons.append(
            f"the gradient of {num} images has NaN, taken as 0: where the attack finds"
            " no mistake, they are not shown to be robust"
        )
    shares = list(accuracies(state, steps).values())
    if steps[-1].attack == "Square" and shares[-1] < shares[-2] - 0.002:
        reasons.append(
            "Square lowers the accuracy of the attacks by gradients by"
            f" {shares[-2] - shares[-1]:.2%}: these may be too weak"
        )
    return reasons
