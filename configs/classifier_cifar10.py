"""A plain classifier on CIFAR-10, WRN-28-10.

    python -m ebmjax.main --config=configs/classifier_cifar10.py

The baseline of both papers: the same network and noise, cross-entropy alone, for 150
epochs. Without normalisation Grathwohl et al. (2020) report 93.6 % (as recalled).
"""

from ebmjax import presets


def get_config(variant: str = "full"):
    c = presets.cifar10()
    presets.epochs(c, 150)
    return presets.variant(c, variant)
