"""Every task of the evaluation, on colour images of five classes, not square."""

import dataclasses
import io

import numpy as np
import pytest
import small_runs
from PIL import Image

from ebmjax import data, recipe
from ebmjax.eval import evaluate as evaluation
from ebmjax.eval.tasks import TASKS

SHAPE = (10, 12, 3)


def splits():
    rng = np.random.default_rng(0)
    means = rng.uniform(40, 215, (5, *SHAPE))

    def examples(num):
        label = np.arange(num, dtype=np.int32) % 5
        image = means[label] + rng.normal(0, 25, (num, *SHAPE))
        return data.Dataset(np.uint8(image.clip(0, 255)), label)

    return data.Splits(examples(60), examples(20), examples(30), tuple("abcde"))


def colour_run(workdir):
    c = small_runs.settings()
    c.eval.ood.update(refine_steps=1, num_fit=50, near=("gaussian",), far=("uniform",))
    c.eval.attacks.update(num_images=6, num_steps=2, distance_rounds=1, distal_steps=2)
    c.eval.attacks.update(refine_images=2, refine_copies=2, norms=("linf",))
    c.eval.attacks.update(eps_linf=(8.0,), losses=("margin",))
    c.eval.energies.update(num_images=6, num_steps=2)
    c.eval.counterfactuals.num_steps = 2
    c.eval.samples.update(num_chains=10, num_steps=2, num_reference=30)
    run = small_runs.untrained(recipe.network(c, 5), SHAPE)
    return dataclasses.replace(
        run, config=c, workdir=str(workdir), data=splits(), class_names=tuple("abcde")
    )


@pytest.mark.slow
def test_all_tasks(tmp_path):
    results = evaluation.evaluate(colour_run(tmp_path), tasks=TASKS)
    assert evaluation.failures(results) == {}
    assert not [name for name in TASKS if "skipped" in results[name]]
    for name in ("corruptions", "ood_examples", "counterfactuals", "chains", "distal"):
        content = (tmp_path / "eval" / f"{name}.png").read_bytes()
        assert Image.open(io.BytesIO(content)).mode == "RGB"
    text = (tmp_path / "report.html").read_text()
    assert "The section of" not in text and "the verdict failed" not in text
