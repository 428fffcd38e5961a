"""The tasks of the evaluation, in the order in which they are computed and shown."""

from ebmjax.eval.task import Task
from ebmjax.eval.tasks import (
    attacks,
    calibration,
    classification,
    counterfactuals,
    energies,
    ood,
    samples,
    selective,
    shift,
)

TASKS: dict[str, Task] = {
    "classification": classification.TASK,
    "calibration": calibration.TASK,
    "selective": selective.TASK,
    "shift": shift.TASK,
    "ood": ood.TASK,
    "attacks": attacks.TASK,
    "energies": energies.TASK,
    "counterfactuals": counterfactuals.TASK,
    "samples": samples.TASK,
}
