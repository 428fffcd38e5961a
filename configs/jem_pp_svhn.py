"""JEM++ on SVHN, WRN-28-10 with batch norm, ten chain steps.

    python -m ebmjax.main --config=configs/jem_pp_svhn.py

Everything as for CIFAR-10, without flips: digits have a handedness. No number of the
paper's is known to us.
"""

from ebmjax import presets


def get_config(variant: str = "full"):
    c = presets.svhn()
    presets.jem_pp(c)
    return presets.variant(c, variant)
