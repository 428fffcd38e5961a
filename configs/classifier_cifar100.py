"""A plain classifier on CIFAR-100, WRN-28-10.

    python -m ebmjax.main --config=configs/classifier_cifar100.py

The baseline of both papers; Grathwohl et al. (2020) report 74.2 % accuracy (as
recalled) and ECE 22.32 %.
"""

from ebmjax import presets


def get_config(variant: str = "full"):
    c = presets.cifar100()
    presets.epochs(c, 150)
    return presets.variant(c, variant)
