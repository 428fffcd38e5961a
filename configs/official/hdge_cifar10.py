"""HDGE on CIFAR-10 as its authors' program trains it (github.com/lhao499/HDGE).

Rates, schedule, queue (65,536 logits), temperature 0.1, 5,000 images held out and the
end at a loss of 1e8 are read in its code; that it warms up as JEM's does is assumed. It
takes a pass of the batch for each of its two terms, and one serves both here. Paper:
AUROC of log p(x) .96, .82, .91 and .80 against SVHN, interpolations, CIFAR-100 and
CelebA (from memory, not verified).

    python -m ebmjax.main --config=configs/official/hdge_cifar10.py
"""

from ebmjax import presets


def get_config(variant: str = "full"):
    c = presets.cifar10()
    presets.hdge(c)
    presets.epochs(c, 200, decay_at=(160, 180))
    c.recovery.max_loss = 1e8
    c.eval.num_bins = 20
    return presets.variant(c, variant)
