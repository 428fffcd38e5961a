"""Adversarial training on CIFAR-10 by github.com/MadryLab/cifar10_challenge.

The settings are those of its config.json: PGD of 10 steps of 2/255, 80,000 steps of 128
images, nothing held out, crops from images padded by 2. Its network differs: images are
standardised one by one, leaks are 0.1, shortcuts have no weights, and moments of batch
norm keep 0.9 of their old value (0.1 here); it pads with zeros, not by reflection.
Madry et al. (2018), with 7 steps: 87.3 % accuracy, 45.8 % under PGD of 20 steps (from
memory, not verified). The evaluation has the attacks of JEM's figure.

    python -m ebmjax.main --config=configs/official/adversarial_cifar10.py
"""

from ebmjax import presets


def get_config(variant: str = "full"):
    c = presets.cifar10()
    presets.adversarial(c)
    presets.sgd(c, weight_decay=2e-4)
    c.data.update(num_valid=0, pad=2)
    c.model.update(depth=34, width=10)
    c.num_steps = 80_000
    c.optimizer.update(decay="step", boundaries=(40_000, 60_000), decay_factor=0.1)
    c.adversarial.num_steps = 10
    c.eval.attacks.update(num_images=300, num_restarts=20, refine_images=0)
    return presets.variant(c, variant)
