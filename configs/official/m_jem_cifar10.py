"""M-JEM on CIFAR-10 as its authors' program trains it (github.com/sndnyang/SADAJEM).

The settings are those of its script, but for the energy, which is a linear head of its
own there and the logsumexp of the logits here. FID is to be measured by Inception's
features: --eval.samples.extractor=inception:FILE. README: 94.1 % accuracy, FID 10.4 of
the whole buffer and 9.9 of the most confident 90 %.

    python -m ebmjax.main --config=configs/official/m_jem_cifar10.py
"""

from ebmjax import presets


def get_config(variant: str = "full"):
    c = presets.cifar10()
    presets.m_jem(c)
    presets.official_family(c)
    return presets.variant(c, variant)
