"""A plain classifier on SVHN, WRN-28-10.

    python -m ebmjax.main --config=configs/classifier_svhn.py

The baseline beside jem_svhn and ng_ebm_svhn. 150 epochs of 1,066 steps.
"""

from ebmjax import presets


def get_config(variant: str = "full"):
    c = presets.svhn()
    presets.epochs(c, 150)
    return presets.variant(c, variant)
