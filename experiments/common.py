"""What the experiments share: the runs that they read, and how they report them.

An experiment is a module with `specs`, `PARTS` of the evaluation and `report`; run as
`python -m experiments.NAME` it reads run directories, evaluates what has not been, and
writes NAME.md and its pictures beside them:

    --runs=DIR   where the run directories are: runs/papers, or runs/papers-small
    --train      train the runs that are missing or unfinished
    --small      digits and a small network instead, for minutes on two CPU cores
"""

import argparse
import importlib.util
import pathlib
import sys
from collections.abc import Callable
from typing import NamedTuple

import ml_collections
from absl import logging
from matplotlib.figure import Figure

from ebmjax import cli, config, processes, runs, train
from ebmjax.eval import evaluate as evaluation
from ebmjax.eval.report import charts

CONFIGS = pathlib.Path(__file__).parent.parent / "configs" / "official"


class Spec(NamedTuple):
    """A run: a file of configs/official, and what differs from it."""

    objective: str
    dataset: str = "cifar10"
    changes: tuple[tuple[str, object], ...] = ()

    def name(self, small: bool) -> str:
        dataset = "digits" if small else self.dataset
        changes = [f"{key.split('.')[-1]}={value}" for key, value in self.changes]
        return "-".join([f"{self.objective}_{dataset}", *changes])

    def config(self, small: bool) -> ml_collections.ConfigDict:
        path = CONFIGS / f"{self.objective}_{self.dataset}.py"
        module_spec = importlib.util.spec_from_file_location(path.stem, path)
        module = importlib.util.module_from_spec(module_spec)
        module_spec.loader.exec_module(module)
        c = module.get_config()
        if small:
            shrink(c)
        for key, value in self.changes:
            config.assign(c, key, value)
        return c


class Result(NamedTuple):
    numbers: dict  # eval.json
    workdir: pathlib.Path

    def file(self, name: str) -> pathlib.Path:
        """One of the files that the evaluation left."""
        return self.workdir / evaluation.FOLDER / name


class Report(NamedTuple):
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]
    pictures: dict[str, Figure | bytes]  # by what they show; bytes are PNG
    notes: str = ""


def shrink(c: ml_collections.ConfigDict) -> None:
    """To the digits and a small network, and to what two cores do in minutes."""
    c.data.update(name="digits", num_valid=137, pad=0, flip=False, noise_std=0.1)
    c.model.update(depth=10, width=1)
    c.num_steps = 500
    c.optimizer.update(learning_rate=1e-3, warmup_steps=100, decay="constant")
    c.sgld.buffer_size = 2_000
    c.every.update(log=100, checkpoint=250, samples=250)
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
    """Finds or makes the runs of `specs(small)`, evaluates them, and writes."""
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
    """The experiment's name and its flags; devices and cache are set up."""
    name = pathlib.Path(sys.argv[0]).stem
    parser = argparse.ArgumentParser(
        f"python -m experiments.{name}",
        description=doc,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--small", action="store_true", help="minutes on a CPU")
    parser.add_argument("--train", action="store_true", help="train what is missing")
    parser.add_argument("--runs", type=pathlib.Path, help="where run directories are")
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
    """The run's evaluation; trains and evaluates what is not there."""
    c, workdir = spec.config(small), folder / spec.name(small)
    if "samples" in parts and spec.objective != "classifier":  # one judge for all
        classifier = folder / Spec("classifier", spec.dataset).name(small)
        c.eval.samples.extractor = str(classifier)
    if not is_finished(workdir, c):
        if not may_train:
            raise FileNotFoundError(f"{workdir} holds no finished run: add --train")
        print(f"training {workdir}", flush=True)
        train.fit(c, str(workdir))
    numbers = evaluation.read(str(workdir))
    missing = [part for part in parts if "error" in numbers.get(part, {"error": ""})]
    if missing:
        print(f"evaluating {workdir}: {', '.join(missing)}", flush=True)
        numbers = evaluation.evaluate(runs.at(str(workdir), c), tasks=missing)
    for part in parts:
        if "error" in numbers[part]:
            raise RuntimeError(f"{workdir}: {part}: {numbers[part]['error']}")
    return Result(numbers, workdir)


def is_finished(workdir: pathlib.Path, c: ml_collections.ConfigDict) -> bool:
    if not (workdir / runs.CONFIG).exists():
        return False
    try:
        return runs.at(str(workdir), c).step >= c.num_steps
    except FileNotFoundError:
        return False


def write(folder: pathlib.Path, name: str, doc: str, found: Report) -> str:
    """NAME.md and its pictures in `folder`; returns the text."""
    lines = [found.columns, ["---"] * len(found.columns), *found.rows]
    lines = [[cell.replace("|", "\\|") for cell in cells] for cells in lines]
    table = "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
    text = f"# {doc.strip().splitlines()[0]}\n\n{table}\n"
    if found.notes:
        text += f"\n{found.notes}\n"
    folder.mkdir(parents=True, exist_ok=True)
    for what, picture in found.pictures.items():
        file = f"{name}-{what.replace(' ', '_')}.png"
        png = picture if isinstance(picture, bytes) else charts.png(picture)
        (folder / file).write_bytes(png)
        text += f"\n![{what}]({file})\n"
    (folder / f"{name}.md").write_text(text)
    return text


def percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def label(spec: Spec) -> str:
    """How a table names a run."""
    words = {
        "jem": "JEM",
        "jem_class_conditional": "JEM, class-conditional chains",
        "jem_joint": "JEM, p(x | y) factored",
        "classifier": "classifier",
        "ng_ebm": "NG-EBM",
    }
    return words[spec.objective]
