"""Which images a training step sees: a function of (seed, step) and nothing else."""

import concurrent.futures
import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import ml_collections
import numpy as np

from ebmjax import data, parallel


@contextlib.contextmanager
def batches(
    c: ml_collections.ConfigDict, splits: data.Splits
) -> Iterator[tuple[Any, Callable]]:
    """(what lies on the devices, step -> batch), as `step.train_step` takes them.

    A training set of up to `c.data.resident_mib` lies on every device, and batches
    are indices into it. A larger one stays on the host: a thread reads the next batch
    while the device works, each process that of its own devices. Raises ValueError as
    `labelled_pool` does.
    """
    train, pool = splits.train, labelled_pool(c, splits)
    if pool is not None:  # a small one comes several times in a batch
        pool = np.tile(pool, -(-c.batch_size // len(pool)))

    def indices(step):
        draw = functools.partial(batch_indices, batch_size=c.batch_size)
        batch = {"index": draw(c.seed, step, num_examples=len(train.label))}
        if pool is not None:
            index = pool[draw((c.seed, 1), step, num_examples=len(pool))]
            batch["labelled"] = {"index": index}
        return batch

    def cut(step):
        return parallel.split(indices(step))

    # Accelerators have memory of their own; CPU devices share the host's.
    copies = jax.local_device_count() if jax.default_backend() == "cpu" else 1
    if train.image.nbytes * copies <= c.data.resident_mib * 2**20:
        resident = parallel.place({"image": train.image, "label": train.label})
        yield resident, lambda step: parallel.place(cut(step), 0)
        return

    def rows(part):
        """{"index"} -> {"image", "label"}, in what is nested too."""
        found = {k: Rows(x, part["index"]) for k, x in train._asdict().items()}
        return found | {k: rows(v) for k, v in part.items() if k != "index"}

    def read(step):
        return parallel.place(rows(cut(step)), 0)

    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        ahead = {}  # the next step's batch, on its way

        def batch(step):
            found = ahead.pop(step, None) or thread.submit(read, step)
            ahead.clear()  # of a step that a divergence has done away with
            ahead[step + 1] = thread.submit(read, step + 1)
            return found.result()

        yield None, batch


class Rows:
    """array[index] with index [D, n]: each process reads its own devices' rows."""

    def __init__(self, array: np.ndarray, index: np.ndarray):
        self.array, self.index = array, index
        self.shape = (*index.shape, *array.shape[1:])

    def __getitem__(self, part: tuple[slice, ...]) -> np.ndarray:
        return self.array[self.index[part[:2]]]


def labelled_pool(
    c: ml_collections.ConfigDict, splits: data.Splits
) -> np.ndarray | None:
    """The training images, int32 [n], that the terms with labels draw for themselves;
    None if they take the batch that all terms share.

    Raises ValueError if a class has fewer than `c.data.labels_per_class`.
    """
    label = splits.train.label
    if c.data.labels_per_class:
        num_classes, seed = len(splits.class_names), c.data.split_seed
        return data.labelled_indices(label, c.data.labels_per_class, num_classes, seed)
    return np.arange(len(label), dtype=np.int32) if c.data.separate_streams else None


@functools.lru_cache(maxsize=4)  # a few streams, each in one epoch at a time
def epoch_order(
    seed: int | tuple[int, ...], epoch: int, num_examples: int
) -> np.ndarray:
    """A permutation, int32 [num_examples], that depends on nothing else. Read-only."""
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(epoch,)))
    order = rng.permutation(num_examples).astype(np.int32)
    order.setflags(write=False)  # the cache hands out this very array again
    return order


def batch_indices(
    seed: int | tuple[int, ...], step: int, *, num_examples: int, batch_size: int
) -> np.ndarray:
    """Which examples training step `step` sees, int32 [batch_size].

    An epoch has num_examples // batch_size steps; its remainder is left out, another
    one in each epoch. A resumed run needs the step number and nothing else. Raises
    ValueError unless 0 < batch_size <= num_examples.
    """
    if not 0 < batch_size <= num_examples:
        raise ValueError(
            f"batch_size={batch_size} cannot be drawn from {num_examples} examples"
        )
    epoch, position = divmod(step, num_examples // batch_size)
    start = position * batch_size
    return epoch_order(seed, epoch, num_examples)[start : start + batch_size]
