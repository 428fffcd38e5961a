"""NG-EBM on Fashion-MNIST, a small ConvNet.

    python -m ebmjax.main --config=configs/ng_ebm_fashion_mnist.py

No paper has it: 12 epochs of a data set of small grey images.
"""

from ebmjax import presets


def get_config(variant: str = "full"):
    c = presets.fashion_mnist()
    presets.ng_ebm(c)
    return presets.variant(c, variant)
