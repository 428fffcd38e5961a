import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import lax
from jax.sharding import PartitionSpec as P
from jax.test_util import check_grads

from ebmjax import kernels
from ebmjax.kernels import conv as conv_module
from ebmjax.kernels.conv import conv

# image, kernel, stride, padding
GEOMETRIES = [
    ((8, 8), 3, 1, 1),  # the Wide-ResNet's three: its 3x3 layers,
    ((8, 8), 3, 2, 1),
    ((8, 8), 1, 2, 0),  # and its shortcut
    ((7, 9), 3, 2, 1),
    ((7, 9), 1, 2, 0),
    ((5, 5), 5, 1, 0),  # one output pixel
    ((6, 5), 3, 1, 4),  # padding beyond the kernel
    ((9, 8), 4, 3, 2),
    ((8, 8), 2, 4, 0),  # pixels that no window covers
]
every_geometry = pytest.mark.parametrize("image, kernel, stride, padding", GEOMETRIES)


def reference(x, w, *, stride, padding):
    return lax.conv_general_dilated(
        x,
        w,
        (stride, stride),
        [(padding, padding)] * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def operands(image, kernel, dtype=np.float64, batch=2, channels=(3, 4)):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(batch, *image, channels[0]))
    w = rng.normal(size=(kernel, kernel, *channels)) / kernel
    return jnp.asarray(x, dtype), jnp.asarray(w, dtype)


def energy(conv, x, w):
    """Curved in both, so that no derivative is constant."""
    return jnp.sum(jnp.tanh(conv(x, w)), axis=(1, 2, 3))


def penalised(conv, x, w):
    """An energy and the norm of its gradient, as in the NG-EBM objective."""
    total = lambda x: energy(conv, x, w).sum()  # noqa: E731
    return total(x) + jnp.sqrt(jnp.sum(jax.grad(total)(x) ** 2))


def same(ours, theirs, rtol=1e-10):
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * np.abs(b).max())


def both(image, kernel, stride, padding, question, **kw):
    """The answers of `conv` and of XLA's convolution to the same question."""
    x, w = operands(image, kernel, **kw)
    for f in (conv, reference):
        f = functools.partial(f, stride=stride, padding=padding)
        yield jax.jit(functools.partial(question, f))(x, w)


@every_geometry
def test_value_and_gradients_are_those_of_xla(image, kernel, stride, padding):
    def question(f, x, w):
        total = lambda x, w: energy(f, x, w).sum()  # noqa: E731
        return f(x, w), jax.grad(total, (0, 1))(x, w)

    with jax.enable_x64(True):
        same(*both(image, kernel, stride, padding, question))


@every_geometry
def test_gradient_of_a_gradient_norm_is_that_of_xla(image, kernel, stride, padding):
    def question(f, x, w):
        return jax.grad(functools.partial(penalised, f), (0, 1))(x, w)

    with jax.enable_x64(True):
        same(*both(image, kernel, stride, padding, question))


@pytest.mark.parametrize("stride", [1, 2])
def test_second_order_in_every_mode_agrees_with_finite_differences(stride):
    def f(x, w):
        return energy(functools.partial(conv, stride=stride, padding=1), x, w)

    with jax.enable_x64(True):
        check_grads(f, operands((4, 5), 3), order=2, modes=("fwd", "rev"), rtol=1e-5)


@pytest.mark.parametrize("dtype, rtol", [("float32", 2e-6), ("bfloat16", 2e-2)])
@pytest.mark.parametrize("stride", [1, 2])
def test_float32_and_bfloat16_round_as_xla_does(dtype, rtol, stride):
    def question(f, x, w):
        y, vjp = jax.vjp(f, x, w)
        return y, vjp(jnp.ones_like(y))

    # 18 is not divisible by 4, so that none of this is Winograd's: see test_winograd.
    answers = both((18, 18), 3, stride, 1, question, dtype=dtype, channels=(16, 32))
    ours, theirs = answers
    assert ours[0].dtype == dtype
    same(*jax.tree.map(lambda a: a.astype("float32"), (ours, theirs)), rtol=rtol)


