import ast
import pathlib

import ml_collections
import pytest

from ebmjax import config

ROOT = pathlib.Path(__file__).parent.parent


def chain(node, aliases):
    """a.b.c as "a.b.c", a local name being what it was set to; "" for other things."""
    if isinstance(node, ast.Name):
        return aliases.get(node.id, node.id)
    if isinstance(node, ast.Attribute):
        return f"{chain(node.value, aliases)}.{node.attr}"
    return ""


def assignments(function):
    """(name, value) of every assignment, tuples taken apart."""
    for node in ast.walk(function):
        if isinstance(node, ast.Assign):
            target, value = node.targets[0], node.value
            if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
                yield from zip(target.elts, value.elts, strict=True)
            else:
                yield target, value


def reads(source):
    """Dotted names that a module reads, as they are from the config down."""
    for function in ast.walk(ast.parse(source)):
        if isinstance(function, ast.FunctionDef):
            aliases = {}
            for target, value in assignments(function):
                if isinstance(target, ast.Name) and "." in chain(value, aliases):
                    aliases[target.id] = chain(value, aliases)
            for node in ast.walk(function):
                if isinstance(node, ast.Attribute):
                    yield chain(node, aliases)


def test_every_key_is_read_somewhere():
    found = set()
    for path in (ROOT / "ebmjax").rglob("*.py"):
        if path.name != "config.py":
            found |= set(reads(path.read_text()))

    def is_read(key):
        *_, group, last = f"c.{key}".split(".")
        # Where a function is given a group, its keys are read without their group's
        # name: those must be told by a name that no other key has.
        names = [k.rpartition(".")[2] for k in keys]
        alone = names.count(last) == 1 and any(x.endswith(f".{last}") for x in found)
        return alone or any(x.endswith(f"{group}.{last}") for x in found)

    # The weights of the objective are read all at once, as keyword arguments.
    keys = [key for key in config.flatten(config.default()) if "objective." not in key]
    assert [key for key in keys if not is_read(key)] == []


def test_a_misspelt_key_is_told_the_nearest_one():
    with pytest.raises(KeyError, match="did you mean 'sgld.step_size'"):
        config.assign(config.default(), "sgld.stepsize", 0.1)


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


def test_json_with_an_unknown_key_is_refused():
    with pytest.raises(KeyError, match="no key 'sead'; did you mean 'seed'"):
        config.from_json('{"sead": 3}')


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
        ("batch_size", 0, "config.batch_size must be positive, not 0"),
        ("sgld.reinit_prob", 1.5, r"config.sgld.reinit_prob must be in \[0, 1\]"),
        ("optimizer.ema_decay", 1.0, r"must be in \[0, 1\), not 1.0"),
        ("data.noise_std", -0.1, "config.data.noise_std must not be negative: -0.1"),
        ("objective.cross_entropy", 0.0, "no term with a weight"),
        ("eval.ema", True, "config.optimizer.ema_decay is 0"),
        ("eval.checkpoint", "first", "'last', 'best'"),
        ("eval.parts", ("ood,attacks",), r"""eval.parts="\('ood', 'attacks'\)\""""),
        ("parallel.method", "xmap", "'shard_map', 'pmap'"),
    ],
)
def test_a_value_that_cannot_work_is_told_with_its_key(key, value, message):
    c = config.default()
    config.assign(c, key, value)
    with pytest.raises(ValueError, match=message):
        config.check(c)


def test_pmap_cannot_spread_the_state():
    c = config.default()
    c.parallel.fsdp, c.parallel.method = True, "pmap"
    with pytest.raises(ValueError, match="fsdp does not go with .*'pmap'"):
        config.check(c)


def test_a_variant_scales_the_schedule_and_an_unknown_one_is_refused():
    c = config.default()
    c.num_steps, c.optimizer.boundaries = 100_000, (80_000, 90_000)
    c = config.variant(c, "small")
    assert c.num_steps == 1_000 and tuple(c.optimizer.boundaries) == (800, 900)
    with pytest.raises(ValueError, match="did you mean 'small'"):
        config.variant(config.default(), "smal")


def test_values_are_plain():
    flat = config.flatten(config.default())
    assert all(isinstance(v, str | int | float | bool | tuple) for v in flat.values())
    assert isinstance(config.default(), ml_collections.ConfigDict)
