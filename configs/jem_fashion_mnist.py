"""JEM on Fashion-MNIST, a small ConvNet.

    python -m ebmjax.main --config=configs/jem_fashion_mnist.py

No paper has it: 12 epochs of a data set of small grey images.
"""

from ebmjax import config


def get_config(variant: str = "full"):
    c = config.default()
    c.data.name = "fashion_mnist"
    c.data.pad = 2
    c.num_steps = 12 * 859
    c.model.name = "convnet"
    c.objective.p_x = 1.0
    c.sgld.buffer_size = 5_000
    c.optimizer.learning_rate = 3e-4
    c.optimizer.decay = "cosine"
    c.every.checkpoint = c.every.samples = 859
    c.eval.ood.sets = ("mnist", "interpolation", "uniform", "constant")
    return config.variant(c, variant)
