"""A plain classifier on CIFAR-100, WRN-28-10.

    python -m ebmjax.main --config=configs/classifier_cifar100.py

The baseline of both papers; Grathwohl et al. (2020) report 74.2 % accuracy (as
recalled) and ECE 22.32 %.
"""

from ebmjax import config


def get_config(variant: str = "full"):
    c = config.default()
    c.data.name = "cifar100"
    c.num_steps = 150 * 703
    c.eval.ood.sets = ("svhn_cropped", "interpolation", "cifar10")
    return config.variant(c, variant)
