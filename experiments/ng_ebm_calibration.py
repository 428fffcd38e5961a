"""NG-EBM's calibration against a classifier's, over seeds.

    python -m experiments.ng_ebm_calibration --train [--small]

The paper's abstract: 2.5 times better on CIFAR-10, 7.5 times on CIFAR-100. Its program
takes the midpoints of bins as confidence; the table has this and the usual ECE.
"""

import statistics

from ebmjax.eval.report import charts
from experiments import common
from experiments.common import Spec, percent

PARTS = ("classification", "calibration")
FACTORS = {"cifar10": "2.5", "cifar100": "7.5"}
SEEDS = (101, 202, 303, 404, 505)


def specs(small):
    return [
        Spec(objective, dataset, (("seed", seed), ("data.split_seed", seed)))
        for dataset in (("cifar10",) if small else FACTORS)
        for objective in ("classifier", "ng_ebm")
        for seed in (SEEDS[:3] if small else SEEDS)
    ]


def report(results):
    rows, bins, means, data = [], {}, {}, {}
    for spec, found in results.items():
        group = means.setdefault((spec.dataset, spec.objective), {})
        data[spec.dataset] = found.numbers["run"]["data"]
        trained = found.numbers["calibration"]["as_trained"]
        values = {
            "accuracy": found.numbers["classification"]["accuracy"],
            "ece": trained["ece_20_bins"],
            "midpoint": trained["ng_ebm_midpoint_ece"],
        }
        for name, value in values.items():
            group.setdefault(name, []).append(value)
        bins.setdefault(common.label(spec), trained["reliability"])
    for (dataset, objective), group in means.items():
        factors = ["", "", ""]
        if objective == "ng_ebm":
            base = means[dataset, "classifier"]
            factors = [
                f"{statistics.mean(base[name]) / statistics.mean(group[name]):.2f}"
                for name in ("ece", "midpoint")
            ] + [FACTORS[dataset]]
        rows.append(
            (
                data[dataset],
                common.label(Spec(objective)),
                *(_spread(group[name]) for name in ("accuracy", "ece", "midpoint")),
                *factors,
            )
        )
    columns = ("data", "model", "accuracy", "ECE, 20 bins", "ECE of midpoints")
    columns += ("better by", "midpoints: by", "paper: by")
    pictures = {"reliability": charts.reliability_curves(bins)}
    return common.Report(columns, rows, pictures, "Mean ± standard deviation of seeds.")


def _spread(values):
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{percent(statistics.mean(values))} ± {100 * spread:.1f}"


if __name__ == "__main__":
    common.main(__doc__, specs, PARTS, report)
