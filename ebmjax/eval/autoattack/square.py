"""Square Attack (Andriushchenko et al., 2020, arXiv 1912.00049): random search by
square windows, without gradients.

Images are [B, H, W, C]. The official code draws one window for the whole batch; here
every image has its own, so that results do not depend on the batch.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ebmjax.eval.autoattack.common import Found, draw, fold
from ebmjax.eval.margins import attack_margin, is_correct
from ebmjax.norms import NORMS, choose, clip

NUM_QUERIES = 5_000
SHARE = 0.8  # of the pixels that the first windows cover
HALVED_AFTER = (10, 50, 200, 500, 1_000, 2_000, 4_000)  # queries; that share


def sides(height: int, width: int, *, odd: bool) -> np.ndarray:
    """[NUM_QUERIES] int, the side of the window of each query.

    For L2, `odd`, it is at least 3 where the image allows that.
    """
    halvings = np.searchsorted(HALVED_AFTER, np.arange(NUM_QUERIES))
    side = np.round(np.sqrt(SHARE / 2.0**halvings * height * width)).astype(int)
    if odd:
        side = np.maximum(side, 3)
        side += side % 2 == 0
    return np.clip(side, 1, min(height, width))


class _Dice(NamedTuple):
    """What one query draws of each image: uniform numbers in [0, 1)."""

    corners: jax.Array  # [B, 2, 2], of two windows
    flip: jax.Array  # [B, 1, 1]
    signs: jax.Array  # [B, 1, 1, C], of -1 and 1


def _throw(keys, channels):
    """One draw for all, for the generator takes long to compile."""
    u = draw(jax.random.uniform, keys, (5 + channels,))
    signs = jnp.where(u[:, 5:] < 0.5, -1, 1)
    return _Dice(u[:, :4].reshape(-1, 2, 2), u[:, 4:5, None], signs[:, None, None])


def _corner(share, shape, side):
    """Row and column of a window's first pixel, each [B], as the official code draws
    them: in 0..length - side - 1, or 0."""
    room = jnp.array(shape[1:3])[None] - side
    row, column = jnp.floor(share * room).astype(jnp.int32).T
    return row, column


def _offsets(x, corner):
    """Of each pixel from the corner: [B, H, 1, 1], [B, 1, W, 1]."""
    rows, columns = (jnp.arange(length)[None] for length in x.shape[1:3])
    row, column = (first[:, None] for first in corner)
    return (rows - row)[:, :, None, None], (columns - column)[:, None, :, None]


def _window(x, corner, side):
    """[B, H, W, 1] bool: where the window is."""
    return functools.reduce(
        jnp.logical_and, ((d >= 0) & (d < side) for d in _offsets(x, corner))
    )


# --- L-infinity ----------------------------------------------------------------


def _start_linf(keys, x, eps, bounds):
    """Vertical stripes."""
    u = draw(jax.random.uniform, keys, (1, *x.shape[2:]))
    return clip(x + jnp.where(u < 0.5, -eps, eps), bounds)


def _query_linf(dice, i, best, x, eps, bounds):
    side = jnp.asarray(sides(*x.shape[1:3], odd=False))[i]
    window = _window(x, _corner(dice.corners[:, 0], x.shape, side), side)
    z = best + jnp.where(window, 2 * eps * dice.signs, 0)
    return clip(x + jnp.clip(z - x, -eps, eps), bounds)


# --- L2 ------------------------------------------------------------------------


def _pyramid(height, width):
    """[height, width]: 1/k² summed over nested rectangles about the centre."""
    result = np.zeros((height, width))
    row, column = height // 2, width // 2
    for k in range(max(row, column) + 1):
        rows = slice(max(row - k, 0), min(row + k + 1, height))
        columns = slice(max(column - k, 0), min(column + k + 1, width))
        result[rows, columns] += 1 / (k + 1) ** 2
    return result / max(np.linalg.norm(result), 1e-12)


@functools.cache
def bump(side: int) -> np.ndarray:
    """[side, side], of norm 1: a positive pyramid above a negative one."""
    half = side // 2
    result = np.concatenate([_pyramid(half, side), -_pyramid(side - half, side)])
    return result / np.linalg.norm(result)


def _norm(delta, mask=1.0):
    """Of each channel: [B, H, W, C] -> [B, 1, 1, C]."""
    return jnp.sqrt(jnp.sum((delta * mask) ** 2, axis=(1, 2), keepdims=True))


def _flip(u, a):
    """`a` [S, S] or its transpose, by chance: [B, S, S]."""
    return jnp.where(u < 0.5, a.T[None], a[None])


def _start_l2(keys, x, eps, bounds):
    """Bumps side by side, of a fifth of the image each."""
    _, height, width, channels = x.shape
    side = max(height // 5, 1)
    first = max(height - 5 * side, 0) // 2
    down, across = ((length - first) // side for length in (height, width))
    u = draw(jax.random.uniform, keys, (down, 1, across, 1, 1 + channels))
    tile = jnp.asarray(bump(side), x.dtype)[None, None, :, None, :, None]
    flipped = jnp.where(u[..., :1] < 0.5, jnp.swapaxes(tile, 2, 4), tile)
    tiles = flipped * jnp.where(u[..., 1:] < 0.5, -1, 1)
    tiles = tiles.reshape(len(x), down * side, across * side, channels)
    delta = jnp.zeros_like(x)
    rows, columns = (
        slice(first, first + down * side),
        slice(first, first + across * side),
    )
    return _on_sphere(x, delta.at[:, rows, columns].set(tiles), eps, bounds)


def _on_sphere(x, delta, eps, bounds):
    return clip(x + delta / (NORMS["l2"].size(delta) + 1e-12) * eps, bounds)


@functools.cache
def _bumps(height, width):
    """The sides that occur, decreasing, and their bumps [N, S, S], filled with 0."""
    occurring = np.unique(sides(height, width, odd=True))[::-1]
    table = np.zeros((len(occurring), occurring[0], occurring[0]))
    for n, side in enumerate(occurring):
        table[n, :side, :side] = bump(side)
    return occurring, table


def _place(bumps, corner, x, side):
    """bumps [B, S, S] at their corners: [B, H, W, 1]."""
    row, column = (jnp.clip(d, 0, bumps.shape[1] - 1) for d in _offsets(x, corner))
    row, column = row[:, :, 0, 0], column[:, 0, :, 0]
    placed = jax.vmap(lambda b, r, c: b[r][:, c])(bumps, row, column)
    return placed[..., None] * _window(x, corner, side)


def _query_l2(dice, i, best, x, eps, bounds):
    """The norm of two windows goes to one of them, with what is left of eps."""
    _, height, width, channels = x.shape
    occurring, table = _bumps(height, width)
    number = np.searchsorted(-occurring, -sides(height, width, odd=True))
    number = jnp.asarray(number)[i]
    side = jnp.asarray(occurring)[number]
    corners = [_corner(dice.corners[:, n], x.shape, side) for n in (0, 1)]
    here, there = (_window(x, corner, side) for corner in corners)
    delta = best - x

    new = _flip(dice.flip, jnp.asarray(table, x.dtype)[number])
    new = _place(new, corners[0], x, side) * dice.signs
    new = new + here * delta / (1e-12 + _norm(delta, here))
    unused = jnp.maximum(eps**2 - NORMS["l2"].size(delta) ** 2, 0) / channels
    length = jnp.sqrt(unused + _norm(delta, here | there) ** 2)
    new = new / (1e-12 + _norm(new)) * length
    delta = jnp.where(here, new, jnp.where(there, 0, delta))
    return _on_sphere(x, delta, eps, bounds)


# --- the search ----------------------------------------------------------------


class _Best(NamedTuple):
    x: jax.Array  # [B, H, W, C]
    margin: jax.Array  # [B], positive where it is wrong
    wrong: jax.Array  # [B] bool


def attack(keys, logits_fn, x, labels, targets, *, norm, eps, bounds) -> Found:
    """See `common`; untargeted."""
    del targets
    start, query = {
        "linf": (_start_linf, _query_linf),
        "l2": (_start_l2, _query_l2),
    }[norm]
    eps = jnp.asarray(eps, x.dtype)

    def body(carry):
        i, z, best = carry
        logits = logits_fn(z)
        margin, right = attack_margin(logits, labels, False), is_correct(logits, labels)
        better = ~best.wrong & (margin > best.margin)
        best = choose(better, _Best(z, margin, ~right), best)
        dice = _throw(fold(keys, i + 1), x.shape[-1])
        return i + 1, query(dice, i, best.x, x, eps, bounds), best

    def unfinished(carry):
        i, _, best = carry
        return (i <= NUM_QUERIES) & ~jnp.all(best.wrong)

    no = jnp.zeros(len(x), bool)
    none = _Best(x, jnp.full(len(x), -jnp.inf, x.dtype), no)
    first = start(fold(keys, 0), x, eps, bounds)
    _, _, best = lax.while_loop(unfinished, body, (0, first, none))
    return Found(choose(best.wrong, best.x, x), best.wrong, no, no)
