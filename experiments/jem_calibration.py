"""JEM's calibration figure: expected calibration error on CIFAR-100.

python -m experiments.jem_calibration --train [--small]
"""

from ebmjax.eval.report import charts
from experiments import common
from experiments.common import Spec, percent

PARTS = ("classification", "calibration")
PAPER = {"classifier": "22.32 %", "jem": "4.87 %"}  # printed in the authors' figure


def specs(small):
    return [Spec("classifier", "cifar100"), Spec("jem", "cifar100")]


def report(results):
    rows, bins = [], {}
    for spec, found in results.items():
        calibration = found.numbers["calibration"]
        trained, cooled = calibration["as_trained"], calibration["temperature"]
        bins[common.label(spec)] = trained["reliability"]
        rows.append(
            (
                common.label(spec),
                percent(found.numbers["classification"]["accuracy"]),
                percent(trained["ece_20_bins"]),
                PAPER[spec.objective],
                percent(cooled["ece"]) if "ece" in cooled else "",
            )
        )
    columns = ("model", "accuracy", "ECE, 20 bins", "paper", "ECE after temperature")
    pictures = {"reliability": charts.reliability_curves(bins)}
    return common.Report(columns, rows, pictures)


if __name__ == "__main__":
    common.main(__doc__, specs, PARTS, report)
