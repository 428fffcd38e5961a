"""Outlier exposure by energies on CIFAR-10: WRN-40-2, outliers from ImageNet at 32x32.

    python -m ebmjax.main --config=configs/outlier_exposure_cifar10.py

Liu et al. (2020): the share of OOD images accepted with 95 % of the test images falls
from 33.0 to 3.3 %, mean of six sets (as their code's README has it). They fine-tune a
trained classifier for 10 epochs, as configs/official/outlier_exposure_cifar10.py does,
with 80 Million Tiny Images, which were withdrawn; here one training of 100 epochs of
351 steps has all terms. Network, batches, weight and the margins (the defaults of its
train.py) are read in their code; the number of epochs is that of their classifiers.
"""

from ebmjax import presets


def get_config(variant: str = "full"):
    c = presets.cifar10()
    presets.outlier_exposure(c)
    presets.sgd(c, weight_decay=5e-4)
    c.model.update(depth=40, width=2)
    c.num_steps = 100 * 351
    c.optimizer.decay = "cosine"
    return presets.variant(c, variant)
