"""Every file of configs/: its values, and that its smoke variant does all of a run."""

import functools
import json

import golden_configs
import numpy as np
import pytest

from ebmjax import config, data, presets, runs, train, writers
from ebmjax.config_file import find_config, load_config
from ebmjax.eval import evaluate as evaluation

NAMES = golden_configs.NAMES
IMAGES = {  # height and width, channels, classes
    "cifar10": (32, 3, 10),
    "cifar100": (32, 3, 100),
    "svhn_cropped": (32, 3, 10),
    "fashion_mnist": (28, 1, 10),
    "digits": (8, 1, 10),
}


@functools.cache
def made_up(name):
    """A data set of that name's shape, whose class is its brightness."""
    size, channels, num_classes = IMAGES[name]

    def part(num, seed):
        rng = np.random.default_rng(seed)
        label = rng.permutation(num).astype(np.int32) % num_classes
        noise = rng.integers(0, 50, (num, size, size, channels))
        image = noise + (200 * label // num_classes).reshape(-1, 1, 1, 1)
        return data.Dataset(image.astype(np.uint8), label)

    names = tuple(map(str, range(num_classes)))
    parts = part(max(64, num_classes), 0), part(16, 1), part(36, 2)
    return data.Splits(*parts, names, outliers=part(64, 3))


@pytest.mark.parametrize("variant", presets.VARIANTS)
@pytest.mark.parametrize("name", NAMES)
def test_it_loads_and_its_values_can_work(name, variant):
    c = load_config(f"{name}:{variant}")
    config.check(c)
    assert c.data.name in IMAGES
    path, _ = find_config(name)
    assert f"--config=configs/{name}.py" in path.read_text()  # the command to type
    assert len(path.read_text().splitlines()) < 30


@pytest.mark.parametrize("name", ["default", *NAMES])
def test_its_values_are_those_of_the_golden_text(name):
    """After an intended change: python tests/golden_configs.py"""
    golden = golden_configs.GOLDEN / f"{name}.txt"
    assert golden_configs.text(name) == golden.read_text()


def test_every_golden_text_has_its_config():
    texts = golden_configs.GOLDEN.rglob("*.txt")
    found = {p.relative_to(golden_configs.GOLDEN).with_suffix("") for p in texts}
    assert {path.as_posix() for path in found} == {"default", *NAMES}


def distinct():
    """A config of each kind: one for those that differ in nothing but their data."""
    kinds = {}
    for name in NAMES:
        c = load_config(f"{name}:smoke")
        c.data.name, c.data.flip, c.eval.ood.sets = "", False, ()
        kinds[c.to_json()] = name
    return sorted(kinds.values())


@pytest.mark.slow
@pytest.mark.parametrize("name", distinct())
def test_its_smoke_variant_trains_goes_on_and_is_evaluated(name, tmp_path):
    c = load_config(f"{name}:smoke")
    splits = made_up(c.data.name)
    c.num_steps = 2
    train.fit(c, tmp_path, data=splits)
    c.num_steps = 4
    train.fit(c, tmp_path, data=splits)
    lines = list(writers.read(tmp_path / writers.METRICS))
    assert [x["step"] for x in lines if x["split"] == "train"] == [2, 4]
    assert all(np.isfinite(x["loss"]) for x in lines if x["split"] == "train")
    evaluation.evaluate(runs.load(tmp_path, data=splits), tasks=c.eval.tasks)
    results = json.loads((tmp_path / "eval.json").read_text())
    assert results["classification"]["num_images"] == 36
    assert results["run"]["step"] == 4
