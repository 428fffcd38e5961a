"""Two-dimensional convolution with gradients that are fast on a CPU.

A convolution is one trilinear form: the sum of x * w * g over every pixel g of its
output. Leaving out one of the three gives the three operations of training:

    y  = correlate(x, w)        the layer
    dx = input_grad(g, w)       the gradient with respect to the image
    dw = weight_grad(x, g)      the gradient with respect to the kernel

Each is bilinear, and its derivatives are the other two. So the three are closed under
differentiation, to any order and in both modes, and each needs only one good
implementation. They are primitives because only a primitive can be linear for reverse
mode and have an implementation of its own; `custom_vjp` would rule out forward mode.

On GPU and TPU the three are XLA's own. On a CPU XLA emits dx with a transposed kernel
layout, which inside `scan`, `fori_loop` and `cond` is computed by naive loops (6 times
slower than outside), and dw with a window as large as the image (2 to 14 times slower
than PyTorch). Here dx is an ordinary convolution and dw a matrix product; for many
channels both, and y, use Winograd's algorithm, and for few channels several columns are
computed at once. The shape decides, by measurements of `benchmarks`.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from ebmjax.kernels import winograd

LAYOUT = ("NHWC", "HWIO", "NHWC")
OVERHEAD = 8_000  # operations that XLA's YNNPACK spends between two pixels
CACHE = 1_200_000  # bytes of the cache of one core


def conv(x: jax.Array, w: jax.Array, *, stride: int = 1, padding: int = 0) -> jax.Array:
    """Cross-correlation, padded with `padding` zeros on both sides (as PyTorch).

    x [B, H, W, I], w [h, w, I, O] -> [B, H', W', O]. Raises ValueError for shapes that
    do not fit, TypeError for different dtypes.
    """
    if x.ndim != 4 or w.ndim != 4 or x.shape[3] != w.shape[2]:
        raise ValueError(
            "x and w must have shapes [B, H, W, I] and [h, w, I, O], got"
            f" {x.shape} and {w.shape}"
        )
    if x.dtype != w.dtype:
        raise TypeError(f"x and w must have one dtype, got {x.dtype} and {w.dtype}")
    geometry = Geometry(stride, padding, x.shape[1:3], w.shape[:2])
    if min(geometry.output) < 1:
        raise ValueError(
            f"a kernel of shape {w.shape} is too large for x of shape {x.shape} with"
            f" padding {padding}"
        )
    if not all(isinstance(size, int) for size in x.shape):
        # A batch of any size (`jax.export`), where the shape cannot decide.
        return xla_correlate(x, w, geometry=geometry)
    return correlate.bind(*_varying_alike(x, w), geometry=geometry)


def conv_general_dilated(
    lhs: jax.Array,
    rhs: jax.Array,
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: Any = None,
    **options: Any,
) -> jax.Array:
    """`lax.conv_general_dilated`, computed by `conv` where that can.

    That is for NHWC images and HWIO kernels with one stride, the same padding on all
    sides, and neither dilation nor groups nor a precision of their own. For Flax::

        nn.Conv(..., conv_general_dilated_cls=lambda: conv_general_dilated)
    """
    pads = padding
    if isinstance(padding, str) and lhs.ndim == 4:
        sizes = lhs.shape[1:3], rhs.shape[:2]
        pads = lax.padtype_to_pads(*sizes, window_strides, padding)
    is_plain = (
        lhs.ndim == 4
        and lax.conv_dimension_numbers(lhs.shape, rhs.shape, dimension_numbers)
        == lax.conv_dimension_numbers(lhs.shape, rhs.shape, LAYOUT)
        and len({*window_strides}) == 1
        and len({side for sides in pads for side in sides}) == 1
        and pads[0][0] >= 0
        and {*(lhs_dilation or (1,)), *(rhs_dilation or (1,))} == {1}
        and all(x in (None, 1) for x in options.values())  # groups, precision
        and lhs.dtype == rhs.dtype
    )
    if is_plain:
        return conv(lhs, rhs, stride=window_strides[0], padding=pads[0][0])
    return lax.conv_general_dilated(
        lhs,
        rhs,
        window_strides,
        padding,
        lhs_dilation,
        rhs_dilation,
        dimension_numbers,
        **options,
    )


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
    """Under `shard_map`, makes both operands vary over the same axes, as `jnp` does."""
    over = [jax.typeof(operand).manual_axis_type.varying for operand in (x, w)]
    missing = [tuple((over[0] | over[1]) - axes) for axes in over]
    return (
        lax.pcast(operand, axes, to="varying") if axes else operand
        for operand, axes in zip((x, w), missing, strict=True)
    )


# --- XLA's own -----------------------------------------------------------------------


def _conv(x, w, strides, padding):
    return lax.conv_general_dilated(x, w, strides, padding, dimension_numbers=LAYOUT)


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

    Image rows u = i, i + s, i + 2s, ... meet the same kernel rows, a = i + p mod s: on
    them dx is the convolution of g with those rows, flipped. The same holds along the
    width. Stride 1 has one phase, so that dx is one convolution.
    """
    s = geometry.stride

    def taps(i, axis):
        """The first kernel row of phase i, and the padding of g for it."""
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
        if kernel.size == 0:  # the window is smaller than the stride
            return jnp.zeros((g.shape[0], *half, w.shape[2]), g.dtype)
        return _cpu_conv(g, kernel, [rows, cols])

    half = tuple(-(-n // s) for n in geometry.image)
    dx = jnp.stack([jnp.stack([phase(i, j) for j in range(s)], 3) for i in range(s)], 2)
    dx = dx.reshape(g.shape[0], half[0] * s, half[1] * s, w.shape[2])
    return dx[:, : geometry.image[0], : geometry.image[1]]


def cpu_weight_grad(x, g, *, geometry):
    """One matrix product over all pixels, of g and the windows of x.

    The larger matrix comes second, which suits the blocks of the backend. The windows
    are of as many images at a time as fit into the cache of one core.
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
    """At stride 1, by the implementation that is fastest for this shape."""
    if _winograd_fits(x, w, w.shape[:2], padding, channels=32):
        return winograd.correlate(x, w)
    return _conv_in_columns(x, w, padding)


def _winograd_fits(x, other, kernel, padding, *, channels):
    """Does the algorithm apply, and are there at least `channels` on both sides?"""
    return (
        kernel == (3, 3)
        and padding == [(1, 1), (1, 1)]
        and x.shape[1] % 4 == x.shape[2] % 4 == 0
        and min(x.shape[3], other.shape[3]) >= channels
        and x.dtype in (jnp.float32, jnp.float64)
    )


def _conv_in_columns(x, w, padding):
    """A convolution that computes several columns of its output at once.

    For few channels the backend spends most of the time between pixels: each takes at
    least as long as `OVERHEAD` operations. So n neighbours become one pixel of n O
    channels, in a convolution of stride n along the width whose kernel holds n copies
    of w, each shifted by one: more operations in less time.
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


# --- The three primitives ------------------------------------------------------------


def _primitive(name, result_shape, xla, cpu, batch_axes):
    """A bilinear operation: its shape, its implementations, and its rule for `vmap`.

    `batch_axes` has for each operand an axis that is also one of the result, and which:
    a batch of that operand alone is folded into that axis.
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
        # One after the other: grouped convolutions are slow nearly everywhere.
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
