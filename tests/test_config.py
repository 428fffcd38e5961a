import math
import subprocess
import sys

import ml_collections
import pytest

from ebmjax import config, models, optim, parallel, presets
from ebmjax.eval import attacks
from ebmjax.eval import evaluate as evaluation
from ebmjax.keys import DECAYS, KEYS, MODELS, NORMS, OPTIMIZERS, TASKS, Key


def with_value(key, value):
    c = config.default()
    config.assign(c, key, value)
    return c


def test_the_defaults_are_within_their_bounds():
    config.check(config.default())
    assert config.flatten(config.default()) == {n: k.default for n, k in KEYS.items()}


@pytest.mark.parametrize("key", ["warmpu_steps", "nam"])
def test_a_misspelt_key_in_a_config_file_is_refused_at_once(key):
    c = config.default()
    nearest = {"warmpu_steps": "warmup_steps", "nam": "name"}[key]
    with pytest.raises(AttributeError, match=f'Did you mean "{nearest}"'):
        setattr(c.optimizer, key, 0)
    with pytest.raises(KeyError, match=f'Did you mean "{nearest}"'):
        c.optimizer.update({key: 0})


def test_a_misspelt_dotted_key_gets_the_nearest_one():
    with pytest.raises(ValueError, match="did you mean 'sgld.step_size'"):
        config.assign(config.default(), "sgld.stepsize", 0.1)
    with pytest.raises(ValueError, match="did you mean 'optimizer.warmup_steps'"):
        config.assign(config.default(), "warmup_step", 0.1)


def test_json_is_a_round_trip():
    c = config.default()
    c.optimizer.boundaries = (3, 5)
    c.model.features = ()
    again = config.from_json(config.to_json(c))
    assert config.changes(c, again) == {} and again.to_dict() == c.to_dict()


def test_json_of_an_older_version_gets_the_defaults_of_new_keys():
    assert config.from_json('{"seed": 3}').to_dict() == config.default().to_dict() | {
        "seed": 3
    }


@pytest.mark.parametrize(
    "text, message",
    [
        ('{"sead": 3}', "no key 'sead'; did you mean 'seed'"),
        ('{"sgld": 3}', "no key 'sgld'"),
        ('{"seed": "x"}', "config.seed must be an integer >= 0.*not 'x'"),
        ("[1]", "a config is a JSON object, not list"),
        ("{", "Expecting"),
    ],
)
def test_json_that_is_no_config_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        config.from_json(text)


def test_weights_of_a_users_terms_are_keys_and_survive_json():
    c = config.default(terms=("energy_square", "p_x"))
    assert c.objective.energy_square == 0.0
    assert config.flatten(c) == config.flatten(config.default()) | {
        "objective.energy_square": 0.0
    }
    c.objective.energy_square = 0.5
    config.check(c)
    assert config.from_json(config.to_json(c)).to_dict() == c.to_dict()
    c.objective.update(cross_entropy=0.0, energy_square=math.nan)
    with pytest.raises(ValueError, match="objective.energy_square must be a finite"):
        config.check(c)


def test_changes_name_what_differs_and_what_may_not():
    old, new = config.default(), config.default()
    new.model.width, new.num_steps = 2, 5
    assert config.changes(old, new) == {
        "model.width": (10, 2),
        "num_steps": (105_450, 5),
    }
    assert config.is_fixed("model.width") and not config.is_fixed("num_steps")
    assert config.is_fixed("seed") and not config.is_fixed("seeds")
    assert config.is_fixed("data.name") and not config.is_fixed("data.data_dir")


@pytest.mark.parametrize(
    "key, value, message",
    [
        ("model.norm", "bach", "did you mean 'batch'"),
        ("model.depth", 27, "depth must be 10, 16, 22, 28"),
        ("optimizer.name", "lamb", "'adam', 'adamw', 'sgd'"),
        ("batch_size", 0, "config.batch_size must be an integer >= 1, not 0"),
        ("sgld.reinit_prob", 1.5, "a finite number >= 0 and <= 1, not 1.5"),
        ("optimizer.ema_decay", 1.0, ">= 0 and < 1, not 1.0"),
        ("optimizer.b1", 1, ">= 0 and < 1, not 1.0"),
        ("data.test_fraction", 0.0, "> 0 and < 1, not 0.0"),
        ("data.noise_std", -0.1, "data.noise_std must be a finite number >= 0, not -0"),
        ("seed", -1, "seed must be an integer >= 0"),
        ("seed", 2**32, "<= 4294967295, not 4294967296"),  # jax.random: equal to 0
        ("model.features", (0,), "model.features must be a tuple of entries, each an"),
        ("model.features", (8.0,), r"an integer >= 1, not \(8.0,\)"),
        ("optimizer.boundaries", (5, 5), "a tuple of increasing entries"),
        ("optimizer.boundaries", (5, 3), "a tuple of increasing entries"),
        ("eval.attacks.norms", ("l2", "l2"), "a tuple of distinct entries"),
        ("objective.cross_entropy", 0.0, "no term with a weight"),
        ("eval.ema", True, "config.optimizer.ema_decay is 0"),
        ("eval.checkpoint", "first", "'last', 'best'"),
        ("eval.tasks", ("ood", "attack"), "did you mean 'attacks'"),
        ("parallel.method", "xmap", "'shard_map', 'pmap'"),
        ("seed", True, "seed must be an integer >= 0 and <= 4294967295, not True"),
        ("seed", None, "seed must be an integer .*, not None"),
    ],
)
def test_an_impossible_value_is_refused_by_its_key(key, value, message):
    c = config.default()
    config.assign(c, key, value)
    with pytest.raises(ValueError, match=message):
        config.check(c)


