"""Trained models as files for others: a portable folder, a compiled function, weights.

    ebmjax.export.save(run, "fashion_mnist-jem/")   # read by ebmjax.load
    ebmjax.export.save(run, "model.jaxexport")      # read by jax alone
    ebmjax.export.save(run, "model.safetensors")    # read by load_safetensors

`to_folder`, `to_jax` and `to_safetensors` do one of them each.
"""

import importlib

_MEMBERS = {
    "save": "files",
    "to_folder": "files",
    "to_jax": "program",
    "to_safetensors": "files",
    "load_safetensors": "files",
    "log_density_quantiles": "files",
    "metadata": "files",
}
__all__ = list(_MEMBERS)


def __getattr__(name):
    if name in _MEMBERS:
        module = importlib.import_module(f"ebmjax.export.{_MEMBERS[name]}")
        return getattr(module, name)
    raise AttributeError(f"module 'ebmjax.export' has no attribute {name!r}")
