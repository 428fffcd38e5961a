"""Every file of configs/: it loads, and its smoke variant does all that a run does."""

import functools
import importlib.util
import json
import pathlib

import numpy as np
import pytest

from ebmjax import config, data, recipe, runs, train, writers
from ebmjax.eval import evaluate as evaluation

FOLDER = pathlib.Path(__file__).parent.parent / "configs"
NAMES = sorted(str(path.relative_to(FOLDER)) for path in FOLDER.rglob("*.py"))
IMAGES = {  # height and width, channels, classes
    "cifar10": (32, 3, 10),
    "cifar100": (32, 3, 100),
    "svhn_cropped": (32, 3, 10),
    "fashion_mnist": (28, 1, 10),
    "digits": (8, 1, 10),
}


def get_config(name, variant):
    spec = importlib.util.spec_from_file_location("some_config", FOLDER / name)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module, module.get_config(variant)


@functools.cache
def made_up(name):
    """A data set of that name's shape, whose class is its brightness."""
    size, channels, num_classes = IMAGES[name]

    def part(num, seed):
        rng = np.random.default_rng(seed)
        label = rng.integers(0, num_classes, num).astype(np.int32)
        noise = rng.integers(0, 50, (num, size, size, channels))
        image = noise + (200 * label // num_classes).reshape(-1, 1, 1, 1)
        return data.Dataset(image.astype(np.uint8), label)

    names = tuple(map(str, range(num_classes)))
    return data.Splits(part(64, 0), part(16, 1), part(36, 2), names)


@pytest.mark.parametrize("variant", config.VARIANTS)
@pytest.mark.parametrize("name", NAMES)
def test_it_loads_and_its_values_can_work(name, variant):
    module, c = get_config(name, variant)
    config.check(c)
    assert c.data.name in IMAGES
    assert f"--config=configs/{name}" in module.__doc__  # the command to type


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_its_smoke_variant_trains_goes_on_and_is_evaluated(name, tmp_path, monkeypatch):
    _, c = get_config(name, "smoke")
    monkeypatch.setattr(recipe, "splits", lambda c: made_up(c.data.name))
    c.num_steps = 2
    train.fit(c, str(tmp_path))
    c.num_steps = 4
    train.fit(c, str(tmp_path))
    lines = list(writers.read(tmp_path / writers.METRICS))
    assert [x["step"] for x in lines if x["split"] == "train"] == [2, 4]
    assert all(np.isfinite(x["loss"]) for x in lines if x["split"] == "train")
    evaluation.evaluate(runs.load(tmp_path), tasks=c.eval.tasks)
    results = json.loads((tmp_path / "eval.json").read_text())
    assert results["classification"]["num_images"] == 36
    assert results["run"]["step"] == 4
