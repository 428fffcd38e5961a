"""JEM++ on CIFAR-100, WRN-28-10 with batch norm, ten chain steps.

    python -m ebmjax.main --config=configs/jem_pp_cifar100.py

Everything as for CIFAR-10; no number of the paper's is known to us.
"""

from ebmjax import presets


def get_config(variant: str = "full"):
    c = presets.cifar100()
    presets.jem_pp(c)
    return presets.variant(c, variant)
