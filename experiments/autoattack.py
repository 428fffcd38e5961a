"""AutoAttack in JAX against the official package: accuracies and CPU times.

    python -m experiments.autoattack RUN [RUN ...]

Attacks the first test images of each run directory by the native implementation and
by pyautoattack, which sees the same model through `ebmjax.eval.judge`, and prints a
Markdown table. Times are CPU seconds, so that other programs matter little, include
compiling, and with --twice are followed by those of a call that does not compile.

    --num_images=200  --eps_linf=8,16  --eps_l2=0.5,1   in 255ths, and of [0, 1]
"""

import argparse
import pathlib
import time

import jax
import jax.numpy as jnp
import numpy as np

import ebmjax
from ebmjax import augment
from ebmjax.eval import attacks, judge

COLUMNS = (
    *("run", "norm", "eps", "images", "clean", "native", "official"),
    *("native, CPU s", "compiled", "official, CPU s", "ratio"),
)


def arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+")
    parser.add_argument("--num_images", type=int, default=200)
    parser.add_argument("--eps_linf", default="8,16")
    parser.add_argument("--eps_l2", default="0.5,1")
    parser.add_argument("--twice", action="store_true")
    return parser.parse_args()


def native(logits_fn, x, labels, norm, eps):
    """Accuracy and CPU seconds; eps in the units of [0, 1]."""
    started = time.process_time()
    x_adv = attacks.autoattack(
        jax.random.key(0),
        logits_fn,
        x,
        labels,
        norm=norm,
        eps=2 * eps,
        batch_size=len(x),
    )
    seconds = time.process_time() - started
    right = attacks.is_correct(logits_fn(jnp.asarray(x_adv)), jnp.asarray(labels))
    return float(np.mean(right)), seconds


def row(run, x, labels, norm, eps, text, *, twice):
    logits_fn = run.model.logits
    right = attacks.is_correct(logits_fn(jnp.asarray(x)), jnp.asarray(labels))
    accuracy, seconds = native(logits_fn, x, labels, norm, eps)
    again = native(logits_fn, x, labels, norm, eps)[1] if twice else None
    started = time.process_time()
    official = judge.official_autoattack(
        run.model, x, labels, norm=norm, eps=eps, batch_size=len(x), seed=0
    )
    theirs = time.process_time() - started
    return (
        *(pathlib.Path(run.workdir).name, norm, text, str(len(x))),
        *(f"{a:.1%}" for a in (np.mean(right), accuracy, official["accuracy"])),
        f"{seconds:.0f}",
        f"{again:.0f}" if twice else "",
        f"{theirs:.0f}",
        f"{seconds / theirs:.2f}",
    )


def main():
    args = arguments()
    print("| " + " | ".join(COLUMNS) + " |")
    print("|" + " --- |" * len(COLUMNS), flush=True)
    for workdir in args.runs:
        run = ebmjax.load(workdir)
        test = run.splits().test.take(slice(args.num_images))
        x = np.asarray(augment.to_float(test.image))
        for norm, scale, values in (
            ("linf", 255, args.eps_linf),
            ("l2", 1, args.eps_l2),
        ):
            for text in values.split(",") if values else ():
                eps = float(text) / scale
                shown = text if scale == 1 else f"{text}/{scale}"
                cells = row(run, x, test.label, norm, eps, shown, twice=args.twice)
                print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
