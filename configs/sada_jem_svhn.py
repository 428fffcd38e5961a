"""SADA-JEM on SVHN, WRN-28-10 with batch norm, five chain steps.

    python -m ebmjax.main --config=configs/sada_jem_svhn.py

As for CIFAR-10, but without flips, and an epoch has 572 steps; no number of the paper's
is known to us.
"""

from ebmjax import presets


def get_config(variant: str = "full"):
    c = presets.svhn()
    presets.sada_jem(c)
    return presets.variant(c, variant)
