"""A term of your own in the objective: a gradient penalty on the energy.

python -m ebmjax.main --config=examples/own_term.py
python -m ebmjax.main --config=examples/own_term.py --config.objective.penalty=1
"""

import jax.numpy as jnp

import ebmjax


def get_config():
    c = ebmjax.config.default(terms=["penalty"])  # a weight for it
    ebmjax.presets.digits_data(c)
    c.model.update(name="convnet", features=(16, 16))
    c.optimizer.update(learning_rate=1e-3, warmup_steps=50)
    c.num_steps = 500
    c.every.checkpoint = 250
    c.objective.penalty = 0.1
    return c


def penalty(outputs):
    """mean (‖dE/dx‖ - 1)², which keeps the energy's slope near 1 at the data."""
    return jnp.mean((outputs.input_grad_norm - 1.0) ** 2)


def get_recipe(c):
    term = ebmjax.Term(penalty, needs=("input_grad",))
    return ebmjax.Recipe(terms={"penalty": term})
