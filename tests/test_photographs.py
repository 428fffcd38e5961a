"""`experiments.photographs` and `ablation`: configs, made-up results, costs."""

import argparse
import json
import pathlib

import numpy as np
import pytest
from PIL import Image

from ebmjax import writers
from experiments import ablation, photograph_tables, photographs, shipped_robustness
from experiments.figures import fashion
from experiments.photographs import METHODS


def results(accuracy, auroc, extractor="runs/classifier-0"):
    scores = {
        name: {"auroc": auroc, "fpr95_in": 0.25} for name in photograph_tables.SCORES
    }
    bins = {"counts": [0, 30, 10], "confidence": [None, 0.5, 0.9]}
    row = {"eps_text": "8/255", "accuracy": 0.125}
    distance = {"sets": {"buffer": {"frechet_distance": 1000 * accuracy}}}
    return {
        "cost": 20.9,
        "classification": {"accuracy": accuracy, "nll": 0.5, "ece": 0.1},
        "calibration": {
            "as_trained": {"reliability": bins},
            "temperature": {"value": 0.7, "ece": 0.01},
        },
        "shift": {"mean": {"all": {"ece": 0.2}}},
        "selective": {"scores": {"max_log_prob": {"aurc": 0.0125}}},
        "attacks": {"norms": {"linf": {"sweep": [row]}}},
        "samples": {"scores": distance | {"extractor": extractor}},
        "ood": {"mean": scores, "sets": {"a/mnist.npz": {"scores": scores}}},
    }


def test_a_row_is_the_mean_over_seeds_and_their_deviation():
    seeds = [results(0.8, 0.6), results(0.9, 0.7)]
    text = photograph_tables.table({"jem": seeds, "classifier": seeds[:1]})
    head, _, jem, classifier = (
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in text.splitlines()
    )
    assert dict(zip(head, jem, strict=True)) == {
        "method": "JEM, 20 steps",
        "seeds": "2",
        "cost of a step": "20.9",
        "accuracy, %": "85.0 ± 7.1",
        "mean confidence, %": "60.0 ± 0.0",  # (30 · 0.5 + 10 · 0.9) / 40
        "NLL, nats": "0.500 ± 0.000",
        "ECE, 15 bins, %": "10.0 ± 0.0",
        "temperature": "0.70 ± 0.00",
        "ECE after temperature, %": "1.0 ± 0.0",
        "ECE under corruptions, %": "20.0 ± 0.0",
        "AURC, max p, %": "1.25 ± 0.00",
        "PGD, L∞ 8/255, %": "12.5 ± 0.0",
        "Fréchet distance of the buffer": "850 ± 70.7",
        "AUROC, mean, log p(x)": "0.650 ± 0.071",
        "AUROC, mean, max p": "0.650 ± 0.071",
        "AUROC, mean, approximate mass": "0.650 ± 0.071",
        "AUROC, mean, nearest neighbours": "0.650 ± 0.071",
        "FPR95, mean, log p(x), %": "25.0 ± 0.0",
        "AUROC, MNIST, log p(x)": "0.650 ± 0.071",
    }
    assert classifier[1:4] == ["1", "20.9", "80.0"]
    few = photograph_tables.table({"jem": seeds}, ("AURC, max p, %",)).splitlines()
    assert few[0] == "| method | seeds | AURC, max p, % |"
    assert few[2] == "| JEM, 20 steps | 2 | 1.25 ± 0.00 |"


def test_a_column_of_which_nothing_was_measured_is_left_out():
    distance = "Fréchet distance of the buffer"
    own, common = results(0.8, 0.6, "this run"), results(0.9, 0.6)
    text = photograph_tables.table({"jem": [own]})
    assert distance not in text and "PGD, L2 0.5, %" not in text
    text = photograph_tables.table({"classifier": [own], "jem": [common]}, (distance,))
    assert text.splitlines()[2:] == [
        "| classifier | 1 |  |",
        "| JEM, 20 steps | 1 | 900 |",
    ]


def test_zero_is_a_number_and_not_a_gap():
    numbers = results(0.8, 0.6)
    numbers["shift"]["mean"]["all"]["ece"] = 0.0
    text = photograph_tables.table({"jem": [numbers]}, ("ECE under corruptions, %",))
    assert text.splitlines()[2] == "| JEM, 20 steps | 1 | 0.0 |"


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dataset", photographs.DATASETS)
def test_the_config_of_every_method_can_work(dataset, method):
    args = argparse.Namespace(
        dataset=dataset,
        data="d.npz",
        ood="a.npz,b.npz",
        outliers="o.npz",
        runs=pathlib.Path("runs"),
    )
    c = photographs.config_of(method, 2, args)  # which is checked
    assert (c.seed, c.data.name) == (2, "d.npz")
    assert c.eval.ood.sets == ("a.npz", "b.npz")
    assert c.data.outliers == ("o.npz" if method == "outlier_exposure" else "")
    has_chains = "jem" in method
    assert c.eval.samples.extractor == ("runs/classifier-0" if has_chains else "")


