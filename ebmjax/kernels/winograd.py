"""Convolution with a 3x3 kernel in a quarter of the multiplications.

Winograd's F(4x4, 3x3) (Lavin & Gray, 2016): four outputs of a correlation with three
taps are a bilinear form in six inputs and the taps, of rank 6 instead of 12,

    y = AT [(G w) * (BT d)]                                        (one dimension)

with constant matrices: polynomials of degree 3 and 2 are multiplied through their
values at 0, 1, -1, 2, -2 and infinity. Applied along height and width this takes 36
products for 4x4 outputs, where plain sums take 144. The products of all tiles and
channels are 36 matrix products; the rest is additions of slices. The rounding error is
10 to 20 times that of plain sums, at most 1e-5 in float32 (see the tests).

The transforms are bound by memory: the batch is processed `TILES` tiles at a time.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

BT = (
    (4, 0, -5, 0, 1, 0),
    (0, -4, -4, 1, 1, 0),
    (0, 4, -4, -1, 1, 0),
    (0, -2, -1, 2, 1, 0),
    (0, 2, -1, -2, 1, 0),
    (0, 4, 0, -5, 0, 1),
)
G = (
    (1 / 4, 0, 0),
    (-1 / 6, -1 / 6, -1 / 6),
    (-1 / 6, 1 / 6, -1 / 6),
    (1 / 24, 1 / 12, 1 / 6),
    (1 / 24, -1 / 12, 1 / 6),
    (0, 0, 1),
)
AT = (
    (1, 1, 1, 1, 1, 0),
    (0, 1, -1, 2, -2, 0),
    (0, 1, 1, 4, 4, 0),
    (0, 1, -1, 8, -8, 1),
)
TILES = 128  # transformed tiles of 64 channels fill the cache of one core, 1.2 MB
FEW = 64  # up to so many channels `weight_grad` transposes the tiles


def correlate(x: jax.Array, w: jax.Array) -> jax.Array:
    """A convolution of stride 1 and padding 1; H and W are multiples of 4.

    x [B, H, W, I], w [3, 3, I, O] -> [B, H, W, O].
    """
    u = _taps(x.dtype) @ w.reshape(9, -1)
    u = u.reshape(36, *w.shape[2:])

    def some(x):
        images, height, width, _ = x.shape
        m = _products(_windows(x), u, (2, 1))
        m = m.reshape(6, 6, images, height // 4, width // 4, -1)
        rows = jnp.stack(_combine(AT, m), 4)  # [6, images, H/4, W/4, 4, O]
        rows = rows.reshape(6, images, height // 4, width, -1)
        return jnp.stack(_combine(AT, rows), 2).reshape(images, height, width, -1)

    return in_parts(_images(x), some, x).reshape(*x.shape[:3], -1)


def weight_grad(x: jax.Array, g: jax.Array) -> jax.Array:
    """The transpose of `correlate` with respect to w.

    x [B, H, W, I], g [B, H, W, O] -> [3, 3, I, O].
    """
    few = g.shape[3] <= FEW

    def some(x, g):
        if few:
            return _products(_tiles(g, across=True), _windows(x), (2, 1))
        return _products(_windows(x), _tiles(g), (1, 1))

    m = sum_of_parts(_images(x), some, x, g)
    if few:
        m = m.swapaxes(1, 2)
    dw = _taps(x.dtype).T @ m.reshape(36, -1)
    return dw.reshape(3, 3, x.shape[3], g.shape[3])


def _products(a, b, over):
    """36 matrix products, which sum over the axes `over` of a and b."""
    return lax.dot_general(a, b, (((over[0],), (over[1],)), ((0,), (0,))))


def _taps(dtype):
    """G along both axes: [36, 9], from a kernel's taps to those of the products."""
    return jnp.asarray(np.einsum("wb,ha->whab", G, G).reshape(36, 9), dtype)


