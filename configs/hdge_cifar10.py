"""HDGE on CIFAR-10, WRN-28-10: contrastive log p(x, y), without chains.

    python -m ebmjax.main --config=configs/hdge_cifar10.py

Liu & Abbeel (2020) report AUROC by log p(x) of .96, .82, .91 and .80 against SVHN,
interpolations, CIFAR-100 and CelebA (quoted from memory, not verified). The schedule is
their code's, which is JEM's: 200 epochs of 703 steps, rate times 0.3 at epochs 160 and
180. Theirs takes a pass for each of the two terms, and labels may be smoothed.
"""

from ebmjax import presets


def get_config(variant: str = "full"):
    c = presets.cifar10()
    presets.hdge(c)
    presets.epochs(c, 200, decay_at=(160, 180))
    return presets.variant(c, variant)
