"""Convolution with a 3x3 kernel in a quarter of the multiplications.

Winograd's F(4x4, 3x3) (Lavin & Gray, 2016): four outputs of a correlation with three
taps are a bilinear form in six inputs and the taps, of rank 6 instead of 12,

    y = AT [(G w) * (BT d)]                                        (one dimension)

with constant matrices: polynomials of degree 3 and 2 are multiplied by their values
at 0, 1, -1, 2, -2 and infinity. Once along the height and once along the width makes
36 products for 4x4 outputs, where plain sums need 144. The products of all tiles and
channels are 36 matrix products; the rest is additions of slices. Its rounding is
some 10 to 20 times that of plain sums, 1e-5 at worst in float32: see its test.

The transforms want fast memory: the batch goes through it `TILES` tiles at a time.
"""

import jax
import jax.numpy as jnp
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
TILES = 256  # 32 channels of so many are 1.2 MB transformed, a core's own cache


def correlate(x: jax.Array, w: jax.Array) -> jax.Array:
    """Stride 1, one zero all around; H and W multiples of 4.

    x [B, H, W, I], w [3, 3, I, O] -> [B, H, W, O].
    """
    u = jnp.stack(_combine(G, [w[:, b] for b in range(3)]))  # [6, 3, I, O]
    u = jnp.stack(_combine(G, [u[:, a] for a in range(3)]), 1)
    u = u.reshape(36, *w.shape[2:])

    def some(x):
        images, height, width, _ = x.shape
        m = lax.dot_general(_windows(x), u, (((2,), (1,)), ((0,), (0,))))
        m = m.reshape(6, 6, images, height // 4, width // 4, -1)
        rows = jnp.stack(_combine(AT, m), 4)  # [6, images, H/4, W/4, 4, O]
        rows = rows.reshape(6, images, height // 4, width, -1)
        return jnp.stack(_combine(AT, rows), 2).reshape(images, height, width, -1)

    return in_parts(_images(x), some, x).reshape(*x.shape[:3], -1)


def weight_grad(x: jax.Array, g: jax.Array) -> jax.Array:
    """The transpose of `correlate` in w.

    x [B, H, W, I], g [B, H, W, O] -> [3, 3, I, O].
    """

    def some(x, g):
        return lax.dot_general(_windows(x), _tiles(g), (((1,), (1,)), ((0,), (0,))))

    m = in_parts(_images(x), some, x, g).sum(0).reshape(6, 6, x.shape[3], g.shape[3])
    m = jnp.stack(_combine(_transpose(G), m))  # [3, 6, I, O], the width's taps first
    return jnp.stack(_combine(_transpose(G), [m[:, k] for k in range(6)]))


def _combine(matrix, planes):
    """matrix @ planes, in additions: most entries are 0, 1 or -1."""

    def row(coefficients):
        terms = zip(coefficients, planes, strict=True)
        return sum(p if c == 1 else c * p for c, p in terms if c)

    return [row(coefficients) for coefficients in matrix]


def _transpose(matrix):
    return tuple(zip(*matrix, strict=True))


def _windows(x):
    """BT of every 6x6 window, one each 4 pixels.  [B, H, W, C] -> [36, B H W / 16, C].

    The six columns of all windows are those of the 4x4 tiles, and with them the last
    column of the tile before and the first of the tile after.
    """

    def six(x, axis):
        tiles = _in_fours(x, axis)
        inner = [lax.index_in_dim(tiles, k, axis + 1, False) for k in range(4)]
        return [_shift(inner[3], axis, 1), *inner, _shift(inner[0], axis, -1)]

    rows = jnp.stack(_combine(BT, six(x, 1)))  # [6, B, H/4, W, C]
    return jnp.stack(_combine(BT, six(rows, 3))).reshape(36, -1, x.shape[3])


def _tiles(g):
    """The transpose of AT of every 4x4 tile.  [B, H, W, C] -> [36, B H W / 16, C]."""

    def four(g, axis):
        tiles = _in_fours(g, axis)
        return [lax.index_in_dim(tiles, k, axis + 1, False) for k in range(4)]

    rows = jnp.stack(_combine(_transpose(AT), four(g, 1)))
    return jnp.stack(_combine(_transpose(AT), four(rows, 3))).reshape(
        36, -1, g.shape[3]
    )


def _in_fours(x, axis):
    return x.reshape(*x.shape[:axis], -1, 4, *x.shape[axis + 1 :])


def _shift(x, axis, by):
    """Entry i moves to i + by, zeros come in."""
    padding = [(by, -by, 0) if d == axis else (0, 0, 0) for d in range(x.ndim)]
    return lax.pad(x, jnp.zeros((), x.dtype), padding)


def _images(x):
    """How many have `TILES` tiles."""
    return TILES * 16 // (x.shape[1] * x.shape[2])


def in_parts(most: int, fn, *arrays: jax.Array) -> jax.Array:
    """fn(*arrays) on at most `most` images at a time, its results stacked."""
    count = len(arrays[0])
    size = max(n for n in range(1, max(most, 1) + 1) if count % n == 0)
    if size == count:
        return fn(*arrays)[None]
    parts = [x.reshape(count // size, size, *x.shape[1:]) for x in arrays]
    return lax.map(lambda parts: fn(*parts), parts)
