"""JEM on SVHN, WRN-28-10.

    python -m ebmjax.main --config=configs/jem_svhn.py

Grathwohl et al. (2020): 96.7 % accuracy (as recalled). No flips: digits have a
handedness. 200 epochs of 1,066 steps, rate times 0.3 at epochs 160 and 180.
"""

from ebmjax import presets


def get_config(variant: str = "full"):
    c = presets.svhn()
    presets.jem(c)
    presets.epochs(c, 200, decay_at=(160, 180))
    return presets.variant(c, variant)
