"""Crosscheck of our attacks: those of foolbox on the same images."""

import jax
import jax.numpy as jnp
import numpy as np

from ebmjax import runs


def modules():
    """eagerpy and foolbox. Raises ImportError with what to install."""
    try:
        import eagerpy
        import foolbox
    except ImportError as error:
        raise ImportError(
            "config.eval.attacks.crosscheck needs foolbox, which is not installed: pip"
            " install 'ebmjax[foolbox]'"
        ) from error
    return eagerpy, foolbox


def foolbox_accuracies(
    model: runs.Model,
    x: np.ndarray,
    labels: np.ndarray,
    *,
    norm: str,
    eps: list[float],
    step_share: float,
    num_steps: int,
    batch_size: int,
) -> list[float]:
    """Accuracy under foolbox 3's LinfPGD or L2PGD at each eps, in the units of x.

    x [N, H, W, C] in [-1, 1], labels [N]; on one device.
    """
    eagerpy, foolbox = modules()
    # Parameters lie on all devices; foolbox makes its own arrays on the first.
    model = runs.Model(model.network, jax.tree.map(np.asarray, model.variables))
    model = foolbox.models.JAXModel(
        jax.jit(model.logits), bounds=(-1, 1), data_format="channels_last"
    )
    attack = {"linf": foolbox.attacks.LinfPGD, "l2": foolbox.attacks.L2PGD}[norm]
    attack = attack(rel_stepsize=step_share, steps=num_steps)
    successes = []  # [E, B] of each batch
    for start in range(0, len(x), batch_size):
        part = (jnp.asarray(a[start : start + batch_size]) for a in (x, labels))
        _, _, success = attack(model, *map(eagerpy.astensor, part), epsilons=list(eps))
        successes.append(np.asarray(success.raw))
    return [float(1 - share) for share in np.concatenate(successes, axis=1).mean(1)]
