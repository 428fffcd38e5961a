"""Describes a data set, after preparing it if it is a TFDS one that is not prepared."""

import argparse
import logging
import sys

import numpy as np

from ebmjax import data
from ebmjax.data import tfds


def main():
    parser = argparse.ArgumentParser("python -m ebmjax.data", description=__doc__)
    parser.add_argument(
        "name", help="TFDS name (cifar10, ...), folder, .npz file, hf:NAME or digits"
    )
    parser.add_argument(
        "--data_dir", help="of TFDS data; default: $TFDS_DATA_DIR, as in TFDS"
    )
    parser.add_argument(
        "--size", type=int, default=0, help="config.data.image_size; 0: as stored"
    )
    parser.add_argument(
        "--test_fraction", type=float, default=0.2, help="config.data.test_fraction"
    )
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        if data.source_type(args.name, args.data_dir) is tfds.Tfds:
            print(_prepare(args.name, args.data_dir))
            return
        splits = data.load(
            args.name,
            data_dir=args.data_dir,
            num_valid=0,
            test_fraction=args.test_fraction,
            size=args.size,
        )
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")
    print(describe(splits))


def _prepare(name, data_dir):
    try:
        return tfds.prepare(name, data_dir)
    except (ImportError, OSError, ValueError) as error:  # OSError: no network
        sys.exit(f"{name} was not prepared: {error}")


def describe(splits: data.Splits) -> str:
    """A table of the examples of each class, and what one example is."""
    parts = {"train": splits.train, "test": splits.test}
    shape = splits.train.image.shape[1:]
    what = "x".join(map(str, shape)) + (" images" if len(shape) == 3 else " vectors")
    width = max(map(len, (*splits.class_names, "class")))
    counts = [
        np.bincount(part.label, minlength=len(splits.class_names))
        for part in parts.values()
    ]
    rows = [("class", *parts), *zip(splits.class_names, *counts, strict=True)]
    rows.append(("all", *(c.sum() for c in counts)))
    table = "\n".join(f"{a:{width}}  {b:>8}  {c:>8}" for a, b, c in rows)
    return (
        f"{len(splits.class_names)} classes, {splits.train.image.dtype} {what}\n{table}"
    )


if __name__ == "__main__":
    main()
