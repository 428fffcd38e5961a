"""A writer of your own: the numbers of training as CSV, one file a split.

python examples/own_writer.py runs/with_csv
"""

import csv
import pathlib
import sys

import ebmjax


class CsvWriter(ebmjax.Writer):
    """What is not overridden does nothing: `images`, `rewind`, `close`, ..."""

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)

    def write(self, step, split, metrics):
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"{split}.csv"
        is_new = not path.exists()
        with path.open("a", newline="") as file:
            rows = csv.writer(file)
            if is_new:
                rows.writerow(["step", *metrics])
            rows.writerow([step, *metrics.values()])


def main(workdir, **changes):
    c = ebmjax.presets.digits()
    c.model.update(name="mlp", features=(32,))
    c.update(changes)
    return ebmjax.fit(c, workdir, writers=[CsvWriter(f"{workdir}/csv")])


if __name__ == "__main__":
    main(*sys.argv[1:])
