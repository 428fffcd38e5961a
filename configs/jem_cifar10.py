"""JEM on CIFAR-10, WRN-28-10.

    python -m ebmjax.main --config=configs/jem_cifar10.py

Grathwohl et al. (2020), Table 1: 92.9 % accuracy, IS 8.76, FID 38.4, after 36 hours
on a GPU. The schedule is the official code's: 200 epochs of 703 steps, rate times 0.3
at epochs 160 and 180.
"""

from ebmjax import presets


def get_config(variant: str = "full"):
    c = presets.cifar10()
    presets.jem(c)
    presets.epochs(c, 200, decay_at=(160, 180))
    return presets.variant(c, variant)
