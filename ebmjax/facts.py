"""What is stored beside each state of a run, for those who read it back."""

from collections.abc import Iterable
from typing import Any, NamedTuple

from ebmjax.checkpoint import CheckpointMismatchError


class Facts(NamedTuple):
    """What is stored beside each state of a run, for those who read it back."""

    class_names: list[str]
    image_shape: list[int]  # [H, W, C], or [D] of vectors
    num_blocks: int  # of the replay buffer
    own: list[str] | tuple = ()  # fields of the recipe that are code of the user's
    scaling: list | None = None  # mean and std of vectors
    data_checksum: int | None = None  # of arrays given to `fit`

    @classmethod
    def of(cls, host: dict[str, Any]) -> "Facts":
        """Those in the host's part of a checkpoint."""
        return cls(**{k: v for k, v in host.items() if k in cls._fields})


def check_code(workdir: str, needed: Iterable[str], given: Iterable[str]) -> None:
    """Raises `checkpoint.CheckpointMismatchError` if code of a run is not given again.

    Both are names of fields of a `Recipe`.
    """
    missing = sorted(set(needed) - set(given))
    if missing:
        raise CheckpointMismatchError(
            f"{workdir} was trained with {', '.join(missing)} of a recipe, and code is"
            " never read from a run directory: pass the same recipe= again, or"
            " --config=FILE whose get_recipe(config) returns it"
        )
