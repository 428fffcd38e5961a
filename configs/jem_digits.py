"""JEM on scikit-learn's handwritten digits: the demonstration, no download."""

from ebmjax import config


def get_config(variant: str = "full"):
    c = config.default()
    c.num_steps = 1_200
    c.data.name = "digits"
    c.data.num_valid = 137
    c.data.pad = 1
    c.data.flip = False
    c.data.noise_std = 0.1
    c.model.depth = 10
    c.model.width = 2
    c.objective.p_x = 1.0
    c.sgld.buffer_size = 2_000
    c.optimizer.learning_rate = 3e-4
    c.optimizer.warmup_steps = 200
    c.every.log = 50
    c.every.checkpoint = 300
    c.every.samples = 100
    return c
