"""metrics.jsonl, the log of a run: one JSON object a line."""

import json
from collections.abc import Iterator

from etils import epath

from ebmjax import rundir

METRICS = "metrics.jsonl"
SKIPPED = "skipped"  # metric: the number of steps that were skipped


class Meter:
    """Means over the steps since the last line of the log, and the number of steps that
    were skipped, if any were: their metrics are left out."""

    def __init__(self, sums: dict[str, float], count: int):
        self.sums, self.count = sums, count

    def add(self, metrics: dict[str, float]) -> None:
        for name, value in metrics.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        self.count += 1

    def skip(self) -> None:
        self.sums[SKIPPED] = self.sums.get(SKIPPED, 0.0) + 1

    def take(self) -> dict[str, float]:
        """The means; the meter then starts anew."""
        skipped = self.sums.pop(SKIPPED, None)
        means = {name: total / self.count for name, total in self.sums.items()}
        self.sums, self.count = {}, 0
        return means | ({SKIPPED: skipped} if skipped else {})


def truncate_after(path: epath.Path, step: int) -> None:
    """Drops from a log the lines after `step`, which training will write again.

    Events stay: they are also the record of past divergences.
    """
    if not path.exists():
        return
    kept = [
        line for line in read(path) if line["step"] <= step or line["split"] == "event"
    ]
    rundir.write(path, "".join(json.dumps(line) + "\n" for line in kept))


def events(workdir: str) -> list[dict]:
    """The divergences of the run so far, as they stand in the log."""
    lines = read(rundir.folder(workdir) / METRICS)
    return [line for line in lines if line["split"] == "event"]


def read(path: epath.Path) -> Iterator[dict]:
    """The lines of a log up to one that a crash cut off; none if there is no file."""
    text = path.read_text() if path.exists() else ""
    for line in text.splitlines():
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            return
