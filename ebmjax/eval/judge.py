"""An independent judge of our attacks: foolbox's, on the same images."""

import jax
import jax.numpy as jnp
import numpy as np

from ebmjax import runs


def foolbox_accuracies(
    model: runs.Model,
    x: np.ndarray,
    labels: np.ndarray,
    *,
    norm: str,
    eps: list[float],
    step_share: float,
    num_steps: int,
) -> list[float]:
    """Accuracy under foolbox 3's LinfPGD or L2PGD at each eps, in the units of x.

    x [N, H, W, C] in [-1, 1], labels [N]; all at once, on one device. Raises
    ImportError where foolbox is not installed.
    """
    try:
        import eagerpy
        import foolbox
    except ImportError as error:
        raise ImportError(
            "config.eval.attacks.judge needs foolbox: pip install 'ebmjax[foolbox]'"
        ) from error
    # Parameters lie on all devices; foolbox makes its own arrays on the first.
    model = runs.Model(model.network, jax.tree.map(np.asarray, model.variables))
    attack = {"linf": foolbox.attacks.LinfPGD, "l2": foolbox.attacks.L2PGD}[norm]
    _, _, success = attack(rel_stepsize=step_share, steps=num_steps)(
        foolbox.models.JAXModel(
            jax.jit(model.logits), bounds=(-1, 1), data_format="channels_last"
        ),
        eagerpy.astensor(jnp.asarray(x)),
        eagerpy.astensor(jnp.asarray(labels)),
        epsilons=list(eps),
    )
    return [float(share) for share in 1 - success.raw.mean(axis=1)]
