"""Which examples a training step sees: a function of (seed, step) and nothing else.

A step draws from one or several streams over the training set or a data set of their
own. The batch of the stream `MAIN` is the dictionary itself, those of others are nested
under their names: {"index": [D, n], "labelled": {"index": [D, m]}}, D devices. Resident
arrays likewise: those of a stream's own data set are nested under its name.
"""

import concurrent.futures
import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from ebmjax import data, parallel

MAIN = ""  # the stream that all terms share


class Stream(NamedTuple):
    """Batches of a part of a data set, in an order given by `seed`."""

    examples: np.ndarray  # int32 [n], indices into the data set; n >= batch_size
    batch_size: int  # over all devices
    seed: int | tuple[int, ...]
    dataset: data.Dataset | None = None  # None is the training set

    def indices(self, step: int) -> np.ndarray:
        """Which examples `step` sees, int32 [batch_size]."""
        num, size = len(self.examples), self.batch_size
        return self.examples[
            batch_indices(self.seed, step, num_examples=num, batch_size=size)
        ]


def streams(
    splits: data.Splits,
    *,
    seed: int,
    batch_size: int,
    main_batch_size: int = 0,
    labels_per_class: int = 0,
    split_seed: int = 1234,
    separate: bool = False,
    outliers: data.Dataset | None = None,
    outliers_batch_size: int = 0,
) -> dict[str, Stream]:
    """The streams of a run: `MAIN` over all examples, perhaps "labelled", "outliers".

    With `labels_per_class`, the terms with labels draw "labelled" batches from so many
    examples of each class, chosen by `split_seed`; with `separate`, from all of them.
    Then `MAIN` may have a batch size of its own; 0 is `batch_size`. `outliers` have a
    stream of their own. Raises ValueError if `batch_size` exceeds the training set,
    `outliers_batch_size` the outliers, or if a class has fewer than `labels_per_class`
    examples.
    """
    label = splits.train.label
    everything = np.arange(len(label), dtype=np.int32)
    for size in (batch_size, main_batch_size or batch_size):
        if not 0 < size <= len(label):
            raise ValueError(
                f"batch_size={size} cannot be drawn from {len(label)} examples"
            )
    result = {MAIN: Stream(everything, main_batch_size or batch_size, seed)}
    if labels_per_class:
        labelled = data.labelled_indices(
            label, labels_per_class, len(splits.class_names), split_seed
        )
        # Fewer than a batch come several times in one.
        labelled = np.tile(labelled, -(-batch_size // len(labelled)))
        result["labelled"] = Stream(labelled, batch_size, (seed, 1))
    elif separate:
        result["labelled"] = Stream(everything, batch_size, (seed, 1))
    if outliers is not None:
        every_outlier = np.arange(len(outliers.label), dtype=np.int32)
        if not 0 < outliers_batch_size <= len(every_outlier):
            raise ValueError(
                f"config.data.outliers_batch_size is {outliers_batch_size}, but there"
                f" are {len(every_outlier)} outliers"
            )
        result["outliers"] = Stream(
            every_outlier, outliers_batch_size, (seed, 3), outliers
        )
    return result


def open_batches(
    train: data.Dataset, streams: Mapping[str, Stream], *, resident_mib: float
) -> "ResidentBatches | HostBatches":
    """Batches on the devices, or from the host for more than `resident_mib` a device.

    What it returns is a context manager with `resident`, the arrays that
    `train_step.train_step` takes as `data`, and `batch(step)`, its `batch`.
    """
    # Accelerators have memory of their own; CPU devices share the host's.
    copies = jax.local_device_count() if jax.default_backend() == "cpu" else 1
    own = [stream.dataset for stream in streams.values() if stream.dataset is not None]
    num_bytes = sum(dataset.image.nbytes for dataset in (train, *own))
    fits = num_bytes * copies <= resident_mib * 2**20
    return (ResidentBatches if fits else HostBatches)(train, streams)


class ResidentBatches:
    """The data sets are on every device; batches are indices into them."""

    def __init__(self, train: data.Dataset, streams: Mapping[str, Stream]):
        self.streams = streams
        own = {
            name: stream.dataset._asdict()
            for name, stream in streams.items()
            if stream.dataset is not None
        }
        self.resident = parallel.place(train._asdict() | own)

    def batch(self, step: int) -> Any:
        return parallel.place(_split_indices(self.streams, step), 0)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


class HostBatches:
    """The data sets stay on the host; batches are examples.

    A thread reads the next step's batch while the devices work, each process that of
    its own devices.
    """

    resident = None

    def __init__(self, train: data.Dataset, streams: Mapping[str, Stream]):
        self.train, self.streams = train, streams
        self._thread = concurrent.futures.ThreadPoolExecutor(1)
        self._next = {}  # {step: future}

    def batch(self, step: int) -> Any:
        result = self._next.pop(step, None) or self._thread.submit(self._read, step)
        # After a divergence the prefetched step is not the one that comes next.
        self._next = {step + 1: self._thread.submit(self._read, step + 1)}
        return result.result()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._thread.shutdown(cancel_futures=True)

    def _read(self, step):
        return parallel.place(self._rows(_split_indices(self.streams, step)), 0)

    def _rows(self, tree, name=MAIN):
        """{"index": ...} -> {"image": ..., "label": ...}, also in nested ones."""
        nested = {k: self._rows(v, k) for k, v in tree.items() if k != "index"}
        dataset = self.streams[name].dataset
        arrays = (self.train if dataset is None else dataset)._asdict()
        return {k: Rows(x, tree["index"]) for k, x in arrays.items()} | nested


class Rows:
    """array[index] with index [D, n], read where it is sliced.

    `parallel.place` slices arrays by the devices of this process, so that each process
    reads nothing but its own rows.
    """

    def __init__(self, array: np.ndarray, index: np.ndarray):
        self.array, self.index = array, index
        self.shape = (*index.shape, *array.shape[1:])

    def __getitem__(self, part: tuple[slice, ...]) -> np.ndarray:
        return self.array[self.index[part[:2]]]


def _split_indices(streams, step):
    """The batch tree of `step` with "index" [D, n] for each stream."""
    batches = {
        name: {"index": parallel.split(stream.indices(step))}
        for name, stream in streams.items()
    }
    return batches.pop(MAIN) | batches


@functools.lru_cache(maxsize=4)  # a few streams, each in one epoch at a time
def epoch_order(
    seed: int | tuple[int, ...], epoch: int, num_examples: int
) -> np.ndarray:
    """A permutation, int32 [num_examples], that depends on nothing else. Read-only."""
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(epoch,)))
    order = rng.permutation(num_examples).astype(np.int32)
    order.setflags(write=False)  # the cache returns this array again
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
