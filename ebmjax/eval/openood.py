"""The numbers of the OOD task as OpenOOD v1.5 prints them."""

import csv
import io
import pathlib
from collections import Counter

COLUMNS = {
    "FPR@95": "fpr95_out",  # of test examples, where 95 % of OOD is caught
    "AUROC": "auroc",
    "AUPR_IN": "aupr_in",
    "AUPR_OUT": "aupr_out",
}


def table(numbers: dict, accuracy: float) -> str:
    """CSV in per cent: a row a score and set, then the means nearood and farood.

    `numbers` are those of the OOD task, `accuracy` is that on the test examples. AUPR
    is the average precision here and the area below straight lines in OpenOOD.
    """
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["score", "dataset", *COLUMNS, "ACC"])
    names = _short(numbers["sets"])
    sets = {
        names[name]: entry["scores"]
        for name, entry in numbers["sets"].items()
        if "scores" in entry
    }
    groups = {f"{name}ood": mean for name, mean in numbers["groups"].items() if mean}
    for score in numbers["labels"]:
        for name, scores in (sets | groups).items():
            values = [scores[score][metric] for metric in COLUMNS.values()]
            cells = [f"{100 * x:.2f}" for x in (*values, accuracy)]
            writer.writerow([score, name, *cells])
    return file.getvalue()


def _short(names):
    """{name: its last part without .npz, or all of it where others have the same}."""
    last = {name: pathlib.PurePath(name).name.removesuffix(".npz") for name in names}
    counts = Counter(last.values())
    return {name: x if x and counts[x] == 1 else name for name, x in last.items()}
