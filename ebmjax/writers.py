"""Where the numbers and pictures of a run go: files, the screen, trackers.

A writer is any object with some of the methods of `Writer`. Those that you pass as
``fit(..., writers=[...])`` come beside metrics.jsonl, the console and TensorBoard.
"""

import json
import logging
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import tqdm
from etils import epath

from ebmjax import pictures, rundir

METRICS = "metrics.jsonl"
SKIPPED = "skipped"  # metric: the number of steps that were skipped
# The metrics that the screen shows, and how.
SHOWN = {
    "loss": "loss {:.3f}",
    "accuracy": "acc {:.3f}",
    "ece": "ECE {:.3f}",
    "adversarial_accuracy": "adversarial acc {:.3f}",
    "energy_data": "E(data) {:.2f}",
    "energy_model": "E(model) {:.2f}",
    "energy_outliers": "E(outliers) {:.2f}",
    "energy_gap": "gap {:+.2f}",
    "joint_energy_gap": "joint gap {:+.2f}",
    "energy_variance": "var E {:.3f}",
    "approximate_mass": "|dE/dx| {:.3f}",
    "sgld_grad_norm": "chains |dE/dx| {:.3f}",
    "images_per_s": "{:.0f} img/s",
}


class Writer:
    """What a writer may do; each method does nothing unless overridden."""

    def write(self, step: int, split: str, metrics: dict[str, Any]) -> None:
        """Takes the numbers of a step; `split` is "train", "valid" or "event"."""

    def images(self, step: int, name: str, picture: np.ndarray) -> None:
        """Takes a picture, uint8 [H, W, C]."""

    def message(self, text: str) -> None:
        """Takes a line of text for the reader."""

    def advance(self) -> None:
        """One training step has been taken."""

    def rewind(self, step: int) -> None:
        """Forgets what came after `step`, where training starts or went back to."""

    def close(self) -> None:
        """Ends the writing."""


class JsonLines(Writer):
    """Appends a JSON object a line to metrics.jsonl."""

    def __init__(self, workdir: str, step: int):
        self.path = rundir.folder(workdir) / METRICS
        truncate_after(self.path, step)

    def write(self, step, split, metrics):
        line = {"step": step, "split": split, **metrics}
        rundir.append(self.path, json.dumps(line) + "\n")

    def rewind(self, step):
        truncate_after(self.path, step)


class Pictures(Writer):
    """Writes each picture as NAME/STEP.png."""

    def __init__(self, workdir: str):
        self.folder = rundir.folder(workdir)

    def images(self, step, name, picture):
        pictures.save(self.folder / name / f"{step:07}.png", picture)


class Console(Writer):
    """A progress bar on a terminal, lines elsewhere."""

    def __init__(self, step: int, num_steps: int):
        self.num_steps = num_steps
        self.start, self.start_step = time.monotonic(), step
        self.bar = None
        if sys.stderr.isatty():
            self.bar = tqdm.tqdm(
                total=num_steps, initial=step, unit="step", dynamic_ncols=True
            )

    def write(self, step, split, metrics):
        text = ", ".join(
            form.format(metrics[name])
            for name, form in SHOWN.items()
            if metrics.get(name) is not None
        )
        if split == "train" and self.bar is not None:
            self.bar.set_postfix_str(text)
        elif split == "train":
            line = f"step {step}/{self.num_steps}: {text}, {self._time_left(step)}"
            print(line, flush=True)
        else:
            self.message(f"step {step} {split}: {text or json.dumps(metrics)}")

    def message(self, text):
        tqdm.tqdm.write(text)
        sys.stdout.flush()

    def advance(self):
        if self.bar is not None:
            self.bar.update()

    def rewind(self, step):
        self.start, self.start_step = time.monotonic(), step
        if self.bar is not None:
            self.bar.initial = self.bar.n = step
            self.bar.start_t = time.time()
            self.bar.refresh()

    def close(self):
        if self.bar is not None:
            self.bar.close()

    def _time_left(self, step):
        pace = (time.monotonic() - self.start) / max(step - self.start_step, 1)
        left = tqdm.tqdm.format_interval(pace * (self.num_steps - step))
        return f"{left} left"


class TensorBoard(Writer):
    """Event files in the run directory. Raises ImportError without tensorboardX."""

    def __init__(self, workdir: str, step: int):
        self.workdir, self.events = str(workdir), None
        self._open(step)

    def _open(self, step):
        from tensorboardX import SummaryWriter

        self.events = SummaryWriter(self.workdir, purge_step=step + 1)

    def write(self, step, split, metrics):
        for name, value in metrics.items():
            if isinstance(value, float):
                self.events.add_scalar(f"{split}/{name}", value, step)

    def images(self, step, name, picture):
        self.events.add_image(name, picture, step, dataformats="HWC")

    def rewind(self, step):
        self.events.close()
        self._open(step)

    def close(self):
        self.events.close()


class Writers(Writer):
    """Hands everything to each of `writers`, and to the user's `own`.

    A failure of an own writer is logged and does not end the run.
    """

    def __init__(self, writers: Iterable[Writer], own: Iterable[Any] = ()):
        self.writers, self.own = list(writers), list(own)

    def _call(self, method, *args):
        for writer in self.writers:
            getattr(writer, method)(*args)
        for writer in self.own:
            self._guarded(writer, method, *args)

    def _guarded(self, writer, method, *args):
        try:
            getattr(writer, method, _ignore)(*args)
        except Exception as error:
            kind = type(writer).__name__
            logging.warning("writer %s.%s failed: %s", kind, method, error)
            logging.debug("", exc_info=True)

    def write(self, step, split, metrics):
        self._call("write", step, split, metrics)

    def images(self, step, name, picture):
        self._call("images", step, name, picture)

    def message(self, text):
        self._call("message", text)

    def advance(self):
        self._call("advance")

    def rewind(self, step):
        self._call("rewind", step)

    def close(self):
        self._call("close")


def _ignore(*_):
    pass


def of_run(
    workdir: str,
    *,
    step: int,
    num_steps: int,
    tensorboard: bool,
    own: Iterable[Any] = (),
) -> Writers:
    """The writers of a run that starts at `step`, with a user's `own` beside them."""
    own = list(own)
    writers = [JsonLines(workdir, step), Pictures(workdir), Console(step, num_steps)]
    if tensorboard:
        try:
            writers.append(TensorBoard(workdir, step))
        except ImportError:
            logging.info("no TensorBoard events: pip install 'ebmjax[tensorboard]'")
    result = Writers(writers, own)
    for writer in own:  # a killed run may have written more than it saved
        result._guarded(writer, "rewind", step)
    return result


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