def _combine(matrix, planes):
    """matrix @ planes, in additions: most entries are 0, 1 or -1."""

    def row(coefficients):
        terms = zip(coefficients, planes, strict=True)
        return sum(p if c == 1 else c * p for c, p in terms if c)

    return [row(coefficients) for coefficients in matrix]


def _transpose(matrix):
    return tuple(zip(*matrix, strict=True))


def _windows(x):
    """BT of the 6x6 windows at every 4th pixel.  [B, H, W, C] -> [36, B H W / 16, C].

    The six columns of all windows are those of the 4x4 tiles, and with them the last
    column of the tile before and the first of the tile after.
    """

    def six(x, axis):
        tiles = _in_fours(x, axis)
        inner = [lax.index_in_dim(tiles, k, axis + 1, False) for k in range(4)]
        return [_shift(inner[3], axis, 1), *inner, _shift(inner[0], axis, -1)]

    rows = jnp.stack(_combine(BT, six(x, 1)))  # [6, B, H/4, W, C]
    return jnp.stack(_combine(BT, six(rows, 3))).reshape(36, -1, x.shape[3])


def _tiles(g, across=False):
    """The transpose of AT of every 4x4 tile.  [B, H, W, C] -> [36, B H W / 16, C].

    With `across` [36, C, B H W / 16], for which XLA computes the products by YNNPACK.
    Otherwise it uses Eigen, which allocates memory in each product, and the threads of
    two devices wait for that. The copy pays for few channels, if g is copied and not
    its tiles: hence the barrier.
    """
    fours = _in_fours(_in_fours(g, 2), 1)  # [B, H/4, 4, W/4, 4, C]
    if across:
        fours = fours.transpose(2, 4, 5, 0, 1, 3).reshape(4, 4, g.shape[3], -1)
        fours = lax.optimization_barrier(fours)
    else:
        fours = fours.transpose(2, 4, 0, 1, 3, 5).reshape(4, 4, -1, g.shape[3])
    rows = jnp.stack(_combine(_transpose(AT), fours), 1)  # [4, 6, ...]
    both = jnp.stack(_combine(_transpose(AT), rows))
    return both.reshape(36, *fours.shape[2:])


def _in_fours(x, axis):
    return x.reshape(*x.shape[:axis], -1, 4, *x.shape[axis + 1 :])


def _shift(x, axis, by):
    """Moves entry i to i + by and fills with zeros."""
    padding = [(by, -by, 0) if d == axis else (0, 0, 0) for d in range(x.ndim)]
    return lax.pad(x, jnp.zeros((), x.dtype), padding)


def _images(x):
    """The number of images with `TILES` tiles."""
    return TILES * 16 // (x.shape[1] * x.shape[2])


def in_parts(most: int, fn, *arrays: jax.Array) -> jax.Array:
    """fn(*arrays) on at most `most` images at a time, the results stacked."""
    parts = _parts(most, arrays)
    if parts is None:
        return fn(*arrays)[None]
    return lax.map(lambda part: fn(*part), parts)


def sum_of_parts(most: int, fn, *arrays: jax.Array) -> jax.Array:
    """fn(*arrays), which is a sum over images, on at most `most` at a time.

    The parts are added one by one, at least in float32: the backend's sum of stacked
    parts can take longer than the parts.
    """
    parts = _parts(most, arrays)
    if parts is None:
        return fn(*arrays)

    def add(total, part):
        return total + fn(*part).astype(total.dtype), None

    some = jax.eval_shape(lambda *parts: fn(*(x[0] for x in parts)), *parts)
    dtype = jnp.promote_types(some.dtype, jnp.float32)
    zero = lax.full_like(arrays[0], 0, dtype, some.shape)  # varies over devices alike
    total, _ = lax.scan(add, zero, parts)
    return total.astype(some.dtype)


def _parts(most, arrays):
    """[B, ...] -> [N, B/N, ...] with B/N up to `most`; None if N is 1."""
    count = len(arrays[0])
    size = max(n for n in range(1, max(most, 1) + 1) if count % n == 0)
    if size == count:
        return None
    return [x.reshape(count // size, size, *x.shape[1:]) for x in arrays]
