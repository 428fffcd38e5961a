"""Several evaluated runs side by side; seeds of one config become mean and spread."""

import json
import os
import re
import statistics
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ebmjax import config, rundir
from ebmjax.eval.report import page, ranking
from ebmjax.eval.report.run_report import definitions, in_order, measures
from ebmjax.eval.result import FILE, FOLDER, REPORT, numbers_of, read
from ebmjax.eval.task import Column, Measure, Task, title_of
from ebmjax.eval.tasks import TASKS

COMPARISON = "compare.json"
# Keys that do not distinguish configs: the seed, and how a run is logged and placed.
INCIDENTAL = "seed eval every checkpoint parallel tensorboard wandb".split()


class Group(NamedTuple):
    """Runs of one config with different seeds: a column of the comparison."""

    label: str  # no other group has it
    workdirs: list[str]
    results: list[dict]

    def column(self, task: str) -> Column | None:
        """The runs in which `task` was completed; None without any."""
        numbers = [numbers_of(results, task) for results in self.results]
        pairs = [x for x in zip(numbers, self.workdirs, strict=True) if x[0]]
        if not pairs:
            return None
        folder = rundir.folder(pairs[0][1]) / FOLDER
        return Column(self.label, [numbers for numbers, _ in pairs], folder)


def write(
    workdirs: Sequence[str], out: str, *, tasks: Mapping[str, Task] = TASKS
) -> str:
    """Makes compare.json and report.html in `out`; returns a table for the terminal.

    Raises ValueError for fewer than two runs and for the same run twice,
    FileNotFoundError for a directory that is not a run or has not been evaluated.
    """
    if len(workdirs) < 2:
        raise ValueError("--compare needs two runs or more: --compare RUN RUN ...")
    groups = group_runs(workdirs)
    numbers = compare(groups, tasks)
    folder = rundir.folder(out)
    folder.mkdir(parents=True, exist_ok=True)
    rundir.write(folder / COMPARISON, json.dumps(numbers, indent=1) + "\n")
    rundir.write(folder / REPORT, render(groups, numbers, tasks))
    return table(numbers)


def group_runs(workdirs: Sequence[str]) -> list[Group]:
    """The runs, those that differ in nothing but the seed together.

    Two runs of one config and one seed are not two seeds: the second is in a group
    of its own.
    """
    _check_distinct(workdirs)
    groups, count = {}, Counter()
    for workdir in workdirs:
        results, kind, seed = read(workdir), workdir, 0
        if results.get("run", {}).get("model", True):  # else of another program
            c = rundir.read_config(workdir)
            kind, seed = _kind(c), c.seed
        count[kind, seed] += 1
        group = groups.setdefault((kind, count[kind, seed]), Group("", [], []))
        group.workdirs.append(workdir)
        group.results.append(_checked(workdir, results))
    return _with_labels(list(groups.values()))


def _check_distinct(workdirs):
    earlier = {}
    for workdir in workdirs:
        path = os.path.realpath(rundir.folder(workdir))
        if path in earlier:
            raise ValueError(
                f"--compare has the run {workdir} twice, as {earlier[path]} before"
            )
        earlier[path] = workdir


def _kind(c):
    """What two runs have alike that differ in nothing but their seed."""
    return json.dumps(
        {
            k: v
            for k, v in config.flatten(c).items()
            if k.split(".")[0] not in INCIDENTAL and k not in config.MOVABLE
        },
        sort_keys=True,
    )


def _checked(workdir, results):
    if "run" not in results:
        raise FileNotFoundError(
            f"{workdir} has no {FILE}: run `python -m ebmjax.eval --workdir={workdir}`"
            " first"
        )
    return results


def _with_labels(groups):
    """The groups with labels. Those that several share are followed by the directory
    of the first run, from where their paths part."""
    labels = [_label([x["run"]["name"] for x in g.results]) for g in groups]
    paths = [rundir.folder(group.workdirs[0]).parts for group in groups]
    shared = len(os.path.commonprefix(paths))
    for i, path in enumerate(paths):
        label = labels[i]
        if labels.count(label) > 1:
            label += f" ({'/'.join(path[shared:] or path)})"
        groups[i] = groups[i]._replace(label=label)
    return groups


def _label(names):
    """What the names of runs have in common."""
    if len(names) == 1:
        return names[0]
    stem, num = os.path.commonprefix(names), f"{len(names)} seeds"
    if of_sweep := re.fullmatch(r"(.*?),?seed=\d*", stem):
        return ", ".join(filter(None, [of_sweep[1], num]))
    return f"{stem.rstrip('-_ .0123456789') or names[0]}, {num}"


def compare(groups: list[Group], tasks: Mapping[str, Task] = TASKS) -> dict[str, Any]:
    """Every measure of every group: mean, sample standard deviation, count, rank, and
    the p-value of its difference from the best (see `ranking`)."""
    rows: dict[str, dict] = {}
    for group in groups:
        values = defaultdict(list)
        for measure in (x for r in group.results for x in measures(r, tasks)):
            row = {"unit": measure.unit, "better": measure.better, "groups": {}}
            rows.setdefault(measure.name, row)
            values[measure.name].append(measure.value)
        for name, of_runs in values.items():
            rows[name]["groups"][group.label] = _spread(of_runs)
    for row in rows.values():
        row["groups"] = ranking.judged(row["groups"], row["better"])
    return {
        "groups": {group.label: group.workdirs for group in groups},
        "measures": rows,
        "ece_ratio": _ece_ratios(groups, rows),
    }


