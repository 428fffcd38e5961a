"""Classifiers trained as energy models, in JAX and Flax.

    run = ebmjax.fit(config, workdir)      # trains, or resumes what is there
    run = ebmjax.load(workdir)             # reads a trained run back
    results = ebmjax.evaluate(run)         # eval.json, pictures, report.html

Everything is imported at its first use: ``import ebmjax`` loads nothing else. The pure
modules `energy`, `sgld`, `replay` and `losses` need jax only.
"""

import importlib

__version__ = "0.1.0"

_MEMBERS = {
    "fit": "train",
    "load": "runs",
    "evaluate": "eval.evaluate",
    "Logits": "eval.other_classifiers",
    "Recipe": "recipe",
    "Term": "objectives",
    "Splits": "data",
    "Dataset": "data",
    "Writer": "writers",
}
_MODULES = (
    "augment",
    "config",
    "data",
    "energy",
    "eval",
    "export",
    "hub",
    "interop",
    "losses",
    "metrics",
    "models",
    "objectives",
    "optim",
    "presets",
    "recipe",
    "replay",
    "runs",
    "sgld",
    "train",
    "train_step",
    "writers",
)
__all__ = [*_MEMBERS, *_MODULES]


def __getattr__(name):
    if name in _MEMBERS:
        return getattr(importlib.import_module(f"ebmjax.{_MEMBERS[name]}"), name)
    if name in _MODULES:
        return importlib.import_module(f"ebmjax.{name}")
    raise AttributeError(f"module 'ebmjax' has no attribute {name!r}")


def __dir__():
    return sorted({*globals(), *__all__})
