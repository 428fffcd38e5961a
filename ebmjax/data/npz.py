"""An .npz file of images or vectors and their labels."""

import os

import numpy as np

from ebmjax.data import arrays, images

_UNSPLIT = (("x", "y"), ("image", "label"))


class Npz:
    """A source of the arrays in an .npz file, which may hold

        x_train, y_train, x_test, y_test     splits, named by what follows x_
        x, y  or  image, label               one split, "all"
        class_names                          strings [K]; else "0", "1", ...

    x: images, uint8 [N, H, W] or [N, H, W, C], or vectors, numbers [N, D], read as
    float32. y: integers [N]; without it all labels are -1. Raises OSError for a file
    that cannot be read and ValueError for other contents, by file and key.
    """

    def __init__(self, path: str | os.PathLike):
        self.name = str(path)
        self._keys = self._load(lambda archive: archive.files)
        self._splits = {
            key[2:]: (key, "y_" + key[2:]) for key in self._keys if key[:2] == "x_"
        }
        if not self._splits:
            pairs = [pair for pair in _UNSPLIT if pair[0] in self._keys]
            if not pairs:
                content = ", ".join(map(repr, self._keys)) or "nothing"
                raise ValueError(
                    f"{path} holds {content}; expected 'x_train', 'y_train', 'x_test'"
                    " and 'y_test', or 'x' and 'y'"
                )
            self._splits = {"all": pairs[0]}

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(self._splits)

    def class_names(self) -> tuple[str, ...]:
        if "class_names" in self._keys:
            names = self._array("class_names")
            if names.ndim != 1 or names.dtype.kind not in "US":
                raise ValueError(
                    f"{self.name}: class_names is {arrays.describe(names)}; expected"
                    " strings [K]"
                )
            return tuple(map(str, names.astype(str)))
        split = "train" if "train" in self._splits else self.splits[0]
        key = self._splits[split][1]
        if key not in self._keys:
            raise ValueError(f"{self.name} has no class labels: no array {key!r}")
        label = self._array(key)
        where = f"{self.name}: {key}"
        return arrays.numbered_classes(
            arrays.to_labels(label, len(label), where), where
        )

    def read(self, split: str, rows: slice = slice(None), size=None, channels=None):
        """-> uint8 [N, H, W, C] or float32 [N, D], int32 [N]."""
        x_key, y_key = self._splits[split]
        x = arrays.to_examples(self._array(x_key), f"{self.name}: {x_key}")
        y = np.full(len(x), -1, np.int32)
        if y_key in self._keys:
            y = arrays.to_labels(self._array(y_key), len(x), f"{self.name}: {y_key}")
        x, y = x[rows], y[rows]
        if x.ndim == 2:
            if size is not None or channels is not None:
                raise ValueError(
                    f"{self.name}: {x_key} holds vectors {list(x.shape)}; expected"
                    " images, since a size or channels are given"
                )
            return x, y
        return images.resize(x, size or x.shape[1:3], channels or x.shape[3]), y

    def _array(self, key):
        return self._load(lambda archive: archive[key])

    def _load(self, get):
        try:
            with open(self.name, "rb") as file:
                archive = np.load(file)  # no pickles, which could run any code
                if isinstance(archive, np.ndarray):
                    raise ValueError(
                        "it is an .npy file: save with np.savez(path, x=x)"
                    )
                return get(archive)
        except FileNotFoundError:
            raise FileNotFoundError(f"{self.name} does not exist") from None
        # A broken zip file or array header can raise nearly anything.
        except Exception as error:
            raise OSError(f"{self.name} cannot be read as .npz: {error}") from error
