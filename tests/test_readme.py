import pathlib
import re

import matplotlib
import numpy as np

ROOT = pathlib.Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
PYTHON = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_the_example_samples_the_mixture_that_it_shows(tmp_path, monkeypatch):
    matplotlib.use("Agg")
    monkeypatch.chdir(tmp_path)
    (block,) = (b for b in PYTHON if "sgld.sgld(" in b)
    names = {}
    exec(block, names)
    x, means = np.asarray(names["state"].position), np.asarray(names["means"])
    distance = np.linalg.norm(x[:, None] - means[None], axis=-1).min(axis=1)
    # Within two of a unit Gaussian's centre lie 1 - exp(-2) = 86 % of its mass.
    np.testing.assert_allclose(np.mean(distance < 2), 1 - np.exp(-2), atol=0.02)
    assert (tmp_path / "mixture.png").stat().st_size > 10_000


def test_every_file_that_it_names_is_there():
    linked = re.findall(r"\]\(([^)#:]+)\)|src=\"([^\"]+)\"", README)
    configs = re.findall(r"configs/\w+\.py", README)
    for path in [a or b for a, b in linked] + configs:
        assert (ROOT / path).exists(), path