@pytest.mark.parametrize("axes", [(0, None), (None, 0), (2, 1)])
def test_vmap_of_values_and_gradients(axes):
    f = functools.partial(conv, stride=2, padding=1)

    def question(x, w):
        return f(x, w), jax.grad(functools.partial(penalised, f), (0, 1))(x, w)

    with jax.enable_x64(True):
        x, w = operands((6, 5), 3)
        x = jnp.stack([x, 2 * x, x + 1])
        w = jnp.stack([w, w - 1, 3 * w])
        one = jax.jit(question)
        alone = [
            one(x[0 if axes[0] is None else i], w[0 if axes[1] is None else i])
            for i in range(3)
        ]
        x = x[0] if axes[0] is None else jnp.moveaxis(x, 0, axes[0])
        w = w[0] if axes[1] is None else jnp.moveaxis(w, 0, axes[1])
        together = jax.jit(jax.vmap(question, in_axes=axes))(x, w)
        same(together, jax.tree.map(lambda *leaves: jnp.stack(leaves), *alone))


def test_loops_branches_and_rematerialisation():
    f = functools.partial(conv, stride=2, padding=1)

    def score(x, w):
        return jax.grad(lambda x: energy(f, x, w).sum())(x)

    def descend(x, w, loop):
        return jnp.sum(loop(lambda x: x - 0.1 * score(x, w), x) ** 2)

    def unrolled(body, x):
        return body(body(body(x)))

    def scan(body, x):
        return lax.scan(lambda x, _: (body(x), None), x, length=3)[0]

    def fori(body, x):
        return lax.fori_loop(0, 3, lambda _, x: body(x), x)

    def branch_and_remat(body, x):
        body = jax.checkpoint(body)
        return scan(lambda x: lax.cond(x.sum() > 1e9, lambda x: x, body, x), x)

    with jax.enable_x64(True):
        x, w = operands((6, 6), 3)
        expected = jax.grad(descend, (0, 1))(x, w, unrolled)
        for loop in (scan, fori, branch_and_remat):
            same(
                jax.jit(jax.grad(descend, (0, 1)), static_argnums=2)(x, w, loop),
                expected,
            )


@pytest.mark.parametrize("check_vma", [False, True])
@pytest.mark.parametrize("shape, batch, stride", [((6, 6), 4, 2), ((64, 64), 4, 1)])
def test_the_sum_over_devices_is_the_gradient_of_the_whole_batch(
    shape, batch, stride, check_vma, monkeypatch
):
    monkeypatch.setattr(conv_module, "CACHE", 100_000)  # several parts of a large one
    f = functools.partial(conv, stride=stride, padding=1)
    total = lambda w, x: energy(f, x, w).sum()  # noqa: E731

    def per_device(w, x):
        w = lax.pcast(w, "device", to="varying")
        return lax.psum(jax.grad(total)(w, x), "device")

    mesh = jax.make_mesh((2,), ("device",), axis_types=(jax.sharding.AxisType.Auto,))
    over_devices = jax.shard_map(
        per_device,
        mesh=mesh,
        in_specs=(P(), P("device")),
        out_specs=P(),
        check_vma=check_vma,
    )
    with jax.enable_x64(True):
        x, w = operands(shape, 3, batch=batch)
        same(jax.jit(over_devices)(w, x), jax.grad(total)(w, x))


def test_on_a_cpu_no_convolution_in_a_loop_has_a_layout_that_falls_to_naive_code():
    """XLA mends transposed kernels and dilated images outside of loops only."""

    def chain(f, x, w):
        score = jax.grad(lambda x: energy(f, x, w).sum())
        return lax.fori_loop(0, 3, lambda _, x: x - score(x), x)

    for stride in (1, 2):
        f = functools.partial(conv, stride=stride, padding=1)
        program = jax.jit(functools.partial(chain, f)).lower(
            *operands((8, 8), 3, "float32")
        )
        text = program.as_text()
        assert text.count("stablehlo.convolution") == 1 + stride**2
        assert text.count("[b, 0, 1, f]x[0, 1, i, o]->[b, 0, 1, f]") == 1 + stride**2
        assert "lhs_dilate = [1, 1]" in text or "lhs_dilate" not in text


