"""Common code of the experiments: finding, training and evaluating runs, reports.

An experiment is a module with `specs`, the `PARTS` of the evaluation that it needs, and
`report`. `python -m experiments.NAME` reads run directories, evaluates those that have
not been evaluated, and writes NAME.md and its pictures beside them:

    --runs=DIR   the folder of run directories: runs/papers, or runs/papers-small
    --train      train the runs that are missing or unfinished
    --small      the digits and a small network: minutes on two CPU cores
"""

import argparse
import pathlib
import sys
from collections.abc import Callable
from typing import NamedTuple

import ml_collections
from absl import logging
from matplotlib.figure import Figure

from ebmjax import cli, config, presets, processes, rundir, runs, train
from ebmjax.eval import evaluate as evaluation
from ebmjax.eval.report import charts


class Spec(NamedTuple):
    """A run: a file of configs/official, and changes to it."""

    objective: str
    dataset: str = "cifar10"
    changes: tuple[tuple[str, object], ...] = ()

    def name(self, small: bool) -> str:
        dataset = "digits" if small else self.dataset
        changes = [f"{key.split('.')[-1]}={value}" for key, value in self.changes]
        return "-".join([f"{self.objective}_{dataset}", *changes])

    def config(self, small: bool) -> ml_collections.ConfigDict:
        c = cli.load_config(f"official/{self.objective}_{self.dataset}")
        if small:
            shrink(c)
        for key, value in self.changes:
            config.assign(c, key, value)
        return c


class Result(NamedTuple):
    numbers: dict  # eval.json
    workdir: pathlib.Path

    def file(self, name: str) -> pathlib.Path:
        """A file that the evaluation wrote."""
        return self.workdir / evaluation.FOLDER / name


class Report(NamedTuple):
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]
    pictures: dict[str, Figure | bytes]  # by caption; bytes are PNG
    notes: str = ""


def shrink(c: ml_collections.ConfigDict) -> None:
    """Changes `c` to the digits, a small network and minutes on two CPU cores."""
    presets.digits_data(c)
    presets.small(c)
    c.num_steps = 500
    c.optimizer.update(decay="constant", boundaries=())
    c.every.log = 100
    c.eval.batch_size = 360
    c.eval.ood.sets = ("interpolation", "uniform", "gaussian", "constant")
    c.eval.attacks.update(
        num_images=50,
        batch_size=200,
        eps_linf=(8.0, 16.0, 32.0, 64.0),
        eps_l2=(0.5, 1.0, 2.0),
        num_steps=10,
        num_restarts=1,
        distance_rounds=6,
        max_eps_linf=128.0,
        max_eps_l2=4.0,
        refine_images=20,
        refine_gradients=("true",),
        distal_steps=100,
    )
    c.eval.samples.update(num_chains=100, num_steps=100, num_reference=1_300)


def main(
    doc: str,
    specs: Callable[[bool], list[Spec]],
    parts: tuple[str, ...],
    report: Callable[[dict[Spec, Result]], Report],
) -> None:
    """Finds or trains the runs of `specs(small)`, evaluates them, writes the report."""
    name, args = arguments(doc)
    chosen = specs(args.small)
    try:
        results = {}
        for spec in chosen:
            results[spec] = result(
                spec, args.runs, parts, small=args.small, may_train=args.train
            )
        print(write(args.runs, name, doc, report(results)))
    except (OSError, ValueError, RuntimeError) as error:
        sys.exit(f"error: {error}")


def arguments(doc: str) -> tuple[str, argparse.Namespace]:
    """The name and the flags of the experiment; sets up devices and cache."""
    name = pathlib.Path(sys.argv[0]).stem
    parser = argparse.ArgumentParser(
        f"python -m experiments.{name}",
        description=doc,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--small", action="store_true", help="digits, small network")
    parser.add_argument("--train", action="store_true", help="train missing runs")
    parser.add_argument("--runs", type=rundir.expand, help="folder of run directories")
    args = parser.parse_args()
    if args.runs is None:
        args.runs = pathlib.Path("runs/papers-small" if args.small else "runs/papers")
    logging.set_verbosity("error")
    processes.start(sizes=(64,))
    cli.set_up_jax()
    return name, args


def result(
    spec: Spec,
    folder: pathlib.Path,
    parts: tuple[str, ...],
    *,
    small: bool,
    may_train: bool,
) -> Result:
    """The evaluation of a run, which is trained and evaluated if need be."""
    c, workdir = spec.config(small), folder / spec.name(small)
    if "samples" in parts and spec.objective != "classifier":
        # The same features for all.
        classifier = folder / Spec("classifier", spec.dataset).name(small)
        c.eval.samples.extractor = str(classifier)
    if not is_finished(workdir, c):
        if not may_train:
            raise FileNotFoundError(f"{workdir} holds no finished run; add --train")
        print(f"training {workdir}", flush=True)
        train.fit(c, str(workdir))
    numbers = evaluation.read(str(workdir))
    missing = [part for part in parts if "error" in numbers.get(part, {"error": ""})]
    if missing:
        print(f"evaluating {workdir}: {', '.join(missing)}", flush=True)
        numbers = evaluation.evaluate(
            runs.load_with_config(str(workdir), c), tasks=missing
        )
    for part in parts:
        if "error" in numbers[part]:
            raise RuntimeError(f"{workdir}: {part}: {numbers[part]['error']}")
    return Result(numbers, workdir)


def is_finished(workdir: pathlib.Path, c: ml_collections.ConfigDict) -> bool:
    if not (workdir / rundir.CONFIG).exists():
        return False
    try:
        return runs.load_with_config(str(workdir), c).step >= c.num_steps
    except FileNotFoundError:
        return False


def write(folder: pathlib.Path, name: str, doc: str, report: Report) -> str:
    """Writes NAME.md and its pictures to `folder`; returns the text."""
    lines = [report.columns, ["---"] * len(report.columns), *report.rows]
    lines = [[cell.replace("|", "\\|") for cell in cells] for cells in lines]
    table = "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
    text = f"# {doc.strip().splitlines()[0]}\n\n{table}\n"
    if report.notes:
        text += f"\n{report.notes}\n"
    folder.mkdir(parents=True, exist_ok=True)
    for caption, picture in report.pictures.items():
        file = f"{name}-{caption.replace(' ', '_')}.png"
        png = picture if isinstance(picture, bytes) else charts.png(picture)
        (folder / file).write_bytes(png)
        text += f"\n![{caption}]({file})\n"
    (folder / f"{name}.md").write_text(text)
    return text


def percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def label(spec: Spec) -> str:
    """The name of a run in a table."""
    words = {
        "jem": "JEM",
        "jem_class_conditional": "JEM, class-conditional chains",
        "jem_joint": "JEM, p(x | y) factored",
        "classifier": "classifier",
        "ng_ebm": "NG-EBM",
    }
    return words[spec.objective]
