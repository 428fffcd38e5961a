"""Adversarial training on CIFAR-10: WRN-34-10, PGD of 7 steps, L-infinity 8/255.

    python -m ebmjax.main --config=configs/adversarial_cifar10.py

Madry et al. (2018): 87.3 % accuracy, 45.8 % under PGD of 20 steps (quoted from memory,
not verified). 80,000 steps, rate times 0.1 at 40,000 and 60,000 as in their program,
whose attack takes 10 steps: configs/official/adversarial_cifar10.py. For L2:
--config.adversarial.norm=l2 --config.adversarial.eps=0.5
--config.adversarial.step_size=0.1
"""

from ebmjax import presets


def get_config(variant: str = "full"):
    c = presets.cifar10()
    presets.adversarial(c)
    presets.sgd(c, weight_decay=2e-4)
    c.model.update(depth=34, width=10)
    c.num_steps = 80_000
    c.optimizer.update(decay="step", boundaries=(40_000, 60_000), decay_factor=0.1)
    return presets.variant(c, variant)
