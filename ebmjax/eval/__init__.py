"""Evaluation of a run: calibration, out-of-distribution, attacks, samples."""

import importlib

_FORMULAS = (
    "attacks",
    "calibration",
    "energies",
    "frechet",
    "ood",
    "refinement",
    "samples",
    "selective",
)
__all__ = [*_FORMULAS, "tasks"]


def __getattr__(name):
    if name in __all__:
        return importlib.import_module(f"ebmjax.eval.{name}")
    raise AttributeError(f"module 'ebmjax.eval' has no attribute {name!r}")
