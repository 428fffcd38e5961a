"""JEM, Table 2: histograms of log p(x) and the approximate mass, in and out.

    python -m experiments.jem_histograms --train [--small]

The paper shows pictures without numbers; the table gives means and the AUROC.
"""

import numpy as np

from ebmjax.eval.report import charts
from experiments import common
from experiments.common import Spec

PARTS = ("ood",)
SCORES = {"log_density": "log p(x)", "approximate_mass": "approximate mass"}


def specs(small):
    return [Spec("jem")]


def report(results):
    ((_, found),) = results.items()
    sets = found.numbers["ood"]["sets"]
    names = ["test", *(name for name, x in sets.items() if "scores" in x)]
    rows, pictures = [], {}
    with np.load(found.file("ood_scores.npz")) as scores:
        for score, text in SCORES.items():
            values = {name: scores[f"{name}/{score}"] for name in names}
            pictures[text.replace("(x)", "")] = charts.histograms(values, text)
            for name, x in values.items():
                metrics = sets.get(name, {}).get("scores")
                auroc = f"{metrics[score]['auroc']:.3f}" if metrics else ""
                rows.append((text, name, f"{x.mean():.3g} ± {x.std():.2g}", auroc))
    return common.Report(("score", "images", "mean ± std", "AUROC"), rows, pictures)


if __name__ == "__main__":
    common.main(__doc__, specs, PARTS, report)
