"""What `fit` takes beside a config: recipes, arrays, writers; and what `load` needs."""

import functools

import jax
import numpy as np
import optax
import pytest
from flax import linen as nn

import ebmjax
from ebmjax import config, data, models, objectives, recipe, sgld


def tiny_config(**changes):
    c = config.default()
    c.update(num_steps=2, batch_size=16, tensorboard=False)
    c.data.update(name="digits", num_valid=40, pad=0, flip=False)
    c.model.update(name="mlp", features=(4,))
    c.sgld.update(num_steps=2, buffer_size=64)
    c.every.update(log=1, checkpoint=2, samples=2)
    for key, value in changes.items():
        config.assign(c, key.replace("__", "."), value)
    return c


def vectors(num=60, num_classes=3):
    rng = np.random.default_rng(0)
    label = np.arange(num) % num_classes
    x = 100 + 5 * label[:, None] + rng.normal(size=(num, 4))
    return data.from_arrays(x, label, x, label, num_valid=6)


class Linear(nn.Module):
    """A module without `train`."""

    @nn.compact
    def __call__(self, x):
        return nn.Dense(10)(x.reshape(len(x), -1))


def test_a_recipe_keeps_what_is_given_and_takes_the_rest_from_the_config():
    optimizer = optax.sgd(0.1)
    full = recipe.complete(
        recipe.Recipe(network=Linear(), optimizer=optimizer), tiny_config(), 10
    )
    assert isinstance(full.network, models.Network)
    assert full.optimizer is optimizer and full.terms == objectives.TERMS
    assert full.sampler.keywords["step_size"] == tiny_config().sgld.step_size
    assert full.gradient is None
    with_sam = recipe.from_config(tiny_config(optimizer__sam_rho=0.1), 10)
    assert callable(with_sam.gradient)


def test_every_term_with_a_weight_in_the_config_is_there():
    assert set(config.default().objective) == set(objectives.TERMS)


def test_a_statistic_of_the_whole_batch_does_not_accumulate():
    for name in ("energy_variance", "mean_energy_l2"):
        c = tiny_config(optimizer__accumulation_steps=2)
        c.objective[name] = 1.0
        with pytest.raises(ValueError, match=f"accumulation_steps cannot .*{name}"):
            recipe.settings(c, 10)


def test_arrays_are_trained_on_and_come_back_with_the_run(tmp_path):
    splits = vectors()
    c = tiny_config(objective__p_x=1.0)
    run = ebmjax.fit(c, tmp_path, data=splits)
    assert run.image_shape == (4,) and run.num_classes == 3
    x = run.to_float(splits.train.image)
    np.testing.assert_allclose(x.mean(axis=0), 0, atol=1e-5)
    loaded = ebmjax.load(tmp_path)
    np.testing.assert_array_equal(
        loaded.logits(splits.test.image), run.logits(splits.test.image)
    )
    sample = loaded.sample(jax.random.key(0), n=8, steps=2)
    assert np.all(np.abs(sample - 105) < 60)  # in the units of the data
    with pytest.raises(ValueError, match="arrays that were given to fit"):
        loaded.splits()
    assert ebmjax.load(tmp_path, data=splits).splits() is splits


def test_images_are_not_cropped_if_they_are_vectors(tmp_path):
    with pytest.raises(ValueError, match="config.data.pad and config.data.flip"):
        ebmjax.fit(tiny_config(data__pad=1), tmp_path / "run", data=vectors())
    assert not (tmp_path / "run").exists()


def test_a_run_of_an_own_network_is_read_with_that_network(tmp_path):
    own = recipe.Recipe(network=Linear())
    run = ebmjax.fit(tiny_config(), tmp_path, recipe=own)
    with pytest.raises(ValueError, match="trained with network of a recipe"):
        ebmjax.load(tmp_path)
    with pytest.raises(ValueError, match="trained with network of a recipe"):
        ebmjax.fit(tiny_config(num_steps=3), tmp_path, recipe=recipe.Recipe(tasks={}))
    again = ebmjax.load(tmp_path, recipe=own)
    x = run.splits().test.image[:4]
    np.testing.assert_array_equal(again.logits(x), run.logits(x))
    other = recipe.Recipe(network=models.MLP(10, features=(7,)))
    with pytest.raises(ValueError, match="another network: .* is (missing|unknown)"):
        ebmjax.load(tmp_path, recipe=other)


def test_a_resumed_run_needs_all_of_its_code_again(tmp_path):
    own = recipe.Recipe(augment=lambda key, x: x)
    ebmjax.fit(tiny_config(), tmp_path, recipe=own)
    with pytest.raises(ValueError, match="trained with augment of a recipe"):
        ebmjax.fit(tiny_config(num_steps=3), tmp_path)
    assert ebmjax.load(tmp_path).step == 2  # which evaluation does not need
    assert ebmjax.fit(tiny_config(num_steps=3), tmp_path, recipe=own).step == 3


def test_a_run_is_not_resumed_on_other_data(tmp_path):
    ebmjax.fit(tiny_config(), tmp_path, data=vectors())
    longer = tiny_config(num_steps=3)
    with pytest.raises(ValueError, match="trained on other data: class_names was"):
        ebmjax.fit(longer, tmp_path)
    other = vectors()
    other.train.image[0] += 1
    scaling = other.scaling
    with pytest.raises(ValueError, match="trained on other data: data_checksum was"):
        ebmjax.fit(longer, tmp_path, data=other._replace(scaling=scaling))
    assert ebmjax.fit(longer, tmp_path, data=vectors()).step == 3


