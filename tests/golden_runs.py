"""Tiny runs of every objective, which all later code must load, resume and evaluate.

python tests/golden_runs.py        makes those that are missing

Do not make a run anew because a change cannot read it: that change breaks the runs of
users.
"""

import pathlib
import shutil
import sys
import tempfile

import jax
import numpy as np

FOLDER = pathlib.Path(__file__).parent / "golden" / "runs"
OBJECTIVES = {
    "classifier": {},
    "ng_ebm": {"objective.energy_variance": 1.0, "objective.approximate_mass": 0.1},
    "jem": {"objective.p_x": 1.0, "optimizer.ema_decay": 0.9},
    "jem_class_conditional": {"objective.p_x": 1.0, "sgld.class_conditional": True},
    "jem_joint": {"objective.p_x_y": 1.0, "objective.energy_l2": 0.1},
    "hdge": {"objective.contrast": 1.0, "hdge.queue_size": 64},
    "adversarial": {"objective.adversarial": 1.0, "adversarial.num_steps": 2},
    "outliers": {
        "objective.outliers": 0.1,
        "data.outliers": "digits@test",
        "data.outliers_batch_size": 16,
    },
    "skipping": {"recovery.skip_sigma": 6.0},
}
LOGITS = "logits.npy"  # of the first eight test images, float32


def config_of(name):
    from ebmjax import config

    c = config.default()
    c.update(num_steps=4, batch_size=16, tensorboard=False)
    c.data.update(name="digits", num_valid=40, pad=0, flip=False)
    c.model.update(name="mlp", features=(4,))
    c.sgld.update(num_steps=2, buffer_size=40, replace=True)
    c.optimizer.update(learning_rate=1e-2, warmup_steps=0)
    c.every.update(log=2, checkpoint=4, samples=4)
    c.checkpoint.update(keep_last=1, keep_best=0)
    c.eval.tasks = ("classification", "calibration")
    for key, value in OBJECTIVES[name].items():
        config.assign(c, key, value)
    return c


def make(name):
    import ebmjax

    with tempfile.TemporaryDirectory() as folder:
        run = ebmjax.fit(config_of(name), folder)
        logits = run.logits(run.splits().test.image[:8])
        shutil.rmtree(pathlib.Path(folder) / "samples", ignore_errors=True)
        (pathlib.Path(folder) / ".lock").unlink(missing_ok=True)
        shutil.copytree(folder, FOLDER / name)
    np.save(FOLDER / name / LOGITS, logits)


def main():
    jax.config.update("jax_num_cpu_devices", 1)
    for name in sys.argv[1:] or OBJECTIVES:
        if not (FOLDER / name).exists():
            make(name)
            size = sum(x.stat().st_size for x in (FOLDER / name).rglob("*"))
            print(f"{name}: {size / 1024:.0f} kB")


if __name__ == "__main__":
    main()
