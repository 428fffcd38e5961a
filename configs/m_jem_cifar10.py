"""M-JEM on CIFAR-10, WRN-28-10 with batch norm, five chain steps.

    python -m ebmjax.main --config=configs/m_jem_cifar10.py

Its evaluation script states for one checkpoint: 94.08 % accuracy, FID 10.38 and IS 8.18
over the whole buffer, 9.87 and 8.31 over the most confident 90 %. In that network
log p(x) comes from a linear head beside the classes, which no key expresses: here it is
that of the logits. The noise is that of the training script; the README has none.
"""

from ebmjax import presets


def get_config(variant: str = "full"):
    c = presets.cifar10()
    presets.m_jem(c)
    return presets.variant(c, variant)
