"""Persistent chains: the sampler goes on where it stopped (Tieleman, 2008).

A buffer is a value, and its functions return new ones. For class-conditional
chains its N slots are K equal blocks, the block of class y beginning at
y N/K; without classes it is one block.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Buffer(NamedTuple):
    samples: jax.Array  # [N, H, W, C], started in [-1, 1], not clipped after


class Draw(NamedTuple):
    x: jax.Array  # [B, H, W, C]
    slot: jax.Array  # [B] int


def init(key: jax.Array, size: int, shape: tuple[int, ...]) -> Buffer:
    """`size` chains at U(-1, 1), each of `shape`."""
    return Buffer(jax.random.uniform(key, (size, *shape), minval=-1.0, maxval=1.0))


def draw(
    key: jax.Array,
    buffer: Buffer,
    labels: jax.Array,
    *,
    reinit_prob: float,
    num_blocks: int = 1,
    replace: bool = False,
) -> Draw:
    """Starting points, one for each of `labels` [B], from the label's block.

    A start is fresh U(-1, 1) noise with probability `reinit_prob`. With
    ``num_blocks=1`` pass zeros for labels. Slots are all different; with
    ``replace=True`` they are drawn independently, as in JEM's code, and two
    chains may share one. Without replacement a block must hold as many slots
    as the batch has examples of its class (past that, slots repeat).
    """
    k_slot, k_reinit, k_fresh = jax.random.split(key, 3)
    block = len(buffer.samples) // num_blocks
    if replace:
        within = jax.random.randint(k_slot, labels.shape, 0, block)
    else:
        within = _distinct_within(k_slot, labels, num_blocks, block)
    slot = labels * block + within
    fresh = init(k_fresh, len(labels), buffer.samples.shape[1:]).samples
    reinit = jax.random.bernoulli(k_reinit, reinit_prob, labels.shape)
    reinit = reinit.reshape(-1, *[1] * (fresh.ndim - 1))
    return Draw(jnp.where(reinit, fresh, buffer.samples[slot]), slot)


def put(buffer: Buffer, slot: jax.Array, x: jax.Array) -> Buffer:
    """The buffer with chains x [B, ...] in slots [B]; the last of equal slots wins."""
    # A scatter leaves the order of equal indices open, so all but the last of
    # them are sent past the end and dropped.
    later = jnp.triu(slot[:, None] == slot[None, :], k=1).any(axis=1)
    slot = jnp.where(later, len(buffer.samples), slot)
    return Buffer(buffer.samples.at[slot].set(x, mode="drop"))


def _distinct_within(key, labels, num_blocks, block):
    """Positions in the labels' blocks, no two examples of a class the same.  [B]."""
    keys = jax.random.split(key, num_blocks)
    shuffled = jax.vmap(lambda k: jax.random.permutation(k, block))(keys)
    same = labels[:, None] == labels[None, :]
    rank = jnp.tril(same, k=-1).sum(axis=1)  # equal labels before this one
    return shuffled[labels, rank % block]
