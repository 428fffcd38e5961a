"""JEM++ on CIFAR-10, WRN-28-10 with batch norm, ten chain steps.

    python -m ebmjax.main --config=configs/jem_pp_cifar10.py

Yang & Ji (2021), M = 10: 93.5 % accuracy, FID 37.1, IS 8.29 (as recalled; 93.73 % in a
later paper's table); the README of its code: FID 36.5 over the whole buffer. Numbers
for other steps, as recalled: 91.1 %, FID 37.9 (M = 5); 94.1 %, FID 38.0 (M = 20).
"""

from ebmjax import presets


def get_config(variant: str = "full"):
    c = presets.cifar10()
    presets.jem_pp(c)
    return presets.variant(c, variant)
