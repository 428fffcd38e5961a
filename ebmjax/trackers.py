"""What a writer is, and writers for TensorBoard and Weights & Biases."""

import uuid
from typing import Any

import numpy as np

from ebmjax import rundir

WANDB_ID = "wandb_id"  # the file with the id by which Weights & Biases resumes a run


class Writer:
    """What a writer may do; each method does nothing unless overridden."""

    def write(self, step: int, split: str, metrics: dict[str, Any]) -> None:
        """Takes the numbers of a step; `split` is "train", "valid" or "event"."""

    def images(self, step: int, name: str, picture: np.ndarray) -> None:
        """Takes a picture, uint8 [H, W, C]."""

    def histogram(self, step: int, name: str, values: np.ndarray) -> None:
        """Takes a sample of a number, float [N]: energies of examples and of chains."""

    def rewind(self, step: int) -> None:
        """Forgets what came after `step`, where training starts or went back to."""

    def close(self) -> None:
        """Ends the writing."""


class TensorBoard(Writer):
    """Event files in the run directory. Raises ImportError without tensorboardX."""

    def __init__(self, workdir: str, step: int):
        self.workdir = str(workdir)
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

    def histogram(self, step, name, values):
        self.events.add_histogram(name, values, step)

    def rewind(self, step):
        self.events.close()
        self._open(step)

    def close(self):
        self.events.close()


class WeightsAndBiases(Writer):
    """A run of the project `project`, which a resumed training continues.

    W&B takes no step twice, but a run that went back to a checkpoint repeats some: the
    step is therefore a number of its own, "step", against which the charts are drawn.
    W&B's own variables apply, as WANDB_MODE=offline. Raises ImportError without wandb.
    """

    def __init__(self, workdir: str, project: str, config: dict[str, Any]):
        import wandb

        self.wandb, root = wandb, rundir.folder(workdir)
        path = root / WANDB_ID
        if not path.exists():
            rundir.write(path, uuid.uuid4().hex)
        self.run = wandb.init(
            project=project,
            name=root.name,
            id=path.read_text(),
            resume="allow",
            dir=None if rundir.in_bucket(workdir) else str(root),
            config=config,
        )
        self.run.define_metric("*", step_metric="step")

    def write(self, step, split, metrics):
        numbers = {f"{split}/{name}": value for name, value in metrics.items()}
        self.run.log({"step": step} | numbers)

    def images(self, step, name, picture):
        self.run.log({"step": step, name: self.wandb.Image(picture)})

    def histogram(self, step, name, values):
        self.run.log({"step": step, name: self.wandb.Histogram(values)})

    def close(self):
        self.run.finish()
