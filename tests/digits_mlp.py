"""A run of seconds, for tests that start it as a program: JEM by an MLP on digits.

python -m ebmjax.main --config=tests/digits_mlp.py
"""

from ebmjax import config


def get_config():
    c = config.default()
    c.data.name = "digits"
    c.data.num_valid = 60
    c.data.pad = 0
    c.data.flip = False
    c.data.noise_std = 0.1
    c.model.name = "mlp"
    c.model.features = (16,)
    c.objective.p_x = 1.0
    c.sgld.class_conditional = True
    c.sgld.num_steps = 2
    c.sgld.buffer_size = 400
    c.batch_size = 32
    c.num_steps = 8
    c.optimizer.learning_rate = 1e-2
    c.optimizer.warmup_steps = 0
    c.optimizer.ema_decay = 0.9
    c.every.log = 2
    c.every.checkpoint = 4
    c.every.samples = 4
    c.tensorboard = False
    c.eval.tasks = ("classification",)
    return c
