"""A folder of images: one sub-folder a class, or any images."""

import collections
import concurrent.futures
import logging
import os
import pathlib

import numpy as np

from ebmjax.data import images
from ebmjax.data.splitting import EVALUATION

SUFFIXES = tuple(
    ".avif .bmp .gif .jfif .jp2 .jpeg .jpg .pbm .pgm .png .pnm .ppm .tga .tif .tiff"
    " .webp".split()
)


class Folder:
    """A source of images below `path`, in the order of their names.

    The first sub-folder names the class of an image: path/cat/1.png. Where `path` has
    a folder "train" and one of `splitting.EVALUATION`, or nothing but "train", these
    are splits, each with a sub-folder a class; else there is one split, "all". Links
    to folders are followed. Hidden files, "._a.png" and ".ipynb_checkpoints" among
    them, and files that are not images are left out; how many is logged. Raises
    FileNotFoundError if there are no images.
    """

    def __init__(self, path: str | os.PathLike):
        self.name = str(path)
        self.path = pathlib.Path(path)
        if self.path.is_file():
            raise ValueError(
                f"{path} is a file; expected a folder of images or an .npz file"
            )
        if not self.path.is_dir():
            raise FileNotFoundError(f"{path} is not a folder, or does not exist")
        left_out = collections.Counter()
        files = list(_walk(self.path, (), frozenset(), left_out))
        if not files:
            raise FileNotFoundError(
                f"{path} has no images in it: no file ends in one of"
                f" {', '.join(SUFFIXES)}"
            )
        self._files = _by_split(files, left_out)
        classes = {c for split in self._files.values() for c, _ in split if c}
        self._classes = tuple(sorted(classes))
        if left_out:
            counts = ", ".join(f"{n} {kind}" for kind, n in sorted(left_out.items()))
            logging.warning("%s: left out %s", path, counts)

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(self._files)

    def class_names(self) -> tuple[str, ...]:
        if not self._classes:
            raise ValueError(
                f"{self.name} has no class labels: put the images of each class into a"
                " sub-folder of its name"
            )
        return self._classes

    def read(self, split: str, rows: slice = slice(None), size=None, channels=None):
        """-> uint8 [N, H, W, C], int32 [N], -1 outside the folder of a class."""
        files = self._files[split][rows]

        def decode(item):
            path = self.path.joinpath(*item[1])
            try:
                return images.decode(path, size, channels)
            except OSError as error:
                raise OSError(f"{path} cannot be read: {error}") from error

        num_threads = min(8, os.cpu_count() or 1)
        with concurrent.futures.ThreadPoolExecutor(num_threads) as pool:
            image = images.stack(pool.map(decode, files), len(files), self.name)
        number = {name: i for i, name in enumerate(self._classes)} | {None: -1}
        return image, np.array([number[c] for c, _ in files], np.int32)


def _by_split(files, left_out):
    """{split: [(class or None, parts of a path)]}; counts what no split holds."""
    tops = {parts[0] for parts in files if len(parts) > 1}
    evaluation = [name for name in EVALUATION if name in tops]
    if "train" not in tops or not (evaluation or tops == {"train"}):
        return {"all": [(_class(parts), parts) for parts in files]}
    splits = {name: [] for name in ("train", *evaluation)}
    for parts in files:
        if len(parts) > 1 and parts[0] in splits:
            splits[parts[0]].append((_class(parts[1:]), parts))
        else:
            left_out[f"outside {' and '.join(splits)}"] += 1
    return splits


def _class(parts):
    return parts[0] if len(parts) > 1 else None


def _walk(folder, parts, ancestors, left_out):
    """The paths of images, as tuples of names below the root, in order."""
    real = os.path.realpath(folder)
    if real in ancestors:  # a link to a folder that it lies in
        return
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        below = (*parts, entry.name)
        suffix = os.path.splitext(entry.name)[1].lower()
        if entry.name.startswith("."):
            left_out["hidden"] += 1
        elif entry.is_dir():
            yield from _walk(entry.path, below, ancestors | {real}, left_out)
        elif suffix in SUFFIXES and entry.is_file():
            yield below
        else:
            left_out[suffix if suffix and entry.is_file() else "other"] += 1