def test_other_platforms_get_the_convolutions_of_xla():
    f = functools.partial(conv, stride=2, padding=1)
    total = lambda x, w: energy(f, x, w).sum()  # noqa: E731
    traced = jax.jit(jax.grad(total, (0, 1))).trace(*operands((8, 8), 3, "float32"))
    for platform in ("cuda", "tpu"):
        text = traced.lower(lowering_platforms=(platform,)).as_text()
        assert text.count("stablehlo.convolution") == 3
        assert "stablehlo.dot_general" not in text
        assert "lhs_dilate = [2, 2]" in text


@pytest.mark.parametrize("channels", [(32, 48), (3, 16), (16, 3), (16, 16)])
def test_every_formulation_for_a_cpu_is_the_same_convolution(channels):
    def question(f, x, w):
        total = lambda x, w: energy(f, x, w).sum()  # noqa: E731
        penalty = functools.partial(penalised, f)
        return f(x, w), jax.grad(total, (0, 1))(x, w), jax.grad(penalty, (0, 1))(x, w)

    with jax.enable_x64(True):
        same(*both((8, 8), 3, 1, 1, question, channels=channels))


@pytest.mark.parametrize(
    "image, channels, kernel",  # of the convolution that is run, [h, w, I, O]
    [
        (32, (3, 16), (3, 6, 3, 64)),  # four columns at once
        (32, (16, 16), (3, 4, 16, 32)),  # two
        (32, (16, 32), (3, 3, 16, 32)),  # one
        (32, (32, 32), None),  # Winograd's
        (18, (32, 32), (3, 3, 32, 32)),  # his tiles do not fit
    ],
)
def test_on_a_cpu_the_formulation_goes_by_shape(image, channels, kernel):
    f = functools.partial(conv, stride=1, padding=1)
    x, w = operands((image, image), 3, "float32", channels=channels)
    text = jax.jit(f).lower(x, w).as_text()
    if kernel is None:
        assert "stablehlo.convolution" not in text
    else:
        assert f"tensor<{'x'.join(map(str, kernel))}xf32>)" in text
    text = jax.jit(f).lower(x.astype("bfloat16"), w.astype("bfloat16")).as_text()
    assert "stablehlo.convolution" in text  # too coarse for Winograd


def test_operands_that_do_not_fit_are_refused():
    x, w = operands((4, 4), 3, "float32")
    with pytest.raises(ValueError, match="must have shapes \\[B, H, W, I\\]"):
        conv(x, w.swapaxes(2, 3))
    with pytest.raises(TypeError, match="bfloat16"):
        conv(x.astype("bfloat16"), w)
    with pytest.raises(ValueError, match="too large"):
        conv(x[:, :2], w)


# `lax.conv_general_dilated`, and Flax's layer with it

WRN_SHAPES = [  # image, kernel, stride, channels: those of WRN-28-1 on 32x32 images
    (32, 3, 1, (3, 16)),
    (32, 3, 2, (16, 32)),
    (32, 1, 2, (16, 32)),
    (16, 3, 1, (32, 32)),
    (8, 3, 1, (64, 64)),
]
NHWC = dict(dimension_numbers=("NHWC", "HWIO", "NHWC"))


def counts(fn, *args):
    """How many of ours and of XLA's convolutions a program has."""
    text = str(jax.make_jaxpr(fn)(*args))
    return text.count(" correlate["), text.count(" conv_general_dilated[")