NUMBERS = [name for name, key in KEYS.items() if isinstance(key.default, float)]


@pytest.mark.parametrize("key", NUMBERS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_no_number_may_be_nan_or_infinite(key, value):
    with pytest.raises(ValueError, match=f"config.{key} must be a finite number"):
        config.check(with_value(key, value))
    with pytest.raises(ValueError, match="config.eval.attacks.eps_l2 must be a tuple"):
        config.check(with_value("eval.attacks.eps_l2", (value,)))


@pytest.mark.parametrize("key", KEYS)
def test_each_bound_of_each_key_is_kept(key):
    """The bound itself is allowed or not, and what lies beyond it never is."""
    k = KEYS[key]
    step = 1 if isinstance(k.default, int) or k.item is int else 1e-3
    if isinstance(k.default, tuple) and k.default:
        step = 1 if isinstance(k.default[0], int) else 1e-3

    def allowed(x):
        return k.allows((x,) if isinstance(k.default, tuple) else x)

    kind = type(step)
    for bound, inward, included in [
        (k.min, step, True),
        (k.max, -step, True),
        (k.above, step, False),
        (k.below, -step, False),
    ]:
        if bound is not None:
            assert allowed(kind(bound)) == included
            assert allowed(kind(bound + inward)) and not allowed(kind(bound - inward))


@pytest.mark.parametrize(
    "key, text, value",
    [
        ("seed", "3", 3),
        ("sgld.step_size", "1e-3", 1e-3),
        ("tensorboard", "False", False),
        ("data.name", "a b", "a b"),
        ("eval.ood.sets", "uniform,./photos", ("uniform", "./photos")),
        (
            "eval.ood.sets",
            "('uniform', \"svhn_cropped\",)",
            ("uniform", "svhn_cropped"),
        ),
        ("eval.tasks", "()", ()),
        ("eval.tasks", "", ()),
        ("optimizer.boundaries", "[3, 5]", (3, 5)),
        ("eval.attacks.eps_linf", "8", (8.0,)),
    ],
)
def test_a_value_is_read_as_it_is_typed(key, text, value):
    assert config.parse(key, text) == value
    assert type(config.parse(key, text)) is type(value)


@pytest.mark.parametrize(
    "key, text, message",
    [
        ("seed", "1.5", "config.seed must be an integer .* not '1.5'"),
        ("tensorboard", "yes", "config.tensorboard must be True or False, not 'yes'"),
        ("optimizer.boundaries", "3,x", "increasing entries, each an integer"),
        ("sgld.stepsize", "1", "no key 'sgld.stepsize'; did you mean 'sgld.step_size'"),
    ],
)
def test_a_text_that_is_no_value_is_refused(key, text, message):
    with pytest.raises(ValueError, match=message):
        config.parse(key, text)


def test_pmap_cannot_shard_the_state():
    c = config.default()
    c.parallel.fsdp, c.parallel.method = True, "pmap"
    with pytest.raises(ValueError, match="fsdp cannot be combined with .*'pmap'"):
        config.check(c)


def test_statistics_of_a_batch_cannot_be_accumulated():
    c = with_value("model.norm", "batch")
    config.check(c)
    c.optimizer.accumulation_steps = 2
    with pytest.raises(
        ValueError, match="accumulation_steps cannot .* config.model.norm"
    ):
        config.check(c)


def test_a_missing_key_and_an_unknown_one_are_named():
    c = config.default().unlock()
    del c.sgld["replace"]
    with pytest.raises(ValueError, match="config.sgld.replace is missing"):
        config.check(c)
    c = config.default().unlock()
    c.sgld.replaced = True
    with pytest.raises(ValueError, match="'sgld.replaced'; did you mean 'sgld.replace"):
        config.check(c)


def test_the_names_are_those_of_the_modules_that_read_them():
    """config imports none of them, for it is to be read without flax and optax."""
    assert NORMS == tuple(norm or "" for norm in models.NORMS)
    assert (OPTIMIZERS, DECAYS) == (optim.NAMES, optim.DECAYS)
    assert KEYS["parallel.method"].choices == tuple(parallel.METHODS)
    assert set(KEYS["eval.attacks.losses"].choices) == set(attacks.LOSSES)
    assert tuple(evaluation.TASKS) == TASKS


def test_reading_a_config_imports_no_jax():
    code = (
        "import sys; from ebmjax import config, presets; config.check(config.default())"
        "; print([m for m in ('jax', 'flax', 'optax', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_each_key_has_bounds_and_a_meaning():
    key = KEYS["sgld.reinit_prob"]
    assert (key.default, key.bounds) == (0.05, "a finite number >= 0 and <= 1")
    assert all(key.doc for key in KEYS.values())


def test_a_variant_scales_the_schedule_and_an_unknown_one_is_refused():
    c = config.default()
    c.num_steps, c.optimizer.boundaries = 100_000, (80_000, 90_000)
    c = presets.variant(c, "small")
    assert c.num_steps == 1_000 and tuple(c.optimizer.boundaries) == (800, 900)
    config.check(presets.variant(c, "smoke"))
    assert tuple(c.optimizer.boundaries) == (3,)  # of 4 steps, once and not twice
    with pytest.raises(ValueError, match="did you mean 'small'"):
        presets.variant(config.default(), "smal")


def test_values_are_plain():
    flat = config.flatten(config.default())
    assert all(isinstance(v, str | int | float | bool | tuple) for v in flat.values())
    assert isinstance(config.default(), ml_collections.ConfigDict)
    assert isinstance(KEYS["seed"], Key) and set(MODELS) == {
        *KEYS["model.name"].choices
    }
