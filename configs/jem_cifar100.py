"""JEM on CIFAR-100, WRN-28-10.

    python -m ebmjax.main --config=configs/jem_cifar100.py

Grathwohl et al. (2020), section 5.1: 72.2 % accuracy (as recalled), ECE 4.87 % (22.32 %
without the energy). Schedule as for CIFAR-10.
"""

from ebmjax import presets


def get_config(variant: str = "full"):
    c = presets.cifar100()
    presets.jem(c)
    presets.epochs(c, 200, decay_at=(160, 180))
    return presets.variant(c, variant)
