"""JEM on SVHN, WRN-28-10.

    python -m ebmjax.main --config=configs/jem_svhn.py

Grathwohl et al. (2020): 96.7 % accuracy (as recalled). No flips: digits have a
handedness. 200 epochs of 1,066 steps, rate times 0.3 at epochs 160 and 180.
"""

from ebmjax import config


def get_config(variant: str = "full"):
    c = config.default()
    c.data.name = "svhn_cropped"
    c.data.flip = False
    c.objective.p_x = 1.0
    c.num_steps = 200 * 1066
    c.optimizer.decay = "step"
    c.optimizer.boundaries = (160 * 1066, 180 * 1066)
    c.every.checkpoint = c.every.samples = 1066
    c.eval.ood.sets = ("cifar10", "cifar100", "interpolation")
    return config.variant(c, variant)
