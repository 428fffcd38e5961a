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
            assert config.get(spec.config(small), key) == value
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
    report = common.Report(("a", "b"), [("1", "2")], {"some bars": b"png"}, "Note.")
    text = common.write(tmp_path / "new", "name", "Title.\n\nmore", report)
    assert text == (
        "# Title.\n\n| a | b |\n| --- | --- |\n| 1 | 2 |\n\nNote.\n"
        "\n![some bars](name-some_bars.png)\n"
    )
    assert (tmp_path / "new/name.md").read_text() == text
    assert (tmp_path / "new/name-some_bars.png").read_bytes() == b"png"


def test_a_missing_run_is_named(tmp_path):
    spec = common.Spec("jem", changes=(("seed", 3),))
    with pytest.raises(FileNotFoundError, match="jem_digits-seed=3 holds no finished"):
        common.result(spec, tmp_path, (), small=True, may_train=False)
    assert not list(tmp_path.iterdir())
