"""JEM, Table 1: accuracy, Inception Score and Fréchet distance.

    python -m experiments.jem_table1 --train [--small]

The paper's scores use Inception's features. Here they use the features of the
classifier that is trained for this table, since Inception's weights cannot be shipped:
compare only rows of this table.
"""

from experiments import common
from experiments.common import Spec, percent

PARTS = ("classification", "samples")
# Accuracy %, IS, FID. JEM's as reported by others, the rest from memory.
PAPER = {
    "jem": ("92.9", "8.76", "38.4"),
    "jem_joint": ("30.1", "6.36", "61.8"),
    "classifier": ("95.8, with batch norm", "", ""),
}


def specs(small):
    return [Spec(name) for name in ("classifier", "jem", "jem_joint")]


def report(results):
    rows, pictures = [], {}
    for spec, found in results.items():
        samples = found.numbers["samples"]
        scores = samples["scores"]["sets"]
        cells = ["", ""]
        if "buffer" in scores:
            cells = [
                f"{scores['buffer']['inception_score']['mean']:.2f}",
                f"{scores['buffer']['frechet_distance']:.3f}",
            ]
            pictures[f"buffer of {spec.objective}"] = found.file(
                "buffer.png"
            ).read_bytes()
        accuracy = percent(found.numbers["classification"]["accuracy"])
        rows.append((common.label(spec), accuracy, *cells, *PAPER[spec.objective]))
    test = scores["test"]
    rows.append(
        (
            "test images",
            "",
            f"{test['inception_score']['mean']:.2f}",
            f"{test['frechet_distance']:.3f}",
            *[""] * 3,
        )
    )
    columns = ("model", "accuracy", "score", "distance")
    columns += ("paper: accuracy %", "IS", "FID")
    note = f"Score and distance of {samples['scores']['num_samples']} images of the"
    note += " replay buffer, by features of the classifier in this table."
    return common.Report(columns, rows, pictures, note)


if __name__ == "__main__":
    common.main(__doc__, specs, PARTS, report)
