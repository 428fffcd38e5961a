"""SADA-JEM on CIFAR-100: its authors' program (github.com/sndnyang/SADAJEM).

Five chain steps; the settings are those of its script for CIFAR-10 with the other data
set, its program's default. FID is to be measured by Inception's features:
--eval.samples.extractor=inception:FILE. No number of the paper's is known to us.

    python -m ebmjax.main --config=configs/official/sada_jem_cifar100.py
"""

from ebmjax import presets


def get_config(variant: str = "full"):
    c = presets.cifar100()
    presets.sada_jem(c)
    presets.official_family(c)
    return presets.variant(c, variant)
