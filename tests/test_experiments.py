"""The experiments' own code: what they ask for, and what they make of the answers."""

import functools
import importlib
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ebmjax import config, energy, models
from experiments import common, ng_ebm_cost

FOLDER = pathlib.Path(common.__file__).parent
NAMES = sorted(path.stem for path in FOLDER.glob("[jn]*_*.py"))


@pytest.mark.parametrize("name", [n for n in NAMES if n != "ng_ebm_cost"])
@pytest.mark.parametrize("small", [False, True])
def test_every_run_has_a_config_and_a_directory_of_its_own(name, small):
    specs = importlib.import_module(f"experiments.{name}").specs(small)
    for spec in specs:
        config.check(spec.config(small))
        for key, value in spec.changes:
            assert config.flatten(spec.config(small))[key] == value
    names = {spec.name(small): config.to_json(spec.config(small)) for spec in specs}
    assert len(names) == len(specs)


def test_the_arithmetic_is_that_of_the_layers():
    """WRN-10-1 on 8x8 grey images, layer by layer, by hand."""
    # (pixels of the output, kernel, channels in and out)
    layers = [
        (64, 9, 1 * 16),
        (64, 9, 16 * 16),
        (64, 9, 16 * 16),
        (64, 9, 16 * 32),
        (16, 9, 32 * 32),
        (16, 1, 16 * 32),
        (16, 9, 32 * 64),
        (4, 9, 64 * 64),
        (4, 1, 32 * 64),
    ]
    forward = (
        2 * 5 * sum(pixels * kernel * channels for pixels, kernel, channels in layers)
    )
    model = models.WideResNet(10, 1, 3)
    x = jnp.zeros((5, 8, 8, 1))
    variables = jax.eval_shape(model.init, jax.random.key(0), x)

    def flops(fn):
        return ng_ebm_cost.convolution_flops(jax.make_jaxpr(fn)(variables, x).jaxpr)

    def energies(variables, x):
        return energy.from_logits(model.apply(variables, x))

    def total(variables, x):
        return energies(variables, x).sum()

    def chain(variables, x):
        def body(x, _):
            return x + energy.score(functools.partial(energies, variables), x), None

        return jax.lax.scan(body, x, length=7)[0]

    assert flops(energies) == forward
    # The first layer has no gradient to hand on.
    first = 2 * 5 * np.prod(layers[0])
    assert flops(jax.grad(total)) == 3 * forward - first
    assert flops(jax.jit(chain)) == 7 * 2 * forward


def test_a_table_is_markdown_with_its_pictures_beside(tmp_path):
    report = common.Report(
        ("a", "b"), [("1", "p(y | x)")], {"some bars": b"png"}, "Note."
    )
    text = common.write(tmp_path / "new", "name", "Title.\n\nmore", report)
    assert text == (
        "# Title.\n\n| a | b |\n| --- | --- |\n| 1 | p(y \\| x) |\n\nNote.\n"
        "\n![some bars](name-some_bars.png)\n"
    )
    assert (tmp_path / "new/name.md").read_text() == text
    assert (tmp_path / "new/name-some_bars.png").read_bytes() == b"png"


def test_a_missing_run_is_named(tmp_path):
    spec = common.Spec("jem", changes=(("seed", 3),))
    with pytest.raises(FileNotFoundError, match="jem_digits-seed=3 holds no finished"):
        common.result(spec, tmp_path, (), small=True, may_train=False)
    assert not list(tmp_path.iterdir())


BINS = {"counts": [3, 7], "confidence": [0.4, 0.9], "accuracy": [0.5, 0.8]}


def calibrated(ece, midpoint=0.05):
    trained = {"ece_20_bins": ece, "ng_ebm_midpoint_ece": midpoint, "reliability": BINS}
    numbers = {
        "run": {"data": "digits"},
        "classification": {"accuracy": 0.97, "nll": 0.1},
        "calibration": {"as_trained": trained, "temperature": {"ece": 0.01}},
    }
    return common.Result(numbers, pathlib.Path("nowhere"))


def test_calibration_stands_beside_the_papers():
    from experiments import jem_calibration

    specs = jem_calibration.specs(small=False)
    eces = {"classifier": 0.25, "jem": 0.05}
    found = jem_calibration.report({s: calibrated(eces[s.objective]) for s in specs})
    assert found.rows == [
        ("classifier", "97.0 %", "25.0 %", "22.32 %", "1.0 %"),
        ("JEM", "97.0 %", "5.0 %", "4.87 %", "1.0 %"),
    ]


def test_seeds_become_mean_spread_and_factor():
    from experiments import ng_ebm_calibration

    results = {}
    for spec in ng_ebm_calibration.specs(small=True):
        eces = {101: 0.10, 202: 0.12, 303: 0.11}
        ece = eces[dict(spec.changes)["seed"]]
        is_ng_ebm = spec.objective == "ng_ebm"
        results[spec] = calibrated(ece / 2 if is_ng_ebm else ece)
    classifier, ng_ebm = ng_ebm_calibration.report(results).rows
    spread = ("97.0 % ± 0.0", "11.0 % ± 1.0", "5.0 % ± 0.0")
    assert classifier == ("digits", "classifier", *spread, "", "", "")
    assert ng_ebm[3] == "5.5 % ± 0.5"
    assert ng_ebm[5:] == ("2.00", "1.00", "2.5")


def test_ood_sets_of_the_paper_keep_their_columns():
    from experiments import jem_ood

    scores = {name: {"auroc": 0.5} for name in jem_ood.SCORES}
    sets = {"interpolation": {"scores": scores}, "cifar100": {"error": "gone"}}
    numbers = {"ood": {"sets": sets, "noise_std": 0.03}}
    spec = common.Spec("jem")
    found = jem_ood.report({spec: common.Result(numbers, pathlib.Path("nowhere"))})
    columns = ("interpolation", "cifar100", "svhn_cropped", "celeb_a")
    assert found.columns[3:] == columns
    assert found.rows[0][2:] == ("here", "0.50", "not prepared", "", "")
    assert found.rows[1][2:] == ("paper", "0.65", "0.67", "0.67", "0.75")
