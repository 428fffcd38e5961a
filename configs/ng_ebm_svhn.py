"""NG-EBM on SVHN, WRN-28-10.

    python -m ebmjax.main --config=configs/ng_ebm_svhn.py

The settings of Piland et al. (2023), who report CIFAR only. 150 epochs of 1,066 steps.
"""

from ebmjax import config


def get_config(variant: str = "full"):
    c = config.default()
    c.data.name = "svhn_cropped"
    c.data.flip = False
    c.num_steps = 150 * 1066
    c.objective.energy_variance = 1.0
    c.objective.approximate_mass = 1.0
    c.every.checkpoint = c.every.samples = 1066
    c.eval.ood.sets = ("cifar10", "cifar100", "interpolation")
    return config.variant(c, variant)
