"""An optimiser of your own, and a gradient that evaluates the loss twice.

    python -m ebmjax.main --config=examples/own_optimizer.py

The gradient is sharpness-aware minimisation (Foret et al., 2021), which is also there
as `ebmjax.optim.sam`.
"""

import jax
import optax

import ebmjax


def get_config():
    c = ebmjax.presets.digits()
    ebmjax.presets.jem(c)
    c.model.update(name="convnet", features=(16, 16))
    return c


def sharpness_aware(grad_fn, params, rho=0.05):
    """The gradient where a step of length rho uphill leads; the same samples twice."""
    grads, aux = grad_fn(params)  # over all devices
    scale = rho / (optax.tree.norm(grads) + 1e-12)
    uphill = jax.tree.map(lambda w, g: w + scale * g, params, grads)
    return grad_fn(uphill)[0], aux


def get_recipe(c):
    rate = optax.cosine_decay_schedule(3e-4, c.num_steps)
    return ebmjax.Recipe(optimizer=optax.lion(rate), gradient=sharpness_aware)
