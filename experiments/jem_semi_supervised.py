"""JEM with few labels: cross-entropy on the labelled images, p(x) on all images.

    python -m experiments.jem_semi_supervised --train [--small]

The paper's program has a flag for it, --labels_per_class, but the paper no number.
"""

from experiments import common
from experiments.common import Spec, percent

PARTS = ("classification", "calibration")


def specs(small):
    some = (("data.labels_per_class", 4 if small else 400),)
    return [
        Spec(objective, changes=changes)
        for changes in (some, ())
        for objective in ("classifier", "jem")
    ]


def report(results):
    rows = []
    for spec, found in results.items():
        labels = dict(spec.changes).get("data.labels_per_class", "all")
        numbers = found.numbers["classification"]
        rows.append(
            (
                common.label(spec),
                str(labels),
                percent(numbers["accuracy"]),
                f"{numbers['nll']:.3f} nats",
                percent(found.numbers["calibration"]["as_trained"]["ece_20_bins"]),
            )
        )
    columns = ("model", "labels a class", "accuracy", "NLL", "ECE, 20 bins")
    return common.Report(columns, rows, {})


if __name__ == "__main__":
    common.main(__doc__, specs, PARTS, report)
