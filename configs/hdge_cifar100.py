"""HDGE on CIFAR-100, WRN-28-10: contrastive log p(x, y), without chains.

    python -m ebmjax.main --config=configs/hdge_cifar100.py

Liu & Abbeel (2020); their accuracy and ECE on CIFAR-100 are not known to us. Schedule
as for CIFAR-10.
"""

from ebmjax import presets


def get_config(variant: str = "full"):
    c = presets.cifar100()
    presets.hdge(c)
    presets.epochs(c, 200, decay_at=(160, 180))
    return presets.variant(c, variant)
