"""Trains on a folder with one sub-folder of images per class.

    python examples/own_data_folder.py PHOTOS runs/photos

PHOTOS has train/CLASS/*.png and test/CLASS/*.png, or CLASS/*.png alone, of which
`data.test_fraction` is kept for testing.
"""

import sys

import ebmjax


def main(folder, workdir, **changes):
    c = ebmjax.config.default()
    c.data.update(name=str(folder), image_size=32, num_valid=50)
    c.model.update(name="convnet", features=(32, 32, 64, 64))
    c.objective.update(p_x=0.1, energy_l2=0.01)  # JEM with a stabiliser
    c.sgld.update(num_steps=5, init="class_gaussian", clip_grad=1.0, clip_x=1.0)
    c.optimizer.update(learning_rate=3e-4, warmup_steps=300)
    c.num_steps = 2_000
    c.every.update(log=50, checkpoint=500, samples=500)
    c.eval.ood.sets = ("interpolation", "uniform")
    c.update(changes)

    run = ebmjax.fit(c, workdir)
    results = ebmjax.evaluate(run, tasks=("classification", "calibration", "ood"))
    print(f"accuracy {results['classification']['accuracy']:.1%}")
    return run


if __name__ == "__main__":
    main(*sys.argv[1:])
