"""JEM on CIFAR-100, WRN-28-10.

    python -m ebmjax.main --config=configs/jem_cifar100.py

Grathwohl et al. (2020), section 5.1: 72.2 % accuracy (as recalled), ECE 4.87 % (22.32 %
without the energy). Schedule as for CIFAR-10.
"""

from ebmjax import config


def get_config(variant: str = "full"):
    c = config.default()
    c.data.name = "cifar100"
    c.objective.p_x = 1.0
    c.num_steps = 200 * 703
    c.optimizer.decay = "step"
    c.optimizer.boundaries = (160 * 703, 180 * 703)
    c.eval.ood.sets = ("svhn_cropped", "interpolation", "cifar10")
    return config.variant(c, variant)
