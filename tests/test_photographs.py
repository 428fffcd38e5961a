"""The table of the results on photographs, from made-up results."""

import argparse

import pytest

from experiments import photograph_tables, photographs
from experiments.photographs import METHODS


def results(accuracy, auroc):
    scores = {
        name: {"auroc": auroc, "fpr95_in": 0.25} for name in photograph_tables.SCORES
    }
    bins = {"counts": [0, 30, 10], "confidence": [None, 0.5, 0.9]}
    row = {"eps_text": "8/255", "accuracy": 0.125}
    return {
        "classification": {"accuracy": accuracy, "nll": 0.5, "ece": 0.1},
        "calibration": {
            "as_trained": {"reliability": bins},
            "temperature": {"value": 0.7, "ece": 0.01},
        },
        "shift": {"mean": {"all": {"ece": 0.2}}},
        "selective": {"scores": {"max_log_prob": {"aurc": 0.0125}}},
        "attacks": {"norms": {"linf": {"sweep": [row]}}},
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
        "accuracy, %": "85.0 ± 7.1",
        "mean confidence, %": "60.0 ± 0.0",  # (30 · 0.5 + 10 · 0.9) / 40
        "NLL, nats": "0.500 ± 0.000",
        "ECE, 15 bins, %": "10.0 ± 0.0",
        "temperature": "0.70 ± 0.00",
        "ECE after temperature, %": "1.0 ± 0.0",
        "ECE under corruptions, %": "20.0 ± 0.0",
        "AURC, max p, %": "1.25 ± 0.00",
        "PGD, L∞ 2/255, %": "",  # not measured
        "PGD, L∞ 8/255, %": "12.5 ± 0.0",
        "PGD, L2 0.5, %": "",
        "AUROC, mean, log p(x)": "0.650 ± 0.071",
        "AUROC, mean, max p": "0.650 ± 0.071",
        "AUROC, mean, approximate mass": "0.650 ± 0.071",
        "FPR95, mean, log p(x), %": "25.0 ± 0.0",
        "AUROC, mnist, log p(x)": "0.650 ± 0.071",
    }
    assert classifier[1:3] == ["1", "80.0"]
    few = photograph_tables.table({"jem": seeds}, ("AURC, max p, %",)).splitlines()
    assert few[0] == "| method | seeds | AURC, max p, % |"
    assert few[2] == "| JEM, 20 steps | 2 | 1.25 ± 0.00 |"


def test_zero_is_a_number_and_not_a_gap():
    numbers = results(0.8, 0.6)
    numbers["shift"]["mean"]["all"]["ece"] = 0.0
    text = photograph_tables.table({"jem": [numbers]}, ("ECE under corruptions, %",))
    assert text.splitlines()[2] == "| JEM, 20 steps | 1 | 0.0 |"


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dataset", photographs.DATASETS)
def test_the_config_of_every_method_can_work(dataset, method):
    args = argparse.Namespace(
        dataset=dataset, data="d.npz", ood="a.npz,b.npz", outliers="o.npz"
    )
    c = photographs.config_of(method, 2, args)  # which is checked
    assert (c.seed, c.data.name) == (2, "d.npz")
    assert c.eval.ood.sets == ("a.npz", "b.npz")
    assert c.data.outliers == ("o.npz" if method == "outlier_exposure" else "")
