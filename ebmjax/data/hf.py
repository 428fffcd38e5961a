"""Data sets of Hugging Face `datasets`, by name or from a folder."""

import importlib.util
import os

import numpy as np

from ebmjax.data import arrays, images


class HuggingFace:
    """A source of what `datasets` reads: "hf:NAME", or "hf:/path" for a folder that
    `save_to_disk` wrote.

    Images are the first column of type Image; without one, vectors are the first
    column of lists of numbers. Labels are the first column of type ClassLabel. A name
    is looked up on the Hugging Face Hub, and downloaded when it is first used. Raises
    OSError for what cannot be loaded, and ValueError for data sets without such columns
    or where `datasets` is not installed.
    """

    def __init__(self, path: str):
        if importlib.util.find_spec("datasets") is None:
            raise ValueError(
                f"hf:{path} needs Hugging Face datasets: pip install 'ebmjax[hf]'"
            )
        import datasets  # a second

        self.name = f"hf:{path}"
        local = os.path.expanduser(path)
        if os.path.isabs(local) and not os.path.isdir(local):
            raise FileNotFoundError(f"{self.name}: {local} is not a folder")
        try:
            if os.path.isdir(local) and _is_saved(local):
                parts = datasets.load_from_disk(local)
            else:
                parts = datasets.load_dataset(local if os.path.isdir(local) else path)
        # Networks, caches and files of many formats lie below this.
        except Exception as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise OSError(f"{self.name} cannot be loaded: {reason}") from error
        self._parts = parts if isinstance(parts, dict) else {"all": parts}
        features = next(iter(self._parts.values())).features
        self._image = _first(features, lambda f: isinstance(f, datasets.Image))
        self._vector = _first(features, lambda f: _is_vector(f, datasets))
        self._label = _first(features, lambda f: isinstance(f, datasets.ClassLabel))
        self._names = tuple(features[self._label].names) if self._label else ()
        self._raw_image = datasets.Image(decode=False)
        if self._image is None and self._vector is None:
            raise ValueError(
                f"{self.name} has the columns {dict(features)}; expected one of type"
                " Image, or lists of floats"
            )

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(self._parts)

    def class_names(self) -> tuple[str, ...]:
        if not self._names:
            raise ValueError(
                f"{self.name} has no class labels: no column of type ClassLabel (see"
                " datasets' class_encode_column)"
            )
        return self._names

    def read(self, split: str, rows: slice = slice(None), size=None, channels=None):
        """-> uint8 [N, H, W, C] or float32 [N, D], int32 [N]."""
        part = self._parts[split]
        part = part.select(range(*rows.indices(len(part))))
        where = f"{self.name}, split {split!r}"
        label = np.full(len(part), -1, np.int32)
        if self._label:
            values = [-1 if y is None else y for y in part[self._label]]
            label = arrays.to_labels(values, len(part), f"{where}: {self._label}")
        if self._image is None:
            return self._vectors(part, where, size or channels), label
        encoded = part.cast_column(self._image, self._raw_image)
        decoded = (
            self._decode(x[self._image], f"{where}, row {i}", size, channels)
            for i, x in enumerate(encoded)
        )
        return images.stack(decoded, len(part), self.name), label

    def _decode(self, image, where, size, channels):
        if image is None:
            raise ValueError(f"{where} has no image")
        try:
            return images.decode(image["bytes"] or image["path"], size, channels)
        except OSError as error:
            raise OSError(f"{where} cannot be read: {error}") from error

    def _vectors(self, part, where, as_image):
        if as_image:
            raise ValueError(f"{where} holds vectors, not images")
        rows = part[self._vector][:]
        lengths = {len(x) for x in rows}
        if len(lengths) != 1:
            raise ValueError(
                f"{where}: {self._vector} holds lists of different lengths"
                f" ({arrays.shorten(sorted(lengths)) or 'none'})"
            )
        return arrays.to_examples(np.array(rows), f"{where}: {self._vector}")


def _is_saved(folder):
    names = ("dataset_dict.json", "state.json")
    return any(os.path.exists(os.path.join(folder, name)) for name in names)


def _is_vector(feature, datasets):
    inner = getattr(feature, "feature", None)
    return isinstance(inner, datasets.Value) and "float" in inner.dtype


def _first(features, fits):
    return next((name for name, feature in features.items() if fits(feature)), None)
