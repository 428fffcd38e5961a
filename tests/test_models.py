import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from ebmjax import models

KEY = jax.random.key(0)
X = jax.random.uniform(KEY, (4, 8, 8, 3), minval=-1.0)


def num_parameters(params):
    return sum(x.size for x in jax.tree.leaves(params))


def test_wrn_28_10_has_the_parameters_of_the_official_one():
    net = models.network(models.WideResNet(28, 10, 10))
    shape = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    params, stats = jax.eval_shape(net.init, KEY, shape)

    def conv(size, c_in, c_out):
        return (size * size * c_in + 1) * c_out

    expected, c_in = conv(3, 3, 16), 16
    for c_out in (160, 320, 640):
        expected += conv(3, c_in, c_out) + conv(3, c_out, c_out) + conv(1, c_in, c_out)
        expected += 3 * 2 * conv(3, c_out, c_out)
        c_in = c_out
    expected += (640 + 1) * 10
    assert expected == 36_471_338  # what PyTorch counts in the official code
    assert num_parameters(params) == expected and stats == {}


@pytest.mark.parametrize("norm", models.NORMS)
def test_logits_do_not_depend_on_the_neighbours(norm):
    net = models.network(models.WideResNet(10, 1, 5, norm=norm))
    params, stats = net.init(KEY, X)
    logits = net.apply(params, stats, X)
    assert logits.shape == (4, 5)
    alone = net.apply(params, stats, X[2:3])
    np.testing.assert_allclose(alone[0], logits[2], rtol=1e-4, atol=1e-5)
    independent = models.examples_are_independent(net, X)
    assert independent == (norm != "batch")
    if independent:
        trained, _ = net.train(params, stats, X, KEY)
        np.testing.assert_allclose(trained, logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "module",
    [
        models.WideResNet(10, 1, 5),
        models.ConvNet(5, features=(4, 6)),
        models.MLP(5, features=(7,)),
    ],
    ids=lambda module: type(module).__name__,
)
def test_the_head_is_linear_in_the_features(module):
    net = models.network(module)
    params, stats = net.init(KEY, X)
    features = net.features(params, stats, X)
    head = params["head"]
    np.testing.assert_allclose(
        features @ head["kernel"] + head["bias"][None],
        net.apply(params, stats, X),
        rtol=1e-4,
        atol=1e-5,
    )


def test_weights_start_as_pytorch_starts_them():
    params, _ = models.network(models.WideResNet(10, 4, 10)).init(KEY, X)
    kernel = params["layer3_0"]["conv2"]["kernel"]
    bound = (9 * 256) ** -0.5  # U(-1/√fan_in, 1/√fan_in)
    assert 0.99 * bound < jnp.abs(kernel).max() <= bound
    np.testing.assert_allclose(kernel.std(), bound / 3**0.5, rtol=0.01)
    bias = params["layer3_0"]["conv2"]["bias"]
    assert 0.9 * bound < jnp.abs(bias).max() <= bound


def test_bfloat16_computes_in_it_but_keeps_parameters_and_logits_in_float32():
    exact = models.network(models.WideResNet(10, 1, 5))
    mixed = models.network(models.WideResNet(10, 1, 5, dtype=jnp.bfloat16))
    params, stats = mixed.init(KEY, X)
    assert {x.dtype for x in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    logits = mixed.apply(params, stats, X)
    assert logits.dtype == jnp.float32
    difference = np.abs(logits - exact.apply(params, stats, X)).max()
    # bfloat16 has 8 bits: away from 0 (it was used), but within a few per cent.
    assert 1e-5 < difference < 0.05


def test_dropout_acts_in_training_alone():
    net = models.network(models.WideResNet(10, 1, 5, dropout_rate=0.5))
    params, stats = net.init(KEY, X)
    first, _ = net.train(params, stats, X, jax.random.key(1))
    other, _ = net.train(params, stats, X, jax.random.key(2))
    assert np.abs(first - other).max() > 1e-3
    np.testing.assert_array_equal(
        net.apply(params, stats, X), net.apply(params, stats, X)
    )


def test_act_norm_whitens_the_first_batch():
    norm = models.Norm("act")
    x = 3.0 + 2.0 * jax.random.normal(KEY, (64, 4, 4, 5))
    y, _ = norm.init_with_output(KEY, x, False)
    np.testing.assert_allclose(y.mean(axis=(0, 1, 2)), 0, atol=1e-4)
    np.testing.assert_allclose(y.std(axis=(0, 1, 2)), 1, rtol=1e-2)


@pytest.mark.parametrize("depth", [8, 11, 29])
def test_a_depth_that_is_not_6n_plus_4_is_refused(depth):
    with pytest.raises(ValueError, match=f"not {depth}"):
        models.network(models.WideResNet(depth, 1, 5)).init(KEY, X)


def test_the_convnet_halves_twice_and_is_smooth():
    net = models.network(models.ConvNet(3, features=(4, 4, 4, 4)))
    params, stats = net.init(KEY, X)
    assert params["head"]["kernel"].shape == (2 * 2 * 4, 3)
    hessian = jax.hessian(lambda x: net.apply(params, stats, x)[0, 0])(X[:1])
    assert np.abs(hessian).max() > 0  # a ReLU network's is zero


class Plain(nn.Module):
    """A module of a user's: no `train`, no dropout, nothing sown."""

    @nn.compact
    def __call__(self, x):
        return nn.Dense(5)(x.reshape(len(x), -1))


class HiddenBatchNorm(nn.Module):
    """Batch statistics by the package's own layer, and no attribute that says so."""

    @nn.compact
    def __call__(self, x, train=False):
        x = models.Norm("batch")(x, train)
        return nn.Dense(5)(x.mean(axis=(1, 2)))


class FlaxNorms(nn.Module):
    group: bool

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.Conv(8, (3, 3))(x)
        norm = nn.GroupNorm(2) if self.group else nn.BatchNorm(not train)
        x = nn.Dropout(0.5, deterministic=not train)(norm(x))
        return nn.Dense(5)(x.mean(axis=(1, 2)))


@pytest.mark.parametrize(
    "module, independent, collections",
    [
        (Plain(), True, set()),
        (HiddenBatchNorm(), False, {"batch_stats"}),
        (FlaxNorms(group=False), False, {"batch_stats"}),
        (FlaxNorms(group=True), True, set()),
    ],
    ids=["plain", "hidden", "batch", "group"],
)
def test_any_module_is_a_network(module, independent, collections):
    net = models.network(module)
    params, model_state = net.init(KEY, X)
    assert set(model_state) == collections
    logits, after = net.train(params, model_state, X, KEY)
    assert logits.shape == net.features(params, model_state, X).shape == (4, 5)
    assert jax.tree.structure(after) == jax.tree.structure(model_state)
    changed = jax.tree.leaves(
        jax.tree.map(lambda a, b: (a != b).any(), after, model_state)
    )
    assert all(changed)
    assert models.examples_are_independent(net, X) is independent


def test_statistics_over_devices_are_noticed_too():
    module = models.WideResNet(10, 1, 5, norm="batch", axis_name="device")
    net = models.network(module)
    assert not models.examples_are_independent(net, X, axis_name="device")
