"""JEM's class-conditional samples, from training with and without classes in chains.

    python -m experiments.jem_samples --train [--small]

The paper's pictures take 40,000 SGLD steps and more. The columns of the new chains,
which start from noise, are classes. Distances use the features of the classifier that
is trained for this table.
"""

from experiments import common
from experiments.common import Spec, percent

PARTS = ("classification", "samples")


def specs(small):
    return [Spec("classifier"), Spec("jem"), Spec("jem_class_conditional")]


def report(results):
    rows, pictures = [], {}
    for spec, found in results.items():
        samples = found.numbers["samples"]
        if "buffer" not in samples["scores"]["sets"]:
            continue
        distances = samples["scores"]["sets"]
        rows.append(
            (
                common.label(spec),
                percent(found.numbers["classification"]["accuracy"]),
                f"{distances['buffer']['frechet_distance']:.3f}",
                f"{distances['chains']['frechet_distance']:.3f}",
                f"{distances['test']['frechet_distance']:.3f}",
            )
        )
        for file in ("chains_by_class", "buffer"):
            path = found.file(f"{file}.png")
            pictures[f"{spec.objective} {file}"] = path.read_bytes()
    columns = ("model", "accuracy", "distance of buffer", "of new chains", "of test")
    return common.Report(columns, rows, pictures)


if __name__ == "__main__":
    common.main(__doc__, specs, PARTS, report)
