"""SADA-JEM on CIFAR-10 as its authors' program trains it (github.com/sndnyang/SADAJEM).

Five chain steps; the settings are those of its script. FID is to be measured by
Inception's features: --eval.samples.extractor=inception:FILE. Its checkpoints' names:
95.5 % accuracy, FID 9.4 of the most confident 90 % of the buffer.

    python -m ebmjax.main --config=configs/official/sada_jem_cifar10.py
"""

from ebmjax import presets


def get_config(variant: str = "full"):
    c = presets.cifar10()
    presets.sada_jem(c)
    presets.official_family(c)
    return presets.variant(c, variant)
