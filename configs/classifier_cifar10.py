"""A plain classifier on CIFAR-10, WRN-28-10.

    python -m ebmjax.main --config=configs/classifier_cifar10.py

The baseline of both papers: the same network and noise, cross-entropy alone, for 150
epochs. Without normalisation Grathwohl et al. (2020) report 93.6 % (as recalled).
"""

from ebmjax import config


def get_config(variant: str = "full"):
    c = config.default()
    c.data.name = "cifar10"
    c.num_steps = 150 * 703
    c.eval.ood.sets = ("svhn_cropped", "interpolation", "cifar100", "celeb_a")
    return config.variant(c, variant)
