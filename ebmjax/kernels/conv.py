"""Two-dimensional convolution, with gradients that the backend does well.

A convolution is one trilinear form: the sum of x · w · g over every pixel g of its
output.  Leave out one of the three, and what remains is one operation of training:

    y  = correlate(x, w)        the layer
    dx = input_grad(g, w)       what a change of the output asks of the image
    dw = weight_grad(x, g)      and of the kernel

Each is bilinear, and its derivatives are the other two.  So the three are closed
under differentiation, to any order and in both modes, and each needs to be written
well only once.  They are primitives because only a primitive may be linear for
reverse mode and still have code of its own; `custom_vjp` would forbid forward mode.

On GPU and TPU the three are XLA's own.  On a CPU XLA emits dx with a transposed
kernel layout, which falls to naive loops inside `scan`, `fori_loop` and `cond`
(6 times slower than outside), and dw with a window as large as the image (2 to 14
times slower than PyTorch).  Here dx is an ordinary convolution and dw a matrix
product; where channels are many both, and y, are Winograd's, and where they are few
several columns are made at once.  Each is chosen by shape, as `benchmarks` found.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from ebmjax.kernels import winograd


def conv(x: jax.Array, w: jax.Array, *, stride: int = 1, padding: int = 0) -> jax.Array:
    """Cross-correlation, padded with `padding` zeros on both sides (as PyTorch).

    x [B, H, W, I], w [h, w, I, O] -> [B, H', W', O].
    """
    if x.ndim != 4 or w.ndim != 4 or x.shape[3] != w.shape[2]:
        raise ValueError(f"not [B, H, W, I] and [h, w, I, O]: {x.shape} and {w.shape}")
    if x.dtype != w.dtype:
        raise TypeError(f"x and w differ in type: {x.dtype} and {w.dtype}")
    geometry = Geometry(stride, padding, x.shape[1:3], w.shape[:2])
    if min(geometry.output) < 1:
        raise ValueError(f"kernel {w.shape} too large for x {x.shape}, {padding=}")
    return correlate.bind(*_varying_alike(x, w), geometry=geometry)


class Geometry(NamedTuple):
    stride: int
    padding: int
    image: tuple[int, int]  # H, W
    kernel: tuple[int, int]  # h, w

    @property
    def output(self) -> tuple[int, int]:  # H', W'
        sizes = zip(self.image, self.kernel, strict=True)
        return tuple((n + 2 * self.padding - k) // self.stride + 1 for n, k in sizes)


def _varying_alike(x, w):
    """Under `shard_map`, what devices share becomes each one's own, as in `jnp`."""
    over = [jax.typeof(operand).manual_axis_type.varying for operand in (x, w)]
    missing = [tuple((over[0] | over[1]) - axes) for axes in over]
    return (
        lax.pcast(operand, axes, to="varying") if axes else operand
        for operand, axes in zip((x, w), missing, strict=True)
    )


# --- XLA's own -----------------------------------------------------------------------


