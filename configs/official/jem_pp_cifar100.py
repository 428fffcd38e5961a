"""JEM++ on CIFAR-100 as its authors' program trains it (github.com/sndnyang/JEMPP).

The settings are those of its README's command for CIFAR-10 with the other data set. FID
is to be measured by Inception's features: --eval.samples.extractor=inception:FILE. No
number of the paper's is known to us.

    python -m ebmjax.main --config=configs/official/jem_pp_cifar100.py
"""

from ebmjax import presets


def get_config(variant: str = "full"):
    c = presets.cifar100()
    presets.jem_pp(c)
    presets.official_family(c)
    return presets.variant(c, variant)
