"""Configs: the default values of `keys.KEYS`, their checks, and their JSON.

A config file changes the values of keys and never adds a key: `default()` is locked, so
that a misspelt key is an error at once. This module imports neither jax nor flax.
"""

import difflib
import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import ml_collections

from ebmjax.keys import KEYS, Key

if TYPE_CHECKING:
    Config = Any  # what a key holds has no static type
else:
    Config = ml_collections.ConfigDict

# Keys that a resumed run must not change, and those among them that it may.
FIXED = "seed batch_size data model objective sgld.class_conditional optimizer.name"
MOVABLE = ("data.data_dir", "data.resident_mib")
OBJECTIVE = "objective."
WEIGHT = Key(0.0, "weight of a term of the recipe")


def default(terms: Iterable[str] = ()) -> Config:
    """The default of every key, locked; the JEM paper's values wherever it has them.

    `terms` are the names of a recipe's own terms: each gets a weight
    `objective.NAME`, 0.0 at first.
    """
    c = ml_collections.ConfigDict()
    weights = {OBJECTIVE + name: WEIGHT for name in terms}
    for name, key in (weights | KEYS).items():
        *groups, last = name.split(".")
        group: Any = c
        for part in groups:
            if part not in group:
                group[part] = ml_collections.ConfigDict()
            group = group[part]
        group[last] = key.default
    return c.lock()


def check(c: Config) -> None:
    """Raises ValueError for the first value that cannot work, naming its key."""
    flat = flatten(c)
    for name, value in flat.items():
        key = _key(name)
        if not key.allows(value):
            raise ValueError(_refusal(name, key, value))
    for name in KEYS:
        if name not in flat:
            raise ValueError(
                f"config.{name} is missing; start from ebmjax.config.default()"
            )
    _check_combinations(c)


def _check_combinations(c):
    if c.model.name == "wide_resnet" and c.model.depth % 6 != 4:
        raise ValueError(
            f"config.model.depth must be 10, 16, 22, 28, ..., not {c.model.depth}"
        )
    if not any(c.objective.values()):
        raise ValueError(
            "config.objective has no term with a weight; set one, for instance"
            " config.objective.cross_entropy=1"
        )
    if c.optimizer.accumulation_steps > 1:
        if c.model.name == "wide_resnet" and c.model.norm == "batch":
            raise ValueError(
                "config.optimizer.accumulation_steps cannot be combined with"
                " config.model.norm='batch', a statistic of the whole batch; use"
                " config.model.remat to save memory"
            )
    if c.parallel.fsdp and c.parallel.method == "pmap":
        raise ValueError(
            "config.parallel.fsdp cannot be combined with"
            " config.parallel.method='pmap', which cannot shard an array; use"
            " 'shard_map'"
        )
    if c.eval.ema and not c.optimizer.ema_decay:
        raise ValueError(
            "config.eval.ema needs averaged parameters, but"
            " config.optimizer.ema_decay is 0, which keeps none"
        )
    _check_attacks(c.eval.attacks)


def _check_attacks(c):
    for norm in ("linf", "l2"):
        if c[f"autoattack_eps_{norm}"] and norm not in c.norms:
            raise ValueError(
                f"config.eval.attacks.autoattack_eps_{norm} is set, but"
                f" config.eval.attacks.norms is {tuple(c.norms)}; add {norm!r}"
            )
    if c.autoattack_refined and not (c.refine_images and len(c.refine_steps)):
        raise ValueError(
            "config.eval.attacks.autoattack_refined has no classifier to attack; set"
            " config.eval.attacks.refine_images and refine_steps"
        )
    if c.autoattack_eps_linf or c.autoattack_eps_l2:
        return
    remedy = "set config.eval.attacks.autoattack_eps_linf or autoattack_eps_l2"
    if c.judge:
        raise ValueError(
            f"config.eval.attacks.judge={c.judge!r} has nothing to judge; {remedy}"
        )
    if c.autoattack_refined:
        raise ValueError(f"config.eval.attacks.autoattack_refined has no eps; {remedy}")


def assign(c: Config, key: str, value: Any) -> None:
    """Sets a dotted key.

    Raises ValueError if there is no such key, naming the nearest one, and if the value
    is of another type.
    """
    known = flatten(c)
    if key not in known:
        raise ValueError(f"config has no key {key!r}{nearest(key, known)}")
    *groups, last = key.split(".")
    group: Any = c
    for part in groups:
        group = group[part]
    try:
        group[last] = value
    except TypeError as error:
        raise ValueError(_refusal(key, _key(key), value)) from error


def flatten(c: Config) -> dict[str, Any]:
    """{"seed": 0, ..., "data.name": "cifar10", ...}."""
    flat = {}
    for key, value in c.items():
        if isinstance(value, ml_collections.ConfigDict):
            flat |= {f"{key}.{k}": v for k, v in flatten(value).items()}
        else:
            flat[key] = value
    return flat


def to_json(c: Config) -> str:
    return json.dumps(c.to_dict(), indent=2) + "\n"


def from_json(text: str) -> Config:
    """The config that `to_json` wrote.

    Missing keys get their defaults, so that a newer version reads an older run.
    Unknown weights `objective.NAME` are kept, for they belong to the terms of a
    recipe. Raises ValueError for any other unknown key, and for text that is not
    the JSON of a config.
    """
    values = json.loads(text)
    if not isinstance(values, dict):
        raise ValueError(f"a config is a JSON object, not {type(values).__name__}")
    flat = flatten(ml_collections.ConfigDict(values))
    c = default(
        name.removeprefix(OBJECTIVE) for name in flat if name.startswith(OBJECTIVE)
    )
    for key, value in flat.items():
        assign(c, key, tuple(value) if isinstance(value, list) else value)
    return c


def changes(old: Config, new: Config) -> dict:
    """{key: (old, new)} of all keys that differ."""
    before, after = flatten(old), flatten(new)
    return {k: (before.get(k), v) for k, v in after.items() if before.get(k) != v}


def is_fixed(key: str) -> bool:
    """Whether a resumed run must have the value of this key with which it began."""
    return key not in MOVABLE and any(
        key == fixed or key.startswith(fixed + ".") for fixed in FIXED.split()
    )


def parse(name: str, text: str) -> Any:
    """The value of a key as a command line writes it: "3", "true", "a,b", "(1, 2)".

    Raises ValueError if there is no such key, or if it has values of another type.
    """
    key = _key(name)
    try:
        return key.parse(text)
    except ValueError as error:
        raise ValueError(_refusal(name, key, text)) from error


def nearest(name: str, names: Iterable[str]) -> str:
    """The hint "; did you mean 'seed'?", or "" if there are no names.

    The last part of a dotted name counts as well: 'stepsize' is near 'sgld.step_size'.
    """
    by_text = {n.rpartition(".")[2]: n for n in names} | {n: n for n in names}
    near = difflib.get_close_matches(name, by_text, n=1, cutoff=0)
    return f"; did you mean {by_text[near[0]]!r}?" if near else ""


def _key(name):
    """The `Key` of a name, which may be the weight of a recipe's own term."""
    if name not in KEYS and not name.startswith(OBJECTIVE):
        raise ValueError(f"config has no key {name!r}{nearest(name, KEYS)}")
    return KEYS.get(name, WEIGHT)


def _refusal(name, key, value):
    entries = value if isinstance(value, tuple | list) else (value,)
    unknown = [x for x in entries if isinstance(x, str) and x not in key.choices]
    hint = nearest(unknown[0], key.choices) if unknown else ""
    return f"config.{name} must be {key.bounds}, not {value!r}{hint}"
