"""Any classifier's logits: calibration, OOD detection and abstention of scikit-learn's.

    python examples/any_logits.py runs/sklearn

The same arrays in an .npz file need no Python: python -m ebmjax.eval --logits=FILE.npz
"""

import sys

import numpy as np
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split

import ebmjax


def main(workdir):
    x, y = load_digits(return_X_y=True)
    x_train, x_rest, y_train, y_rest = train_test_split(x, y, random_state=0)
    x_valid, x_test, y_valid, y_test = train_test_split(x_rest, y_rest, random_state=0)
    model = LogisticRegression(max_iter=5_000).fit(x_train, y_train)
    noise = np.random.default_rng(0).uniform(0, 16, x_test.shape)
    saved = ebmjax.Logits(
        model.decision_function(x_test),  # [N, 10]
        y_test,
        valid=(model.decision_function(x_valid), y_valid),
        ood={"noise": model.decision_function(noise)},
    )
    return ebmjax.evaluate(saved, workdir=workdir)


if __name__ == "__main__":
    results = main(*sys.argv[1:])
    print(f"accuracy {results['classification']['accuracy']:.1%}")
    print(f"AUROC {results['ood']['mean']['log_density']['auroc']:.3f}")
