"""A plain classifier on scikit-learn's handwritten digits (8x8): nothing to download.

    python -m ebmjax.main --config=configs/classifier_digits.py

Measured: 97.8 % test accuracy, ECE 2.3 % (seed 0).
"""

from ebmjax import presets


def get_config(variant: str = "full"):
    c = presets.digits()
    return presets.variant(c, variant)
