"""Sizes of batches, buffers and streams that must fit together."""

import jax
import numpy as np

from ebmjax import augment, data, parallel
from ebmjax import recipe as recipes
from ebmjax.config import Config


def check_sizes(
    c: Config,
    splits: data.Splits,
    settings: recipes.Settings,
    *,
    own_augment: bool = False,
) -> None:
    """Raises ValueError for sizes that do not fit together."""
    sizes = {"config.batch_size": c.batch_size}
    if c.data.generative_batch_size:
        sizes["config.data.generative_batch_size"] = c.data.generative_batch_size
    for key, size in sizes.items():
        _check_batch_size(key, size, len(splits.train.label), settings)
    _check_streams(c, settings)
    if not own_augment:
        _check_augmentation(c.data, splits.train.image.shape[1:])
    _check_needs(c, splits.train.image.shape[1:], settings.objective.needs)
    if c.eval.checkpoint == "best" and not len(splits.valid.label):
        raise ValueError(
            "config.eval.checkpoint is 'best', which needs validation examples: set"
            " config.data.num_valid"
        )
    if settings.objective.sampled:
        _check_buffer(c, settings)
        _check_clip_x(c, splits)


def _check_batch_size(key, size, num_examples, settings):
    """Raises ValueError for a batch that cannot be cut, or not drawn."""
    parallel.check_divides(key, size)
    local_batch, steps = size // jax.device_count(), settings.accumulation_steps
    if local_batch % steps:
        raise ValueError(
            f"{key}: a device's batch of {local_batch} is not a multiple of"
            f" config.optimizer.accumulation_steps={steps}"
        )
    if size > num_examples:
        raise ValueError(
            f"{key} is {size}, but there are {num_examples} training examples"
        )


def _check_streams(c, settings):
    """Raises ValueError for what only separate streams can have."""
    labelled = {"labels", "joint_samples", "adversarial"}
    if not labelled & settings.objective.needs or _has_labelled_stream(c):
        return
    size = c.data.generative_batch_size
    if size not in (0, c.batch_size):
        raise ValueError(
            f"config.data.generative_batch_size is {size}, but all terms share one"
            f" batch of config.batch_size={c.batch_size}; set"
            " config.data.separate_streams to True"
        )
    if not c.data.generative_augment:
        raise ValueError(
            "config.data.generative_augment is False, but terms with labels share the"
            " batch of the others; set config.data.separate_streams to True"
        )


def _has_labelled_stream(c):
    return c.data.separate_streams or c.data.labels_per_class > 0


def _check_buffer(c, settings):
    """Raises ValueError for a buffer that devices and classes cannot share, or that
    is smaller than a batch of chains."""
    num_devices = jax.device_count()
    size, cells = c.sgld.buffer_size, settings.num_blocks * num_devices
    if size % cells:
        raise ValueError(
            f"config.sgld.buffer_size is {size}: it must be a multiple of {cells}"
            f" ({num_devices} devices x {settings.num_blocks} blocks)"
        )
    main = c.data.generative_batch_size or c.batch_size
    joint = "joint_samples" in settings.objective.needs
    local_batch = max(main, c.batch_size if joint else 0) // num_devices
    if size // cells < local_batch and not c.sgld.replace:
        raise ValueError(
            f"config.sgld.buffer_size is {size}: a device's block of {size // cells}"
            f" chains is smaller than its batch of {local_batch}"
        )


def _check_clip_x(c, splits):
    """Raises ValueError for chains that are kept away from the data."""
    bound = c.sgld.clip_x
    if not bound or bound >= 1 and splits.scaling is None:
        return
    x = augment.to_float(splits.train.image, splits.scaling) if splits.scaling else 1.0
    largest = float(np.max(np.abs(x)))
    if bound < largest:
        raise ValueError(
            f"config.sgld.clip_x is {bound:g}, but the network takes training examples"
            f" of up to {largest:.3g}, which chains cannot reach; set it to at least"
            " that, or to 0"
        )


def _check_needs(c, shape, needs):
    """Raises ValueError for what terms need and the config or data do not give."""
    if "queue" in needs:
        parallel.check_divides("config.hdge.queue_size", c.hdge.queue_size)
    if "outliers" in needs:
        size, steps = c.data.outliers_batch_size, c.optimizer.accumulation_steps
        parallel.check_divides("config.data.outliers_batch_size", size)
        if size // jax.device_count() % steps:
            raise ValueError(
                f"config.data.outliers_batch_size is {size}: a device's share is not a"
                f" multiple of config.optimizer.accumulation_steps={steps}"
            )
    if "adversarial" in needs and len(shape) == 1:
        raise ValueError(
            "config.objective.adversarial is for images, whose pixels bound an attack,"
            f" and the data are vectors of {shape[0]} numbers: set it to 0"
        )


def _check_augmentation(c, shape):
    """Raises ValueError for an augmentation that examples of `shape` cannot have."""
    if len(shape) == 1 and (c.pad or c.flip):
        raise ValueError(
            "config.data.pad and config.data.flip are for images, and the data are"
            f" vectors of {shape[0]} numbers: set them to 0 and False"
        )
    if len(shape) == 3 and c.pad >= min(shape[:2]):
        raise ValueError(
            f"config.data.pad is {c.pad}: reflection needs less than the"
            f" {shape[0]}x{shape[1]} image"
        )