@pytest.mark.parametrize("dataset", photographs.DATASETS)
@pytest.mark.parametrize("variant", ablation.VARIANTS)
def test_the_configs_of_the_ablation_can_work(dataset, variant):
    args = argparse.Namespace(
        dataset=dataset, data="", ood="", runs=pathlib.Path("runs")
    )
    c = ablation.config_of(variant, args)
    clean = variant.endswith("clean")
    assert c.data.generative_augment != clean and c.data.separate_streams == clean
    assert c.data.pad > 0 and c.data.noise_std == 0.03
    assert bool(c.eval.samples.extractor) == (variant != "classifier")


def test_histograms_count_every_image_once():
    rng = np.random.default_rng(0)
    scores = {
        "test/log_density": rng.normal(2, 1, 500),
        "noise/log_density": rng.normal(-2, 1, 300),
        "test/odin": rng.normal(0, 1, 500),
    }
    found = photographs.histograms(scores)
    assert len(found["edges"]) == photographs.NUM_BINS + 1
    assert {k: sum(v) for k, v in found["counts"].items()} == {
        "test": 500,
        "noise": 300,
    }
    centres = np.add(found["edges"][1:], found["edges"][:-1]) / 2
    means = {k: np.average(centres, weights=v) for k, v in found["counts"].items()}
    assert means["test"] == pytest.approx(2, abs=0.2)
    assert means["noise"] == pytest.approx(-2, abs=0.2)


def test_the_committed_costs_are_those_of_the_documented_methods():
    results = photographs.RESULTS / "fashion_mnist"
    found = photograph_tables.read_results(results)
    assert {method: runs[0]["cost"] for method, runs in found.items()}.items() >= {
        "classifier": 1.0,
        "hdge": 1.0,
        "outlier_exposure": 2.0,
    }.items()
    # Of the classifier's three passes a gradient of a gradient takes as many again;
    # five chain steps take ten, and the samples' energies three.
    assert found["ng_ebm"][0]["cost"] == pytest.approx(2, abs=0.1)
    assert found["jem_5"][0]["cost"] == pytest.approx((3 + 10 + 3) / 3, abs=0.1)


def test_pictures_and_costs_are_those_of_the_methods_that_were_run(tmp_path):
    histogram = {"edges": [0, 1, 2], "counts": {"test": [1, 3], "a/mnist.npz": [4, 0]}}
    path = tmp_path / "ood.png"
    photograph_tables.draw_ood(tmp_path, path)
    assert not path.exists() and photographs.costs(tmp_path) == {}
    for method in ("hdge", "jem_5", "classifier"):
        (tmp_path / f"{method}-0").mkdir()
        file = tmp_path / f"{method}-0" / photograph_tables.HISTOGRAMS
        file.write_text(json.dumps(histogram))
        photograph_tables.draw_ood(tmp_path, path)
        assert path.stat().st_size > 1_000


def test_a_row_of_the_ablation(tmp_path):
    results = photographs.RESULTS / "fashion_mnist" / "jem_5-0" / "eval.json"
    (tmp_path / "eval.json").write_text(results.read_text())
    speeds = [
        {"step": n, "split": "train", "images_per_s": 10.0 * n} for n in (1, 2, 3)
    ]
    speeds.append({"step": 3, "split": "valid", "accuracy": 0.5})
    text = "".join(json.dumps(line) + "\n" for line in speeds)
    (tmp_path / writers.METRICS).write_text(text)
    row = ablation.row("variant", 5.37, tmp_path)
    assert row[:4] == ["variant", "5.4", "5154", "83.0%"]
    assert row[4:] == ["9.4%", "0.690", "0.786", "105.1", "20"]
    assert len(row) == len(ablation.COLUMNS)


def test_curves_of_the_shipped_models_go_through_the_points_of_the_table():
    curves = json.loads(shipped_robustness.RESULTS.read_text())
    rows = {"classifier": "classifier", "ng_ebm": "ng_ebm_0.01", "jem": "jem_5"}
    for name, method in rows.items():
        path = photographs.RESULTS / "fashion_mnist" / f"{method}-0" / "eval.json"
        attacks = json.loads(path.read_text())["attacks"]
        for norm, scale in {"linf": 255, "l2": 1}.items():
            eps = [0.0, *shipped_robustness.EPS[norm]]
            curve = dict(zip(eps, curves[name][norm], strict=True))
            assert curve[0.0] == attacks["clean_accuracy"]
            for row in attacks["norms"][norm]["sweep"]:
                assert curve[round(scale * row["eps"], 6)] == row["accuracy"]


def test_pictures_of_the_shipped_models_are_drawn(tmp_path):
    curves = json.loads(shipped_robustness.RESULTS.read_text())
    shipped_robustness.draw(curves, 200, tmp_path / "robustness.png")
    images = np.random.default_rng(0).integers(0, 256, (3, 4, 28, 28, 1), np.uint8)
    fashion.draw(images, ["a", "b", "c"], tmp_path / "counterfactuals.png")
    for path in tmp_path.iterdir():
        assert path.stat().st_size > 1_000


def test_the_buffers_of_the_ablation_are_drawn(tmp_path):
    rng = np.random.default_rng(0)
    grey, coloured = (rng.integers(0, 256, (40, 28, 28, n), np.uint8) for n in (1, 3))
    path = tmp_path / "buffers.png"
    ablation.draw({"one": grey, "another": coloured}, path)
    with Image.open(path) as picture:
        assert picture.width == 720
