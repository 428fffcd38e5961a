"""SADA-JEM on CIFAR-10, WRN-28-10 with batch norm, five chain steps.

    python -m ebmjax.main --config=configs/sada_jem_cifar10.py

Yang et al. (2023): 95.5 % accuracy and FID 9.41 with five steps, 94.8 % with ten
(names of the published checkpoints, which are the best on test images; the FID is that
of the most confident 90 % of the buffer in each class). IS 8.77, as recalled.
"""

from ebmjax import presets


def get_config(variant: str = "full"):
    c = presets.cifar10()
    presets.sada_jem(c)
    return presets.variant(c, variant)
