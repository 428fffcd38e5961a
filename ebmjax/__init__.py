"""Classifiers read as energy-based models: JEM and NG-EBM in JAX/Flax.

The pure parts (`energy`, `sgld`, `replay`, `losses`) need jax and nothing else;
import them one by one: ``from ebmjax import sgld``.
"""

__version__ = "0.1.0"


def __getattr__(name):
    if name == "load":  # `ebmjax.load(workdir)`, without its weight on import
        from ebmjax.runs import load

        return load
    raise AttributeError(f"module 'ebmjax' has no attribute {name!r}")
