"""What the README shows is run, and its numbers are those of committed results."""

import json
import pathlib
import re
import statistics

import matplotlib
import numpy as np
import pytest
import sklearn.datasets
from PIL import Image

import ebmjax
from ebmjax.config_file import find_config
from experiments import digits, photograph_tables, photographs, stability

ROOT = pathlib.Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
PYTHON = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
RESULTS = json.loads(digits.RESULTS.read_text())


def block(text):
    """The one block of Python with this text in it."""
    (result,) = (block for block in PYTHON if text in block)
    return result


def test_the_example_samples_the_mixture_that_it_shows(tmp_path, monkeypatch):
    matplotlib.use("Agg")
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(block("sgld.sgld("), names)
    x, means = np.asarray(names["state"].position), np.asarray(names["means"])
    distance = np.linalg.norm(x[:, None] - means[None], axis=-1).min(axis=1)
    # Within two of a unit Gaussian's centre lie 1 - exp(-2) = 86 % of its mass.
    np.testing.assert_allclose(np.mean(distance < 2), 1 - np.exp(-2), atol=0.02)
    assert (tmp_path / "mixture.png").stat().st_size > 10_000


@pytest.mark.slow
def test_images_in_a_folder_are_trained_on_and_read_back(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    x, y = sklearn.datasets.load_digits(return_X_y=True)
    for i, (image, label) in enumerate(zip(x[:600], y, strict=False)):
        path = tmp_path / "photos" / f"class_{label}" / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.rint(image.reshape(8, 8) * (255 / 16)).astype(np.uint8)
        Image.fromarray(pixels).save(path)
    source = block('"photos/"').replace("2_000", "2")
    source = source.replace("ebmjax.evaluate(run, progress=True)", "")
    source += "c.batch_size\n"
    names = {}
    exec(source.replace("image_size=32", "image_size=8"), names)
    assert names["run"].step == 2 and names["run"].num_classes == 10
    library = block("runs/jem_digits").replace("runs/jem_digits", "runs/photos")
    exec(library.replace("steps=200", "steps=1").replace("n=100", "n=4"), names)


def test_a_term_of_ones_own():
    names = {"ebmjax": ebmjax}
    exec(block("def get_recipe"), names)
    c = names["get_config"]()
    c.objective.penalty = 0.5
    recipe = ebmjax.recipe.complete(names["get_recipe"](c), c, 10)
    settings = ebmjax.recipe.settings(c, 10, recipe.terms)
    assert settings.objective.weights == {"cross_entropy": 1.0, "penalty": 0.5}
    assert settings.objective.needs == {"labels", "input_grad"}


def test_every_file_that_it_names_is_there():
    linked = re.findall(r"\]\(([^)#:]+)\)|src=\"([^\"]+)\"", README)
    configs = re.findall(r"configs/\w+\.py", README)
    for path in [a or b for a, b in linked] + configs:
        assert (ROOT / path).exists(), path
    for name in set(re.findall(r"--config=([\w/.:-]+)", README)) - {"FILE"}:
        assert find_config(name)


@pytest.mark.parametrize("dataset", photographs.DATASETS)
def test_its_tables_are_those_of_the_committed_results(dataset):
    results = photograph_tables.read_results(photographs.RESULTS / dataset)
    assert photograph_tables.table(results, photograph_tables.HEADLINE) in README


OOD, ECE = ("ood", "mean"), ("classification", "ece")
LOG_P = (*OOD, "log_density", "auroc")
MASS = (*OOD, "approximate_mass", "auroc")
SETS = ("ood", "sets")
# A sentence, with a group for each number, and (method, path in eval.json) of each.
QUOTED = {
    r"log p\(x\) is (\S+) for the classifier, (\S+) for NG-EBM .*? and (\S+) at 0.01": [
        (method, *LOG_P) for method in ("classifier", "ng_ebm", "ng_ebm_0.01")
    ],
    r"difference is notMNIST \((\S+), (\S+) and (\S+)\);": [
        (method, *SETS, "notmnist.npz", "scores", "log_density", "auroc")
        for method in ("classifier", "ng_ebm", "ng_ebm_0.01")
    ],
    r"mass, reaches (\S+) at weights of 1 and is at chance \((\S+)\) at 0.01": [
        ("ng_ebm", *MASS),
        ("ng_ebm_0.01", *MASS),
    ],
    r"features of the plain classifier reach (\S+),": [
        ("classifier", *OOD, "nearest_neighbour", "auroc")
    ],
    r"all three seeds \(ECE (\S+) %\)": [("ng_ebm", *ECE)],
    r"calibrated after six epochs \((\S+) %\)": [("classifier", *ECE)],
    r"both weights the ECE is (\S+) %, at a hundredth (\S+) %": [
        ("ng_ebm_0.1", *ECE),
        ("ng_ebm_0.01", *ECE),
    ],
    r"max p \((\S+)\), but detects worse .*? by log p\(x\) \((\S+)\)": [
        ("hdge", *OOD, "max_log_prob", "auroc"),
        ("hdge", *LOG_P),
    ],
    r"no better: ECE (\S+) %, and (\S+) % after a temperature against (\S+) %": [
        ("hdge", *ECE),
        ("hdge", "calibration", "temperature", "ece"),
        ("classifier", "calibration", "temperature", "ece"),
    ],
    r"notMNIST \((\S+)\), .*? larger for interpolations \((\S+)\) and .*? \((\S+)\)": [
        ("outlier_exposure", *SETS, name, "scores", "log_density", "auroc")
        for name in ("notmnist.npz", "interpolation", "uniform")
    ],
    r"it is not calibrated \(ECE (\S+) %\), .*? \((\S+)\) does": [
        ("jem_5", *ECE),
        ("jem_5", *LOG_P),
    ],
    r"does not detect MNIST \((\S+)\) or Omniglot \((\S+)\)": [
        ("jem_5", *SETS, f"{name}.npz", "scores", "log_density", "auroc")
        for name in ("mnist", "omniglot_small")
    ],
}


@pytest.mark.parametrize("sentence", QUOTED)
def test_its_prose_quotes_the_committed_results(sentence):
    """ECE in per cent, AUROC without a leading zero; means over seeds."""
    results = photograph_tables.read_results(photographs.RESULTS / "fashion_mnist")
    (quoted,) = re.findall(sentence, " ".join(README.split()))
    expected = []
    for method, *path in QUOTED[sentence]:
        value = statistics.fmean(_at(seed, path) for seed in results[method])
        is_auroc = path[-1] == "auroc"
        expected.append(f"{value:.3f}" if is_auroc else f"{100 * value:.1f}")
    quoted = [quoted] if isinstance(quoted, str) else quoted
    assert [re.sub(r"^\.", "0.", number) for number in quoted] == expected


def test_ng_ebm_differs_from_the_classifier_on_no_other_set():
    """ "on each of the other four sets, NG-EBM differs from the classifier by less"."""
    results = photograph_tables.read_results(photographs.RESULTS / "fashion_mnist")
    assert "differs from the classifier by less than .02" in README
    for name in set(results["classifier"][0]["ood"]["sets"]) - {"notmnist.npz"}:
        path = (*SETS, name, "scores", "log_density", "auroc")
        plain, *others = (
            statistics.fmean(_at(seed, path) for seed in results[method])
            for method in ("classifier", "ng_ebm", "ng_ebm_0.01")
        )
        assert all(abs(x - plain) < 0.02 for x in others), name


@pytest.mark.parametrize("seed", range(3))
def test_ng_ebm_is_under_confident_after_each_epoch(seed):
    path = photographs.RESULTS / "fashion_mnist" / f"ng_ebm-{seed}" / "curve.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(lines) == 6
    assert all(line["confidence"] < line["accuracy"] for line in lines)


def _at(numbers, path):
    for name in path:
        numbers = numbers[name]
    return numbers


def test_tables_of_the_experiments_are_the_committed_ones():
    text = (ROOT / "experiments" / "README.md").read_text()
    assert (photographs.RESULTS / "fashion_mnist_ablation.md").read_text() in text
    for setting, found in json.loads(stability.RESULTS.read_text()).items():
        assert found, setting
        by_variant = stability.grouped(found, stability.VARIANTS, seeds=10)
        assert stability.table(by_variant) in text


@pytest.mark.parametrize("column, name", digits.RUNS.items())
def test_configs_quote_the_committed_results(column, name):
    """ "Measured: 98.1 % test accuracy, ECE 5.5 %"."""
    text = (ROOT / "configs" / f"{name}.py").read_text()
    accuracy, ece = re.search(
        r"Measured: ([\d.]+) % test accuracy, ECE ([\d.]+) %", text
    ).groups()
    assert accuracy == f"{100 * RESULTS[column]['accuracy']:.1f}"
    assert ece == f"{100 * RESULTS[column]['ECE, 15 bins']:.1f}"


@pytest.mark.parametrize(
    "name, run",
    {"classifier": "classifier-0", "ng_ebm": "ng_ebm_0.01-0", "jem": "jem_5-0"}.items(),
)
def test_the_shipped_models_are_of_its_table(name, run):
    assert f"ebmjax://fashion_mnist-{name}" in README
    folder = ROOT / "ebmjax" / "pretrained" / f"fashion_mnist-{name}"
    shipped = json.loads((folder / "eval.json").read_text())
    results = photographs.RESULTS / "fashion_mnist" / run / "eval.json"
    results = json.loads(results.read_text())
    for task in ("classification", "calibration", "ood", "attacks"):
        del shipped[task]["settings"], results[task]["settings"]
        assert shipped[task] == results[task]
    assert sum(path.stat().st_size for path in folder.iterdir()) < 5e6


@pytest.mark.parametrize("name", ["classifier", "ng_ebm", "jem"])
def test_the_cards_of_the_shipped_models(name):
    """They have the sets with AUROC, and sample only where there are chains."""
    folder = ROOT / "ebmjax" / "pretrained" / f"fashion_mnist-{name}"
    card = (folder / "README.md").read_text()
    sets = json.loads((folder / "eval.json").read_text())["ood"]["sets"]
    for key, found in sets.items():
        auroc = found["scores"]["log_density"]["auroc"]
        assert f"| {key.removesuffix('.npz')} | 2,000 | {auroc:.3f} |" in card
    assert "| 2,000 |" in card and "| 200 |" in card and "crops or flips" in card
    assert ("start=run.buffer[:10]" in card) == (name == "jem")
    assert ("run.sample" in card) == (name == "jem")
    assert ("does not detect mnist or omniglot_small" in card) == (name == "jem")
    assert ("as an energy-based model" in card) == (name != "classifier")


def test_the_shipped_model_samples_and_classifies():
    names = {}
    exec(block('"ebmjax://fashion_mnist-jem"'), names)
    assert names["x"].shape == (10, 28, 28, 1)
    probs = names["run"].predict_proba(names["x"])
    assert np.mean(probs.max(axis=-1)) > 0.6
