"""A search by Optuna: the weight of -log p(x) with the best calibration.

python examples/optuna_search.py runs/search        # pip install optuna
"""

import sys

import optuna

import ebmjax


def main(workdir, num_trials=20, **changes):
    def ece(trial):
        c = ebmjax.presets.digits()
        c.objective.p_x = trial.suggest_float("objective.p_x", 0.01, 1.0, log=True)
        c.sgld.step_size = trial.suggest_float("sgld.step_size", 0.1, 2.0, log=True)
        c.update(changes)
        run = ebmjax.fit(c, f"{workdir}/{trial.number}")
        results = ebmjax.evaluate(run, tasks=("calibration",))
        return results["calibration"]["as_trained"]["ece"]

    study = optuna.create_study(direction="minimize")
    # A run that diverges for good raises RuntimeError: that trial counts as failed.
    study.optimize(ece, n_trials=num_trials, catch=RuntimeError)
    return study


if __name__ == "__main__":
    best = main(*sys.argv[1:2]).best_trial
    print(f"trial {best.number}: {best.params}, ECE {best.value:.2%}")
