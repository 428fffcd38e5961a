"""JEM on vectors: embeddings of another model, tables, or here the digits' pixels.

    python examples/own_vectors.py runs/vectors

Vectors are standardised by the training set; the run keeps mean and deviation.
"""

import sys

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import ebmjax


def main(workdir, **changes):
    arrays = load_digits(return_X_y=True)  # float64 [1797, 64], int [1797]
    x_train, x_test, y_train, y_test = train_test_split(*arrays, random_state=0)
    splits = ebmjax.data.from_arrays(x_train, y_train, x_test, y_test, num_valid=150)
    c = ebmjax.config.default()
    c.data.update(pad=0, flip=False, noise_std=0.1)
    c.model.update(name="mlp", features=(128, 128))
    c.objective.p_x = 0.1
    c.sgld.update(step_size=0.1, num_steps=10, buffer_size=2_000)
    c.optimizer.update(learning_rate=1e-3, warmup_steps=100)
    c.num_steps = 2_000
    c.every.update(log=100, checkpoint=500)
    c.update(changes)
    run = ebmjax.fit(c, workdir, data=splits)

    accuracy = np.mean(run.predict_proba(x_test).argmax(axis=1) == y_test)
    noise = np.random.default_rng(0).uniform(0, 16, x_test.shape)
    auroc = ebmjax.eval.ood.auroc(run.log_density(x_test), run.log_density(noise))
    print(f"accuracy {accuracy:.1%}, AUROC of log p(x) against noise {auroc:.3f}")
    return run


if __name__ == "__main__":
    main(*sys.argv[1:])
