"""Which examples form a test, a validation or a labelled set: functions of labels."""

import numpy as np

# The splits that a classifier may be tested on, the first one that there is.
EVALUATION = ("test", "validation", "valid", "val")


def stratified(label: np.ndarray, fraction: float) -> np.ndarray:
    """A mask [N] of `fraction` of the examples of each class, always the same ones.

    Of a class with at least two examples it takes neither none nor all.
    """
    rng, mask = np.random.default_rng(0), np.zeros(len(label), bool)
    for k in np.unique(label):
        members = rng.permutation(np.flatnonzero(label == k))
        num = min(max(round(fraction * len(members)), 1), len(members) - 1)
        mask[members[:num]] = True
    return mask


def hold_out(label: np.ndarray, num: int, seed: int) -> np.ndarray:
    """A mask [N] of `num` random examples that leave one of each class outside.

    Raises ValueError if there are not so many.
    """
    order = np.random.default_rng(seed).permutation(len(label))
    # The last example of each class in this order is never held out.
    last = order[::-1][np.unique(label[order][::-1], return_index=True)[1]]
    most = len(label) - len(last)
    if not 0 <= num <= most:
        raise ValueError(
            f"num_valid must be from 0 to {most}, not {num}: there are {len(label)}"
            " examples to train on, and every class needs one of them"
        )
    mask = np.zeros(len(label), bool)
    mask[order[~np.isin(order, last)][:num]] = True
    return mask


def labelled_indices(label, labels_per_class, num_classes, seed) -> np.ndarray:
    """Indices of `labels_per_class` examples of each class, drawn by `seed`.

    label [N] -> int32 [labels_per_class * num_classes], ascending. Raises ValueError
    for a class that has fewer.
    """
    rng = np.random.default_rng(seed)
    indices = []
    for k in range(num_classes):
        members = np.flatnonzero(label == k)
        if len(members) < labels_per_class:
            raise ValueError(
                f"labels_per_class={labels_per_class} asks for more than the "
                f"{len(members)} examples of class {k}"
            )
        indices.append(rng.permutation(members)[:labels_per_class])
    return np.sort(np.concatenate(indices)).astype(np.int32)
