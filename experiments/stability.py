"""How often JEM diverges at many times its usual learning rate, and what helps.

    python -m experiments.stability --train [--data=cifar10] [--seeds=10]
    python -m experiments.stability

Trains JEM with 20 chain steps on CIFAR-10, a small ConvNet in batches of 16, with Adam
at a multiple of the published 1e-4 and without warm-up, for each seed: as published,
with each of the stabilisers of its successors, and with all of them. What was measured
is kept in experiments/results/stability.json, so that the command may be stopped and
started again; without --train the table is printed from that file.

    --learning_rate=X  Adam's (0.001)
    --steps=N          the length of a run (2,000)
    --only=NAME,...    some of the variants
    --runs=DIR         the folder of run directories (runs/stability)
"""

import argparse
import json
import pathlib
import statistics
from collections.abc import Collection, Iterator

import ml_collections
import numpy as np

import ebmjax
from ebmjax import config, config_file, presets, recovery, rundir, writers

VARIANTS = {  # keys that differ from JEM's
    "JEM": {},
    "clipped": {"sgld.clip_grad": 1.0, "sgld.clip_x": 1.0},
    "energy L2": {"objective.energy_l2": 0.1},
    "class-Gaussian starts": {"sgld.init": "class_gaussian"},
    "guard": {"recovery.skip_sigma": 6.0},
}
VARIANTS["all of them"] = {
    key: value for keys in VARIANTS.values() for key, value in keys.items()
}
COLUMNS = (
    *("", "runs", "runs restored", "runs that diverged", "runs with skipped steps"),
    "accuracy on 200 validation images, %",
    "largest absolute energy, mean of ten batches",
    "largest absolute value of the final chains",
)
RESULTS = pathlib.Path(__file__).parent / "results" / "stability.json"


def config_of(variant: str, seed: int, args) -> ml_collections.ConfigDict:
    c = config_file.load_config("jem_cifar10")
    presets.small(c)  # which keeps the chains of the paper
    c.model.update(name="convnet", features=(8, 16, 16))
    c.batch_size, c.sgld.buffer_size = 16, 500
    c.optimizer.update(warmup_steps=0, decay="constant", boundaries=())
    c.optimizer.learning_rate = args.learning_rate
    c.num_steps, c.seed, c.data.name = args.steps, seed, args.data
    c.every.update(log=10, checkpoint=250, samples=args.steps)
    c.tensorboard, c.eval.tasks = False, ()
    c.update_from_flattened_dict(VARIANTS[variant])
    config.check(c)
    return c


def measured(workdir: pathlib.Path, c, splits) -> dict:
    """Of one run: returns to a checkpoint, skipped steps, whether it gave up, the
    last validation accuracy, the largest mean energy of ten batches, and the largest
    value of the chains at its end."""
    try:
        run, ended = ebmjax.fit(c, workdir, data=splits), False
    except recovery.Diverged:
        run, ended = None, True
    lines = list(writers.read(workdir / writers.METRICS))
    keys = ("energy_data", "energy_model")
    return {
        "recoveries": len(writers.events(workdir)),
        "ended": ended,
        "skipped": run.skipped if run else None,
        "accuracy": next(
            (line["accuracy"] for line in lines[::-1] if line["split"] == "valid"), None
        ),
        "energy": max(
            (abs(line[key]) for line in lines for key in keys if key in line),
            default=None,
        ),
        "x": float(np.abs(run.buffer).max()) if run else None,
    }


def grouped(found: dict[str, dict], variants, seeds: int) -> dict[str, list[dict]]:
    """{variant: what was measured of its seeds below `seeds`}, if there are any."""
    names = {variant: [_name(variant, n) for n in range(seeds)] for variant in variants}
    runs = {v: [found[n] for n in of if n in found] for v, of in names.items()}
    return {variant: of_variant for variant, of_variant in runs.items() if of_variant}


def table(results: dict[str, list[dict]]) -> str:
    """Markdown: shares of the runs, the mean accuracy of those that did not give up,
    and medians and maxima of the rest."""
    lines = [f"| {' | '.join(COLUMNS)} |", "| --- " * len(COLUMNS) + "|"]
    for variant, runs in results.items():
        shares = (
            statistics.fmean(bool(run[key]) for run in runs)
            for key in ("recoveries", "ended", "skipped")
        )
        values = (
            [run[key] for run in runs if run[key] is not None]
            for key in ("energy", "x")
        )
        accuracies = [100 * run["accuracy"] for run in runs if not run["ended"]]
        cells = [
            *(variant, str(len(runs))),
            *(f"{share:.0%}" for share in shares),
            f"{statistics.fmean(accuracies):.1f}" if accuracies else "",
            *(
                f"{statistics.median(v):.3g} (max {max(v):.3g})" if v else ""
                for v in values
            ),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(
        "python -m experiments.stability",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--train", action="store_true")
    parser.add_argument("--data", default="cifar10")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--steps", type=int, default=2_000)
    parser.add_argument("--learning_rate", type=float, default=1e-3)
    parser.add_argument("--only", default=",".join(VARIANTS))
    parser.add_argument("--runs", type=rundir.expand, default="runs/stability")
    args = parser.parse_args()
    for variant in args.only.split(","):
        if variant not in VARIANTS:
            parser.error(f"--only: {variant!r} is none of {', '.join(VARIANTS)}")
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    setting = f"learning rate {args.learning_rate:g}, {args.steps} steps"
    found = results.setdefault(setting, {})
    if args.train:
        for name, result in train(args, found):
            found[name] = result
            RESULTS.write_text(json.dumps(results, indent=1) + "\n")
            print(name, result, flush=True)
    print(table(grouped(found, args.only.split(","), args.seeds)))


def train(args, found: Collection[str]) -> Iterator[tuple[str, dict]]:
    """Trains the runs that are not in `found`. Yields (name, what was measured)."""
    splits = ebmjax.data.load(args.data, num_valid=200)
    for seed in range(args.seeds):
        for variant in args.only.split(","):
            name = _name(variant, seed)
            if name not in found:
                c = config_of(variant, seed, args)
                workdir = f"{name}-{args.learning_rate:g}-{args.steps}"
                workdir = pathlib.Path(args.runs, workdir)
                yield name, measured(workdir, c, splits)


def _name(variant, seed):
    return f"{variant.lower().replace(' ', '_')}-{seed}"


if __name__ == "__main__":
    main()
