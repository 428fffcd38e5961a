"""SADA-JEM on CIFAR-100, WRN-28-10 with batch norm, five chain steps.

    python -m ebmjax.main --config=configs/sada_jem_cifar100.py

Everything as for CIFAR-10; no number of the paper's is known to us.
"""

from ebmjax import presets


def get_config(variant: str = "full"):
    c = presets.cifar100()
    presets.sada_jem(c)
    return presets.variant(c, variant)
