"""JEM++ on CIFAR-10 as its authors' program trains it (github.com/sndnyang/JEMPP).

The settings are those of its README's command; its ten outer steps of five inner ones
are ten clipped steps here. FID is to be measured by Inception's features:
--eval.samples.extractor=inception:FILE. README: FID 36.5 over the whole buffer.

    python -m ebmjax.main --config=configs/official/jem_pp_cifar10.py
"""

from ebmjax import presets


def get_config(variant: str = "full"):
    c = presets.cifar10()
    presets.jem_pp(c)
    presets.official_family(c)
    return presets.variant(c, variant)
