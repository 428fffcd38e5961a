"""An evaluation task of your own: accuracy on test images turned by 90 degrees.

python examples/own_task.py runs/jem_digits
"""

import sys

import numpy as np

import ebmjax
from ebmjax.eval.task import Task


def rotation(run, progress):
    """The numbers of the task; they appear in eval.json, table and report."""
    progress("rotated test images")
    test = run.splits().test
    probs = run.predict_proba(np.rot90(test.image, axes=(1, 2)))
    return {
        "accuracy": ebmjax.metrics.accuracy(probs, test.label),
        "mean_confidence": probs.max(axis=1).mean(),
    }


def main(workdir):
    return ebmjax.evaluate(workdir, tasks={"rotation": Task(rotation, "Rotation")})


if __name__ == "__main__":
    print(main(*sys.argv[1:])["rotation"])