def _conv(x, w, strides, padding):
    return lax.conv_general_dilated(
        x, w, strides, padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def xla_correlate(x, w, *, geometry):
    strides = (geometry.stride, geometry.stride)
    return _conv(x, w, strides, [(geometry.padding, geometry.padding)] * 2)


def xla_input_grad(g, w, *, geometry):
    correlate = functools.partial(xla_correlate, w=w, geometry=geometry)
    x = jax.ShapeDtypeStruct((g.shape[0], *geometry.image, w.shape[2]), g.dtype)
    return jax.linear_transpose(correlate, x)(g)[0]


def xla_weight_grad(x, g, *, geometry):
    correlate = functools.partial(xla_correlate, x, geometry=geometry)
    w = jax.ShapeDtypeStruct((*geometry.kernel, x.shape[3], g.shape[3]), g.dtype)
    return jax.linear_transpose(correlate, w)(g)[0]


# --- For a CPU -----------------------------------------------------------------------


def cpu_correlate(x, w, *, geometry):
    if geometry.stride != 1:
        return xla_correlate(x, w, geometry=geometry)
    return _cpu_conv(x, w, [(geometry.padding, geometry.padding)] * 2)


def cpu_input_grad(g, w, *, geometry):
    """Stride-1 convolutions of g, one for each phase of the stride, interleaved.

    Image rows u = i, i + s, i + 2s, ... meet the same kernel rows, a = i + p mod s:
    on them dx is the convolution of g with those rows, flipped.  So it is along the
    width.  Stride 1 has one phase, and dx is one convolution.
    """
    s = geometry.stride

    def taps(i, axis):
        """The first kernel row of phase i, and the padding of g that it needs."""
        p, k = geometry.padding, geometry.kernel[axis]
        skip, first = divmod(i + p, s)
        low = len(range(first, k, s)) - 1 - skip
        return first, (
            low,
            -(-geometry.image[axis] // s) - geometry.output[axis] + skip,
        )

    def phase(i, j):
        (a, rows), (b, cols) = taps(i, 0), taps(j, 1)
        kernel = jnp.flip(w[a::s, b::s], (0, 1)).swapaxes(2, 3)
        if kernel.size == 0:  # no kernel row comes here: a window below the stride
            return jnp.zeros((g.shape[0], *half, w.shape[2]), g.dtype)
        return _cpu_conv(g, kernel, [rows, cols])

    half = tuple(-(-n // s) for n in geometry.image)
    dx = jnp.stack([jnp.stack([phase(i, j) for j in range(s)], 3) for i in range(s)], 2)
    dx = dx.reshape(g.shape[0], half[0] * s, half[1] * s, w.shape[2])
    return dx[:, : geometry.image[0], : geometry.image[1]]


def cpu_weight_grad(x, g, *, geometry):
    """One matrix product over all pixels, of g and the windows of x.

    The larger matrix comes second, as the backend's blocks would have it; and the
    windows of a few images at a time, which a core's own cache holds.
    """
    (h, w), (rows, cols), s = geometry.kernel, geometry.output, geometry.stride
    p, inputs = geometry.padding, x.shape[3]
    if s == 1 and _winograd_fits(x, g, (h, w), [(p, p)] * 2, channels=16):
        return winograd.weight_grad(x, g)

    def some(x, g):
        x = jnp.pad(x, ((0, 0), (p, p), (p, p), (0, 0)))
        across = [x[:, :, b : b + s * (cols - 1) + 1 : s] for b in range(w)]
        across = jnp.concatenate(across, axis=3)
        window = [across[:, a : a + s * (rows - 1) + 1 : s] for a in range(h)]
        over_pixels = (((0, 1, 2), (0, 1, 2)), ((), ()))
        return lax.dot_general(g, jnp.concatenate(window, axis=3), over_pixels)

    images = CACHE // (4 * rows * cols * h * w * inputs)
    dw = winograd.sum_of_parts(images, some, x, g)
    return jnp.moveaxis(dw.reshape(g.shape[3], h, w, inputs), 0, 3)


def _cpu_conv(x, w, padding):
    """At stride 1, in the way that is fastest for this shape."""
    if _winograd_fits(x, w, w.shape[:2], padding, channels=32):
        return winograd.correlate(x, w)
    return _conv_in_columns(x, w, padding)


def _winograd_fits(x, other, kernel, padding, *, channels):
    """Does it apply, and do inputs and outputs have so many channels?"""
    return (
        kernel == (3, 3)
        and padding == [(1, 1), (1, 1)]
        and x.shape[1] % 4 == x.shape[2] % 4 == 0
        and min(x.shape[3], other.shape[3]) >= channels
        and x.dtype in (jnp.float32, jnp.float64)
    )


def _conv_in_columns(x, w, padding):
    """A convolution that makes several columns of its output at once.

    With few channels the backend spends its time between pixels, each of which
    takes at least as long as `OVERHEAD` operations.  So n neighbours become one
    pixel of n O channels, in a convolution of stride n along the width whose kernel
    holds n copies of w, each shifted by one: more operations, less time.
    """
    kh, kw, inputs, outputs = w.shape
    width = x.shape[2] + sum(padding[1]) - kw + 1

    def cost(n):  # a vector holds 16 numbers
        operations = 2 * kh * (kw + n - 1) * inputs * -(-n * outputs // 16) * 16
        return max(OVERHEAD, operations) / n

    n = min((n for n in (1, 2, 4, 8) if width % n == 0), key=cost)
    if n == 1 or kw == 1:
        return _conv(x, w, (1, 1), padding)
    shifted = [jnp.pad(w, ((0, 0), (i, n - 1 - i), (0, 0), (0, 0))) for i in range(n)]
    y = _conv(x, jnp.concatenate(shifted, axis=3), (1, n), padding)
    return y.reshape(*y.shape[:2], width, outputs)


OVERHEAD = 8_000  # operations, of what XLA's YNNPACK does between two pixels
CACHE = 1_200_000  # bytes: a core's own


# --- The three primitives ------------------------------------------------------------


def _primitive(name, result_shape, xla, cpu, batch_axes):
    """A bilinear operation: its shape, its code, and its rule for `vmap`.

    `batch_axes` names, for each operand, an axis that it passes on to the result, and
    where: a batch of that operand alone is folded into that axis.
    """
    primitive = Primitive(name)

    @functools.cache
    def compiled(geometry):
        return jax.jit(functools.partial(primitive.bind, geometry=geometry))

    def batch(operands, axes, *, geometry):
        if None in axes:
            i = 1 if axes[0] is None else 0
            into, out = batch_axes[i]
            operand = jnp.moveaxis(operands[i], axes[i], into)
            size, shape = operand.shape[into], list(operand.shape)
            shape[into : into + 2] = [-1]
            folded = (*operands[:i], operand.reshape(shape), *operands[i + 1 :])
            result = primitive.bind(*folded, geometry=geometry)
            shape = (*result.shape[:out], size, -1, *result.shape[out + 1 :])
            return result.reshape(shape), out
        # Grouped convolutions are slow nearly everywhere: one after the other.
        operands = tuple(map(jnp.moveaxis, operands, axes, (0, 0)))
        return lax.map(lambda ab: primitive.bind(*ab, geometry=geometry), operands), 0

    primitive.def_impl(lambda a, b, *, geometry: compiled(geometry)(a, b))
    primitive.def_abstract_eval(
        lambda a, b, *, geometry: a.update(shape=result_shape(a, b, geometry))
    )
    mlir.register_lowering(primitive, mlir.lower_fun(xla, multiple_results=False))
    mlir.register_lowering(
        primitive, mlir.lower_fun(cpu, multiple_results=False), platform="cpu"
    )
    batching.primitive_batchers[primitive] = batch
    return primitive


correlate = _primitive(
    "correlate",
    lambda x, w, geometry: (x.shape[0], *geometry.output, w.shape[3]),
    xla_correlate,
    cpu_correlate,
    batch_axes=((0, 0), (3, 3)),
)
input_grad = _primitive(
    "input_grad",
    lambda g, w, geometry: (g.shape[0], *geometry.image, w.shape[2]),
    xla_input_grad,
    cpu_input_grad,
    batch_axes=((0, 0), (2, 3)),
)
weight_grad = _primitive(
    "weight_grad",
    lambda x, g, geometry: (*geometry.kernel, x.shape[3], g.shape[3]),
    xla_weight_grad,
    cpu_weight_grad,
    batch_axes=((3, 2), (3, 3)),
)

# The transpose of each in each operand, given the other and the result's cotangent.
ad.defbilinear(
    correlate,
    lambda g, x, w, **kw: input_grad.bind(g, w, **kw),
    lambda g, x, w, **kw: weight_grad.bind(x, g, **kw),
)
ad.defbilinear(
    input_grad,
    lambda x, g, w, **kw: correlate.bind(x, w, **kw),
    lambda x, g, w, **kw: weight_grad.bind(x, g, **kw),
)
ad.defbilinear(
    weight_grad,
    lambda w, x, g, **kw: input_grad.bind(g, w, **kw),
    lambda w, x, g, **kw: correlate.bind(x, w, **kw),
)
