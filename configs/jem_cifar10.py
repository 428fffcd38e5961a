"""JEM on CIFAR-10, WRN-28-10.

    python -m ebmjax.main --config=configs/jem_cifar10.py

Grathwohl et al. (2020), Table 1: 92.9 % accuracy, IS 8.76, FID 38.4, after 36 hours
on a GPU. The schedule is the official code's: 200 epochs of 703 steps, rate times 0.3
at epochs 160 and 180.
"""

from ebmjax import config


def get_config(variant: str = "full"):
    c = config.default()
    c.data.name = "cifar10"
    c.objective.p_x = 1.0
    c.num_steps = 200 * 703
    c.optimizer.decay = "step"
    c.optimizer.boundaries = (160 * 703, 180 * 703)
    c.eval.ood.sets = ("svhn_cropped", "interpolation", "cifar100", "celeb_a")
    return config.variant(c, variant)
