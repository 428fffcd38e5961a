"""A queue of the logits of recent batches, oldest first: the negatives of HDGE.

The queue of a run lies in equal parts on its devices, [D, N/D, K], and each part takes
the logits of its own device.
"""

import jax
import jax.numpy as jnp


def init(key: jax.Array, size: int, num_classes: int) -> jax.Array:
    """`size` standard normal logits.  -> [N, K]."""
    return jax.random.normal(key, (size, num_classes))


def put(queue: jax.Array, logits: jax.Array) -> jax.Array:
    """The queue after `logits` [B, K] came and as many of the oldest went.  [N, K]."""
    return jnp.concatenate([queue, logits.astype(queue.dtype)])[-len(queue) :]


def split(queue: jax.Array, num_devices: int) -> jax.Array:
    """Deals the queue out to devices, so that their parts are of one age.

    [N, K] -> [D, N/D, K], NumPy or JAX; raises ValueError unless D divides N.
    """
    if len(queue) % num_devices:
        raise ValueError(
            f"a queue of {len(queue)} logits does not divide over {num_devices} devices"
        )
    return queue.reshape(-1, num_devices, queue.shape[-1]).swapaxes(0, 1)


def join(queue: jax.Array) -> jax.Array:
    """What `split` took apart.  [D, N/D, K] -> [N, K]."""
    return queue.swapaxes(0, 1).reshape(-1, queue.shape[-1])
