"""What a run tells: a file of numbers, a line or bar on the screen, TensorBoard."""

import json
import logging
import sys
import time
from collections.abc import Iterator
from typing import Any

import tqdm
from etils import epath

from ebmjax import rundir

METRICS = "metrics.jsonl"
# Of all the metrics, those for the screen, and how.
SHOWN = {
    "loss": "loss {:.3f}",
    "accuracy": "acc {:.3f}",
    "energy_data": "E(data) {:.2f}",
    "energy_model": "E(model) {:.2f}",
    "energy_gap": "gap {:+.2f}",
    "joint_energy_gap": "joint gap {:+.2f}",
    "energy_variance": "var E {:.3f}",
    "approximate_mass": "|dE/dx| {:.3f}",
    "sgld_grad_norm": "chains |dE/dx| {:.3f}",
    "images_per_s": "{:.0f} img/s",
}


class Meter:
    """Means over the steps since the last line of the log."""

    def __init__(self, sums: dict[str, float], count: int):
        self.sums, self.count = sums, count

    def add(self, metrics: dict[str, float]) -> None:
        for name, value in metrics.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        self.count += 1

    def take(self) -> dict[str, float]:
        """The means; and starts anew."""
        means = {name: total / self.count for name, total in self.sums.items()}
        self.sums, self.count = {}, 0
        return means


class Writer:
    """Appends to metrics.jsonl, moves the progress bar, writes TensorBoard events.

    Only the first process should have a `visible` one; the others' do nothing.
    """

    def __init__(
        self,
        workdir: str,
        *,
        step: int,
        num_steps: int,
        tensorboard: bool,
        visible: bool,
    ):
        self.visible = visible
        self.path = rundir.folder(workdir) / METRICS
        self.num_steps = num_steps
        self.board = self.bar = None
        self.began, self.began_at = time.monotonic(), step
        if not visible:
            return
        forget_after(self.path, step)
        if tensorboard:
            self.board = _tensorboard(workdir, step)
        if sys.stderr.isatty():
            self.bar = tqdm.tqdm(
                total=num_steps, initial=step, unit="step", dynamic_ncols=True
            )

    def rewind(self, step: int) -> None:
        """Back to `step`, after a divergence: what came after it is forgotten."""
        self.began, self.began_at = time.monotonic(), step
        if self.visible:
            forget_after(self.path, step)
        if self.board is not None:
            self.board.close()
            self.board = _tensorboard(self.path.parent, step)
        if self.bar is not None:
            self.bar.initial = self.bar.n = step
            self.bar.start_t = time.time()
            self.bar.refresh()

    def advance(self) -> None:
        """A step has been taken."""
        if self.bar is not None:
            self.bar.update()

    def write(self, step: int, split: str, metrics: dict[str, Any]) -> None:
        """One line; `split` is "train", "valid" or "event"."""
        if not self.visible:
            return
        line = {"step": step, "split": split, **metrics}
        rundir.append(self.path, json.dumps(line) + "\n")
        if self.board is not None:
            for name, value in metrics.items():
                if isinstance(value, float):
                    self.board.add_scalar(f"{split}/{name}", value, step)
        text = ", ".join(
            form.format(metrics[name])
            for name, form in SHOWN.items()
            if metrics.get(name) is not None
        )
        if split == "train" and self.bar is not None:
            self.bar.set_postfix_str(text)
        elif split == "train":
            print(f"step {step}/{self.num_steps}: {text}, {self._left(step)}")
        else:
            self.say(f"step {step} {split}: {text or json.dumps(metrics)}")

    def say(self, text: str) -> None:
        """A line for the reader."""
        if self.visible:
            tqdm.tqdm.write(text)
            sys.stdout.flush()

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()
        if self.board is not None:
            self.board.close()

    def _left(self, step):
        pace = (time.monotonic() - self.began) / max(step - self.began_at, 1)
        left = int(pace * (self.num_steps - step))
        return f"{left // 3600}:{left // 60 % 60:02}:{left % 60:02} left"


def forget_after(path: epath.Path, step: int) -> None:
    """Drops from a log what came after `step`, which is going to come again.

    Divergences stay: they are also the record of how often there was one.
    """
    if not path.exists():
        return
    kept = [
        line for line in read(path) if line["step"] <= step or line["split"] == "event"
    ]
    rundir.write(path, "".join(json.dumps(line) + "\n" for line in kept))


def events(workdir: str) -> list[dict]:
    """The divergences of the run so far, as `Writer.write` has them."""
    path = rundir.folder(workdir) / METRICS
    if not path.exists():
        return []
    return [line for line in read(path) if line["split"] == "event"]


def read(path: epath.Path) -> Iterator[dict]:
    """The lines of a log. The last may have been cut off by a crash: left out."""
    for line in path.read_text().splitlines():
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            return


def _tensorboard(workdir, step):
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        logging.info("no TensorBoard events: pip install 'ebmjax[tensorboard]'")
        return None
    return SummaryWriter(str(workdir), purge_step=step + 1)