def _spread(values):
    """Of a number of each run; None if it was not finite in one of them."""
    mean = std = None
    if None not in values:
        mean = statistics.fmean(values)
        std = statistics.stdev(values) if len(values) > 1 else None
    return {"mean": mean, "std": std, "num_runs": len(values)}


def _ece_ratios(groups, rows):
    """How many times smaller the ECE is than the plain classifier's, as NG-EBM's
    paper puts it; than the first run's, if none is a plain classifier."""
    name = next((name for name in rows if name.startswith("ECE, ")), None)
    means = {
        label: spread["mean"]
        for label, spread in (rows[name]["groups"] if name else {}).items()
        if spread["mean"]
    }
    if not means:
        return {}
    plain = [
        group.label
        for group in groups
        if group.label in means
        and list(group.results[0]["run"]["objective"]) == ["cross_entropy"]
    ]
    baseline = next(iter(plain), next(iter(means)))
    ratios = {x: means[baseline] / means[x] for x in means if x != baseline}
    return {"measure": name, "baseline": baseline, "times_smaller": ratios}


def table(numbers: dict) -> str:
    """One row a measure, one column a group."""
    rows = [["", *numbers["groups"]], *map(_with_marks, _rows(numbers))]
    first, *others = (max(map(len, column)) for column in zip(*rows, strict=True))
    lines = [
        "  ".join([name.ljust(first), *map(str.rjust, cells, others)])
        for name, *cells in rows
    ]
    return "\n".join([*lines, *_ratio_notes(numbers)])


def _with_marks(row):
    return [
        f"{cell} {row.marks.get(i, '')}".strip() for i, cell in enumerate(row.cells)
    ]


def _rows(numbers):
    rows = []
    for name, row in numbers["measures"].items():
        measure = Measure(name, 0.0, row["unit"], row["better"])
        cells, marks, best = [name], {}, []
        several = sum(x["rank"] is not None for x in row["groups"].values()) > 1
        for i, label in enumerate(numbers["groups"], start=1):
            spread = row["groups"].get(label)
            cells.append(_cell(measure, spread))
            marks[i] = ""  # which keeps the cells below each other
            if spread and spread["rank"]:
                best += [i] if spread["rank"] == 1 else []
                marks[i] = _mark(spread) if several else ""
        rows.append(page.Row(cells, tuple(best), marks))
    return rows


def _mark(spread):
    """The rank, with a star if seed noise does not explain the distance to the best."""
    p = spread["p_value"]
    beyond = p is not None and p < ranking.SIGNIFICANCE
    return f"#{spread['rank']}{'*' if beyond else ''}"


def _cell(measure, spread):
    if spread is None:
        return "–"
    if spread["mean"] is None:
        return "not finite"
    std = "" if spread["std"] is None else f" ± {measure.text(spread['std'])}"
    return measure.text(spread["mean"]) + std


def _ratio_notes(numbers):
    ratio, notes = numbers["ece_ratio"], []
    for label, times in ratio.get("times_smaller", {}).items():
        how = f"{times:.2f} times smaller"
        if times < 1:
            how = f"{1 / times:.2f} times larger"
        notes.append(
            f"{ratio['measure']}: that of {label} is {how} than that of"
            f" {ratio['baseline']}."
        )
    return notes


def render(
    groups: list[Group], numbers: dict, tasks: Mapping[str, Task] = TASKS
) -> str:
    """The comparison as a page, with its pictures in it."""
    sections, notes = [], _ratio_notes(numbers)
    names = {name: {} for group in groups for r in group.results for name in r}
    for name, task in in_order(names, tasks):
        columns = [column for group in groups if (column := group.column(name))]
        if not _have_same_settings(columns):
            notes.append(f"Note: the runs have different settings of {name}.")
        try:
            panels = task.compare(columns) if columns else []
        except FileNotFoundError as error:
            where = error.filename or error
            notes.append(f"{name}: {where} is missing: evaluate that run again.")
        else:
            if panels:
                sections.append(page.Section("", panels, title=title_of(name, task)))
    return page.render(
        "compare.html",
        title=" · ".join(numbers["groups"]),
        subtitle=f"{sum(len(g.workdirs) for g in groups)} runs compared",
        legend=_legend(groups),
        table=page.Table("", ["", *numbers["groups"]], _rows(numbers)),
        notes=notes,
        sections=sections,
        glossary=definitions(names, tasks),
    )


def _legend(groups):
    text = (
        "The best of each row is in bold; #2 is a rank within the row; ± is the"
        " standard deviation over seeds. * differs from the best by more than seed"
        f" noise: p < {ranking.SIGNIFICANCE:g} in Welch's t-test over seeds, without a"
        " correction for the number of rows."
    )
    if single := [group.label for group in groups if len(group.workdirs) == 1]:
        text += f" The seed noise of {', '.join(single)} is unknown: one run each."
    return text


def _have_same_settings(columns):
    """Do all runs have the same settings of the task?"""
    settings = {
        json.dumps(
            {k: v for k, v in x["settings"].items() if k not in ("seed", "sgld")},
            sort_keys=True,
        )
        for column in columns
        for x in column.numbers
    }
    return len(settings) < 2