def test_data_that_have_changed_are_not_evaluated(tmp_path):
    run = ebmjax.fit(tiny_config(), tmp_path)
    with pytest.raises(ValueError, match="have changed since training: their classes"):
        ebmjax.load(run.workdir, data=vectors()).splits()


def test_batch_statistics_do_not_accumulate_whoever_says_so(tmp_path):
    module = models.WideResNet(10, 1, 10, norm="batch", axis_name="device")
    c = tiny_config(optimizer__accumulation_steps=2)
    for per_example in (False, None):
        own = recipe.Recipe(network=models.network(module, per_example=per_example))
        with pytest.raises(ValueError, match="network that takes batch statistics"):
            ebmjax.fit(c, tmp_path / "run", recipe=own)


def test_an_own_optimizer_does_not_see_parts_of_the_parameters(tmp_path):
    c = tiny_config(parallel__fsdp=True, model__features=(256, 256))
    own = recipe.Recipe(optimizer=optax.adam(1e-3))
    with pytest.raises(ValueError, match="fsdp cannot be combined with an optimizer"):
        ebmjax.fit(c, tmp_path / "run", recipe=own)


def test_a_term_needs_a_weight():
    own = recipe.Recipe(terms={"mine": ebmjax.Term(sum, ("data",))})
    terms = recipe.complete(own, tiny_config(), 10).terms
    with pytest.raises(ValueError, match="term 'mine' has no weight: make the config"):
        recipe.settings(tiny_config(), 10, terms)


def test_a_second_sample_does_not_compile(tmp_path):
    traces = []

    def counting(energy_fn, **numbers):
        traces.append(1)
        return sgld.sgld(energy_fn, **numbers)

    sampler = functools.partial(counting, step_size=1.0, noise_std=0.01)
    own = recipe.Recipe(sampler=sampler)
    run = ebmjax.fit(tiny_config(objective__p_x=1.0), tmp_path, recipe=own)
    labels = np.arange(10) % 10
    draw = functools.partial(run.sample, n=10)
    first = draw(jax.random.key(0), steps=3, labels=labels)
    once = len(traces)
    again = draw(jax.random.key(0), steps=3, labels=labels)
    draw(jax.random.key(1), steps=5, labels=labels[::-1])
    assert len(traces) == once
    np.testing.assert_array_equal(first, again)
    draw(jax.random.key(0), steps=3)  # on p(x): another program
    assert len(traces) == once + 1
    draw(jax.random.key(2), steps=3)
    assert len(traces) == once + 1


def test_a_second_map_of_a_function_does_not_compile(tmp_path):
    traces = []

    def energies(model, key, x):
        traces.append(1)
        return model.energy(x)

    run = ebmjax.fit(tiny_config(), tmp_path)
    x = run.to_float(run.splits().test.image[:20])
    np.testing.assert_array_equal(run.map(energies, x), run.map(energies, x))
    assert len(traces) == 1
    np.testing.assert_allclose(run.map(energies, x), run.energy(x), rtol=1e-5)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(n=2, labels=[0, 10]), "labels lie in 0..10, expected 0..9"),
        (dict(n=2, labels=[-1, 0]), "labels lie in -1..0, expected 0..9"),
        (dict(n=2, labels=[0]), "labels must be 2 integers"),
        (dict(n=2, labels=[0.5, 1.0]), "labels must be 2 integers"),
        (dict(n=0), "n must be an integer >= 1, not 0"),
        (dict(n=2, start=np.zeros((2, 4, 4, 1))), "start must be"),
        (dict(n=2, start=np.zeros((1, 8, 8, 1))), "start must be"),
    ],
)
def test_samples_that_cannot_be_drawn(arguments, message, trained):
    with pytest.raises(ValueError, match=message):
        trained.sample(jax.random.key(0), steps=1, **arguments)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return ebmjax.fit(tiny_config(), tmp_path_factory.mktemp("run"))


class Broken(ebmjax.Writer):
    def write(self, step, split, metrics):
        raise RuntimeError("no connection")


class Partial:
    """Not a subclass, and without most methods."""

    def __init__(self):
        self.steps = []

    def write(self, step, split, metrics):
        self.steps.append((step, split))


def test_own_writers_see_everything_and_their_failures_do_not_end_the_run(
    tmp_path, caplog
):
    partial = Partial()
    run = ebmjax.fit(tiny_config(), tmp_path, writers=[Broken(), partial])
    assert run.step == 2
    assert partial.steps == [(1, "train"), (2, "train"), (2, "valid")]
    rewound = []
    partial.rewind = rewound.append
    ebmjax.fit(tiny_config(num_steps=3), tmp_path, writers=[partial])
    assert rewound == [2]
    assert "writer Broken.write failed: no connection" in caplog.text


def test_public_names_are_there():
    for name in ebmjax.__all__:
        getattr(ebmjax, name)
    with pytest.raises(AttributeError, match="no attribute 'sgdl'"):
        ebmjax.sgdl  # noqa: B018
