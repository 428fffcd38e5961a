"""An attack of your own, whose accuracies stand beside those of PGD.

python examples/own_attack.py runs/jem_digits
"""

import sys

import jax
import jax.numpy as jnp

import ebmjax
from ebmjax.eval.tasks import attacks


def corner(key, logits_fn, x, labels, *, norm, eps):
    """The worst of 20 random directions at the full length eps."""

    def attempt(worst, key):
        step = jax.random.normal(key, x.shape)
        if norm == "linf":
            step = jnp.sign(step)
        else:
            step /= ebmjax.energy.norm(step).reshape(eps.shape)
        x_adv = jnp.clip(x + eps * step, -1.0, 1.0)
        loss = ebmjax.losses.cross_entropy(logits_fn(x_adv), labels).reshape(eps.shape)
        best, best_loss = worst
        better = loss > best_loss
        return (jnp.where(better, x_adv, best), jnp.maximum(loss, best_loss)), None

    start = x, jnp.full(eps.shape, -jnp.inf)
    return jax.lax.scan(attempt, start, jax.random.split(key, 20))[0][0]


def main(workdir):
    return ebmjax.evaluate(workdir, tasks={"attacks": attacks.task({"corner": corner})})


if __name__ == "__main__":
    main(*sys.argv[1:])
