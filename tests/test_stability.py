"""`experiments.stability`: its configs, what it measures, and its table."""

import argparse
import json

import numpy as np
import pytest

from ebmjax import data
from experiments import stability

ARGS = argparse.Namespace(steps=20, data="cifar10", learning_rate=1e-3)


def noise():
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (100, 8, 8, 3), np.uint8)
    y = np.arange(100) % 10
    return data.from_arrays(x, y, x, y, num_valid=20)


@pytest.mark.parametrize("variant", stability.VARIANTS)
def test_a_variant_changes_its_keys_and_no_others(variant):
    plain, c = (
        stability.config_of(name, 3, ARGS).to_dict() for name in ("JEM", variant)
    )
    changed = {
        f"{group}.{key}": c[group][key]
        for group, keys in c.items()
        if isinstance(keys, dict)
        for key in keys
        if keys[key] != plain[group][key]
    }
    assert changed == stability.VARIANTS[variant]
    assert plain["optimizer"]["learning_rate"] == 1e-3 and plain["seed"] == 3


@pytest.mark.slow
def test_a_run_that_diverges_is_measured(tmp_path):
    c = stability.config_of("JEM", 0, ARGS)
    c.sgld.update(num_steps=2, buffer_size=100)
    c.every.checkpoint = 10
    good = stability.measured(tmp_path / "good", c, noise())
    assert (good["recoveries"], good["ended"], good["skipped"]) == (0, False, 0)
    assert 0 <= good["accuracy"] <= 1
    assert 0 < good["energy"] < 100 and good["x"] > 1
    c.optimizer.learning_rate = 1e9
    bad = stability.measured(tmp_path / "bad", c, noise())
    assert bad["recoveries"] == 3 and bad["ended"]
    assert bad["x"] is None
    json.dumps([good, bad], allow_nan=False)


def test_the_table():
    calm = {"recoveries": 0, "ended": False, "skipped": 0, "energy": 2.0, "x": 1.0}
    calm["accuracy"] = 0.25
    wild = {"recoveries": 3, "ended": True, "skipped": 0, "energy": 1e4, "x": None}
    wild["accuracy"] = 0.125
    once = {"recoveries": 1, "ended": False, "skipped": 7, "energy": 4.0, "x": 1.5}
    once["accuracy"] = 0.75
    *_, row = stability.table({"JEM": [calm, wild, once, calm]}).splitlines()
    assert row == ("| JEM | 4 | 50% | 25% | 25% | 41.7 | 3 (max 1e+04) | 1 (max 1.5) |")


def test_what_was_measured_is_not_measured_again(tmp_path, monkeypatch, capsys):
    calm = {"recoveries": 0, "ended": False, "skipped": 0, "energy": 2.0, "x": 1.0}
    calm["accuracy"] = 0.25
    file, measured = tmp_path / "stability.json", []
    before = {"jem-0": calm, "energy_l2-0": calm}
    setting = "learning rate 0.001, 2000 steps"
    file.write_text(json.dumps({setting: before, "other": {"jem-1": calm}}))
    monkeypatch.setattr(stability, "RESULTS", file)
    monkeypatch.setattr(stability.ebmjax.data, "load", lambda *_, **__: noise())

    def measure(workdir, c, splits):
        measured.append(workdir.name)
        return calm | {"skipped": c.seed}

    monkeypatch.setattr(stability, "measured", measure)
    args = ["", "--train", "--seeds=2", "--only=JEM,energy L2"]
    monkeypatch.setattr("sys.argv", args)
    stability.main()
    assert measured == ["jem-1-0.001-2000", "energy_l2-1-0.001-2000"]
    assert json.loads(file.read_text())[setting]["jem-1"]["skipped"] == 1
    monkeypatch.setattr("sys.argv", args[:1])
    stability.main()
    rows = capsys.readouterr().out.splitlines()[-2:]
    assert [row[:11] for row in rows] == ["| JEM | 2 |", "| energy L2"]
    assert len(measured) == 2
