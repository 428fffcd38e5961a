"""Persistent chains: a sampler continues where it stopped (Tieleman, 2008).

A buffer is a value, and its functions return new ones. For class-conditional
chains its N slots are K equal blocks, the block of class y beginning at
y N/K; without classes it is one block.
"""

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from ebmjax import energy

# (key, n, labels [n]) -> n fresh starts of chains [n, ...], one for each label.
ChainInit = Callable[[jax.Array, int, jax.Array], jax.Array]


class Buffer(NamedTuple):
    samples: jax.Array  # [N, ...]; not clipped, unless the sampler does


class Draw(NamedTuple):
    x: jax.Array  # [B, ...]
    slot: jax.Array  # [B] int


def uniform(shape: tuple[int, ...], dtype: DTypeLike = float) -> ChainInit:
    """Starts from U(-1, 1), each of `shape`, whatever the labels."""

    def chain_init(key, n, labels):
        del labels
        return jax.random.uniform(key, (n, *shape), dtype, minval=-1.0, maxval=1.0)

    return chain_init


def of_every_class(chain_init: ChainInit, num_classes: int) -> ChainInit:
    """Starts of all classes in turn from a random one on, whatever the labels.

    For chains without classes: each start is one of a class drawn uniformly.
    """

    def any_class(key, n, labels):
        k_class, k_start = jax.random.split(key)
        first = jax.random.randint(k_class, (), 0, num_classes)
        return chain_init(
            k_start, n, ((first + jnp.arange(n)) % num_classes).astype(labels.dtype)
        )

    return any_class


def init(
    key: jax.Array,
    size: int,
    shape: tuple[int, ...],
    *,
    num_blocks: int = 1,
    chain_init: ChainInit | None = None,
) -> Buffer:
    """`size` fresh chains, each of `shape`, by `chain_init` (default: `uniform`).

    The labels that `chain_init` gets are those of the blocks. Raises ValueError
    unless `size` is a multiple of `num_blocks`.
    """
    labels = jnp.arange(size) // _block_size(size, num_blocks)
    samples = (chain_init or uniform(shape))(key, size, labels)
    chex.assert_shape(samples, (size, *shape))
    return Buffer(samples)


def draw(
    key: jax.Array,
    buffer: Buffer,
    labels: jax.Array,
    *,
    reinit_prob: float,
    num_blocks: int = 1,
    replace: bool = False,
    chain_init: ChainInit | None = None,
) -> Draw:
    """Starting points, one for each of `labels` [B], from the label's block.

    With probability `reinit_prob` a start is fresh, by `chain_init` (default:
    `uniform`), and otherwise what the slot holds; x has the buffer's dtype. With
    ``num_blocks=1`` pass zeros for labels.

    Slots are all different; with ``replace=True`` they are drawn independently, as
    in JEM's code, and two chains may share one. Without replacement a block must
    hold as many slots as the batch has examples of its class (past that, slots
    repeat).

    Raises ValueError for a buffer that does not divide into `num_blocks`, and for
    labels outside 0..num_blocks-1 where their values are known. Where they are
    traced, as under jit, such a label gives NaN for x, and a slot past the
    end, which `put` ignores.
    """
    samples = buffer.samples
    block = _block_size(len(samples), num_blocks)
    chex.assert_rank(labels, 1)
    energy.check_labels(labels, num_blocks)
    labels = jnp.asarray(labels, int)  # uint8 would overflow as a slot
    k_slot, k_reinit, k_fresh = jax.random.split(key, 3)
    if replace:
        within = jax.random.randint(k_slot, labels.shape, 0, block)
    else:
        within = _distinct_within(k_slot, labels, num_blocks, block)
    valid = (labels >= 0) & (labels < num_blocks)
    slot = jnp.where(valid, labels * block + within, len(samples))
    chain_init = chain_init or uniform(samples.shape[1:], samples.dtype)
    fresh = chain_init(k_fresh, len(labels), labels).astype(samples.dtype)
    chex.assert_shape(fresh, (len(labels), *samples.shape[1:]))
    reinit = jax.random.bernoulli(k_reinit, reinit_prob, labels.shape) & valid
    reinit = reinit.reshape(-1, *[1] * (fresh.ndim - 1))
    stored = samples.at[slot].get(mode="fill", fill_value=jnp.nan)
    return Draw(jnp.where(reinit, fresh, stored), slot)


def put(buffer: Buffer, slot: jax.Array, x: jax.Array) -> Buffer:
    """The buffer with chains x [B, ...] in slots [B]; the last of equal slots wins.

    The buffer keeps its dtype. Slots past the end are ignored.
    """
    samples = buffer.samples
    chex.assert_type(slot, int)
    chex.assert_shape(x, (len(slot), *samples.shape[1:]))
    # A scatter leaves the order of equal indices open, so all but the last of
    # them are sent past the end and dropped.
    later = jnp.triu(slot[:, None] == slot[None, :], k=1).any(axis=1)
    slot = jnp.where(later, len(samples), slot)
    return Buffer(samples.at[slot].set(x.astype(samples.dtype), mode="drop"))


def reshard_chains(samples: jax.Array, num_devices: int, num_blocks: int) -> jax.Array:
    """Spreads chains over another number of devices: [D, N/D, ...] -> [D', N/D', ...].

    Every chain stays in the block of its class. Raises ValueError if the chains of a
    block do not divide over the devices.
    """
    before, each, *shape = samples.shape
    if each % num_blocks or before * each % (num_blocks * num_devices):
        raise ValueError(
            f"{before * each} chains of {before} devices in {num_blocks} blocks do not"
            f" divide over {num_devices} devices"
        )
    blocks = samples.reshape(before, num_blocks, -1, *shape).swapaxes(0, 1)
    resharded = blocks.reshape(num_blocks, num_devices, -1, *shape).swapaxes(0, 1)
    return resharded.reshape(num_devices, -1, *shape)


def _block_size(size, num_blocks):
    if size < 1 or num_blocks < 1 or size % num_blocks:
        raise ValueError(
            f"a buffer of {size} slots does not divide into {num_blocks} equal blocks"
        )
    return size // num_blocks


def _distinct_within(key, labels, num_blocks, block):
    """Positions in the labels' blocks, no two examples of a class the same.  [B]."""
    keys = jax.random.split(key, num_blocks)
    shuffled = jax.vmap(lambda k: jax.random.permutation(k, block))(keys)
    same = labels[:, None] == labels[None, :]
    rank = jnp.tril(same, k=-1).sum(axis=1)  # equal labels before this one
    return shuffled[labels, rank % block]