@pytest.mark.parametrize("image, kernel, stride, channels", WRN_SHAPES)
def test_it_stands_in_for_that_of_lax(image, kernel, stride, channels):
    args = (stride, stride), [(kernel // 2, kernel // 2)] * 2

    def question(f, x, w):
        convolve = lambda x, w: f(x, w, *args, **NHWC)  # noqa: E731
        total = lambda x, w: energy(convolve, x, w).sum()  # noqa: E731
        penalty = functools.partial(penalised, convolve)
        return convolve(x, w), jax.grad(total, (0, 1))(x, w), jax.grad(penalty)(x, w)

    with jax.enable_x64(True):
        x, w = operands((image, image), kernel, channels=channels)
        ours, theirs = (
            jax.jit(functools.partial(question, f))(x, w)
            for f in (kernels.conv_general_dilated, lax.conv_general_dilated)
        )
        same(ours, theirs)
        ours = functools.partial(kernels.conv_general_dilated, **NHWC)
        assert counts(lambda x, w: ours(x, w, *args), x, w) == (1, 0)


@pytest.mark.parametrize(
    "strides, padding, options, is_ours",
    [
        ((1, 1), "SAME", {}, True),
        ((1, 1), "VALID", {}, True),
        ((2, 2), "SAME", {}, False),  # one more zero at the end
        ((1, 2), "VALID", {}, False),
        ((1, 1), [(1, 1), (0, 0)], {}, False),
        ((1, 1), [(-1, -1), (-1, -1)], {}, False),
        ((1, 1), "VALID", {"rhs_dilation": (2, 2)}, False),
        ((1, 1), [(1, 1), (1, 1)], {"lhs_dilation": (2, 1)}, False),
        ((1, 1), "VALID", {"feature_group_count": 2}, False),
        ((1, 1), "VALID", {"precision": "highest"}, False),
        ((1, 1), "VALID", {"preferred_element_type": jnp.float64}, False),
        ((1, 1), "VALID", {"dimension_numbers": ("NHWC", "OIHW", "NCHW")}, False),
    ],
)
def test_what_ours_cannot_do_is_done_by_lax(strides, padding, options, is_ours):
    with jax.enable_x64(True):
        x, w = operands((8, 8), 3, "float32", channels=(4, 6))
        if "feature_group_count" in options:
            w = w[:, :, :2]
        if "dimension_numbers" in options:
            w = w.transpose(3, 2, 0, 1)
        options = NHWC | options
        ours, theirs = (
            functools.partial(f, window_strides=strides, padding=padding, **options)
            for f in (kernels.conv_general_dilated, lax.conv_general_dilated)
        )
        same(ours(x, w), theirs(x, w), rtol=2e-6)
        assert counts(ours, x, w) == ((1, 0) if is_ours else (0, 1))


@pytest.mark.parametrize("image, kernel, stride, channels", WRN_SHAPES)
def test_flaxs_layer_computes_by_it(image, kernel, stride, channels):
    """To the bit, gradients too, and by the convolutions that are fast."""
    layer = nn.Conv(
        channels[1],
        (kernel, kernel),
        strides=stride,
        padding=kernel // 2,
        bias_init=nn.initializers.normal(),
        conv_general_dilated_cls=lambda: kernels.conv_general_dilated,
    )

    def by_hand(variables, x):
        w, b = variables["params"]["kernel"], variables["params"]["bias"]
        y = conv_module.conv(x, w, stride=stride, padding=kernel // 2)
        return y + b.reshape(1, 1, 1, -1)

    x, _ = operands((image, image), kernel, "float32", channels=channels)
    variables = layer.init(jax.random.key(0), x)

    def question(apply):
        total = lambda v, x: energy(lambda x, v: apply(v, x), x, v).sum()  # noqa: E731
        return jax.jit(apply)(variables, x), jax.jit(jax.grad(total, (0, 1)))(
            variables, x
        )

    jax.tree.map(
        np.testing.assert_array_equal, question(by_hand), question(layer.apply)
    )
    assert counts(layer.apply, variables, x) == counts(by_hand, variables, x)
