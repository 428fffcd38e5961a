"""JEM on Fashion-MNIST, a small ConvNet.

    python -m ebmjax.main --config=configs/jem_fashion_mnist.py

No paper has it: 12 epochs of a data set of small grey images.
"""

from ebmjax import presets


def get_config(variant: str = "full"):
    c = presets.fashion_mnist()
    presets.jem(c)
    c.sgld.buffer_size = 5_000
    return presets.variant(c, variant)
