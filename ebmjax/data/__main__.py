"""Downloads and prepares a TFDS data set."""

import argparse
import sys

from ebmjax.data import tfds


def main():
    parser = argparse.ArgumentParser(
        "python -m ebmjax.data", description=tfds.prepare.__doc__
    )
    parser.add_argument("name", help="as TFDS calls it: cifar10, svhn_cropped, ...")
    parser.add_argument("--data_dir", help="default: $TFDS_DATA_DIR, as in TFDS")
    args = parser.parse_args()
    try:
        print(tfds.prepare(args.name, args.data_dir))
    except (ImportError, OSError, ValueError) as error:  # OSError: no network
        sys.exit(f"{args.name} was not prepared: {error}")


if __name__ == "__main__":
    main()
