"""NG-EBM on SVHN, WRN-28-10.

    python -m ebmjax.main --config=configs/ng_ebm_svhn.py

The settings of Piland et al. (2023), who report CIFAR only. 150 epochs of 1,066 steps.
"""

from ebmjax import presets


def get_config(variant: str = "full"):
    c = presets.svhn()
    presets.ng_ebm(c)
    presets.epochs(c, 150)
    return presets.variant(c, variant)
