"""A plain classifier on SVHN, WRN-28-10.

    python -m ebmjax.main --config=configs/classifier_svhn.py

The baseline beside jem_svhn and ng_ebm_svhn. 150 epochs of 1,066 steps.
"""

from ebmjax import config


def get_config(variant: str = "full"):
    c = config.default()
    c.data.name = "svhn_cropped"
    c.data.flip = False
    c.num_steps = 150 * 1066
    c.every.checkpoint = c.every.samples = 1066
    c.eval.ood.sets = ("cifar10", "cifar100", "interpolation")
    return config.variant(c, variant)
