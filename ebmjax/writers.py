"""Where the numbers and pictures of a run go: files, the screen, trackers.

A writer is any object with some of the methods of `Writer`. Those that you pass as
``fit(..., writers=[...])`` come beside metrics.jsonl, the console, TensorBoard and
Weights & Biases.
"""

import json
import logging
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any

import tqdm

from ebmjax import pictures, rundir
from ebmjax.metrics_log import METRICS, Meter, events, read, truncate_after
from ebmjax.trackers import TensorBoard, WeightsAndBiases, Writer

__all__ = [
    "METRICS",
    "SHOWN",
    "Console",
    "JsonLines",
    "Meter",
    "Pictures",
    "TensorBoard",
    "WeightsAndBiases",
    "Writer",
    "Writers",
    "events",
    "of_run",
    "read",
    "truncate_after",
]

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


class Writers(Writer):
    """Hands everything to each of `writers`, to the console and to `trackers`.

    The first failure of a tracker is logged; none ends the run.
    """

    def __init__(
        self,
        writers: Iterable[Writer],
        console: Console | None = None,
        trackers: Iterable[Any] = (),
    ):
        self.writers, self.console = list(writers), console
        if console is not None:
            self.writers.append(console)
        self.trackers, self.failed = list(trackers), set()

    def _call(self, method, *args):
        for writer in self.writers:
            getattr(writer, method)(*args)
        self._track(method, *args)

    def _track(self, method, *args):
        for i, tracker in enumerate(self.trackers):
            try:
                getattr(tracker, method, _ignore)(*args)
            except Exception as error:
                level = logging.DEBUG if i in self.failed else logging.WARNING
                _report(f"{type(tracker).__name__}.{method}", error, level)
                self.failed.add(i)

    def write(self, step, split, metrics):
        self._call("write", step, split, metrics)

    def images(self, step, name, picture):
        self._call("images", step, name, picture)

    def histogram(self, step, name, values):
        if len(values):
            self._call("histogram", step, name, values)

    def rewind(self, step):
        self._call("rewind", step)

    def close(self):
        self._call("close")

    def message(self, text: str) -> None:
        """Shows a line of text on the console."""
        if self.console is not None:
            self.console.message(text)

    def advance(self) -> None:
        """Moves the progress bar by one step."""
        if self.console is not None:
            self.console.advance()


def _ignore(*_):
    pass


def _report(name, error, level=logging.WARNING):
    logging.log(level, "writer %s failed: %s; training goes on", name, error)
    logging.debug("", exc_info=error)


def of_run(
    workdir: str,
    *,
    step: int,
    num_steps: int,
    tensorboard: bool = False,
    wandb: str = "",
    config: dict[str, Any] | None = None,
    own: Iterable[Any] = (),
) -> Writers:
    """The writers of a run that starts at `step`, with a user's `own` beside them.

    `wandb` is the name of a project, or ""; `config` is what W&B shows of the run.
    """
    own = list(own)
    files = [JsonLines(workdir, step), Pictures(workdir)]
    trackers = []
    if tensorboard:
        trackers += _opened("tensorboard", TensorBoard, workdir, step)
    if wandb:
        trackers += _opened("wandb", WeightsAndBiases, workdir, wandb, config or {})
    result = Writers(files, Console(step, num_steps), own)
    result._track("rewind", step)  # a killed run may have written more than it saved
    result.trackers = trackers + own
    return result


def _opened(extra: str, make: Callable, *args) -> list[Writer]:
    """[the tracker], or [] with a line in the log if it cannot be opened."""
    try:
        return [make(*args)]
    except ImportError:
        logging.info("no %s: pip install 'ebmjax[%s]'", make.__name__, extra)
    except Exception as error:
        _report(make.__name__, error)
    return []
