"""Several evaluated runs side by side; seeds of one config become mean and spread."""

import json
import os
import statistics
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ebmjax import config, rundir
from ebmjax.eval.report import page
from ebmjax.eval.report.run_report import in_order, measures
from ebmjax.eval.result import FILE, FOLDER, REPORT, completed, read
from ebmjax.eval.task import Column, Measure, Task, titled
from ebmjax.eval.tasks import TASKS

COMPARISON = "compare.json"
# Keys that do not make another kind of run: who sees to it, and how often.
INCIDENTAL = ("seed", "eval", "every", "checkpoint", "parallel", "tensorboard")


class Group(NamedTuple):
    """Runs of one config with different seeds: a column of the comparison."""

    label: str  # no other group has it
    workdirs: list[str]
    results: list[dict]


def write(
    workdirs: Sequence[str], out: str, *, tasks: Mapping[str, Task] = TASKS
) -> str:
    """Makes compare.json and report.html in `out`; returns a table for the terminal.

    Raises ValueError for fewer than two runs and for the same run twice,
    FileNotFoundError for a directory that is not a run or has not been evaluated.
    """
    if len(workdirs) < 2:
        raise ValueError("--compare needs two runs or more: --compare RUN RUN ...")
    groups = grouped(workdirs)
    numbers = compared(groups, tasks)
    folder = rundir.folder(out)
    folder.mkdir(parents=True, exist_ok=True)
    rundir.write(folder / COMPARISON, json.dumps(numbers, indent=1) + "\n")
    rundir.write(folder / REPORT, render(groups, numbers, tasks))
    return table(numbers)


def grouped(workdirs: Sequence[str]) -> list[Group]:
    """The runs, those that differ in nothing but the seed together.

    Two runs of one config and one seed are not two seeds: the second is in a group
    of its own.
    """
    _check_distinct(workdirs)
    members = defaultdict(list)
    seen = Counter()
    for workdir in workdirs:
        c = rundir.read_config(workdir)
        kind = _kind(c)
        seen[kind, c.seed] += 1
        members[kind, seen[kind, c.seed]].append((workdir, _evaluated(workdir)))
    pairs = [tuple(zip(*group, strict=True)) for group in members.values()]
    labels = _distinct([_label(results) for _, results in pairs], pairs)
    return [
        Group(label, list(paths), list(results))
        for label, (paths, results) in zip(labels, pairs, strict=True)
    ]


def _check_distinct(workdirs):
    given = {}
    for workdir in workdirs:
        path = os.path.realpath(rundir.folder(workdir))
        if path in given:
            raise ValueError(
                f"--compare has the run {workdir} twice, as {given[path]} before"
            )
        given[path] = workdir


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


def _evaluated(workdir):
    results = read(workdir)
    if "run" not in results:
        raise FileNotFoundError(
            f"{workdir} has no {FILE}: run `python -m ebmjax.eval --workdir={workdir}`"
            " first"
        )
    return results


def _label(results):
    """How runs are called together: what their names have in common."""
    names = [x["run"]["name"] for x in results]
    if len(names) == 1:
        return names[0]
    stem = os.path.commonprefix(names).rstrip("-_ .0123456789") or names[0]
    return f"{stem}, {len(names)} seeds"


def _distinct(labels, pairs):
    """The labels; those that several groups share with the directory of the first run,
    from where their paths part."""
    count = Counter(labels)
    paths = [rundir.folder(workdirs[0]).parts for workdirs, _ in pairs]
    shared = len(os.path.commonprefix(paths))
    return [
        label if count[label] == 1 else f"{label} ({'/'.join(path[shared:] or path)})"
        for label, path in zip(labels, paths, strict=True)
    ]


def compared(groups: list[Group], tasks: Mapping[str, Task] = TASKS) -> dict[str, Any]:
    """Every measure of every group: mean, sample standard deviation, count."""
    rows: dict[str, dict] = {}
    for group in groups:
        for results in group.results:
            for measure in measures(results, tasks):
                row = rows.setdefault(
                    measure.name,
                    {"unit": measure.unit, "better": measure.better, "groups": {}},
                )
                row["groups"].setdefault(group.label, []).append(measure.value)
    for row in rows.values():
        row["groups"] = {label: _spread(x) for label, x in row["groups"].items()}
    return {
        "groups": {group.label: group.workdirs for group in groups},
        "measures": rows,
        "ece_ratio": _ece_ratios(groups, rows),
    }


def _spread(values):
    """Of a number of each run; None if it was not finite in one of them."""
    if None in values:
        return {"mean": None, "std": None, "num_runs": len(values)}
    std = statistics.stdev(values) if len(values) > 1 else None
    return {"mean": statistics.fmean(values), "std": std, "num_runs": len(values)}


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
    plain = [g.label for g in groups if _is_plain(g) and g.label in means]
    baseline = next(iter(plain), next(iter(means)))
    ratios = {x: means[baseline] / means[x] for x in means if x != baseline}
    return {"measure": name, "baseline": baseline, "times_smaller": ratios}


def _is_plain(group):
    return list(group.results[0]["run"]["objective"]) == ["cross_entropy"]


def table(numbers: dict) -> str:
    """One row a measure, one column a group."""
    rows = [["", *numbers["groups"]], *(row.cells for row in _rows(numbers))]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join(
            f"{cell:<{width}}" if i == 0 else f"{cell:>{width}}"
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    return "\n".join([*lines, *_ratio_notes(numbers)])


def _rows(numbers):
    rows = []
    for name, row in numbers["measures"].items():
        measure = Measure(name, 0.0, row["unit"], row["better"])
        cells, means = [name], {}
        for i, label in enumerate(numbers["groups"], start=1):
            spread = row["groups"].get(label)
            cells.append(_cell(measure, spread))
            if spread and spread["mean"] is not None:
                means[i] = spread["mean"]
        best = {"higher": max, "lower": min}.get(row["better"])
        top = best(means.values()) if best and means else None
        rows.append(
            page.Row(cells, tuple(i for i, mean in means.items() if mean == top))
        )
    return rows


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
        columns = [column for group in groups if (column := _column(group, name))]
        if not _evaluated_alike(columns):
            notes.append(f"Note: the runs have different settings of {name}.")
        try:
            panels = task.compare(columns) if columns else []
        except FileNotFoundError as error:
            where = error.filename or error
            notes.append(f"{name}: {where} is missing: evaluate that run again.")
        else:
            if panels:
                sections.append(page.Section("", panels, title=titled(name, task)))
    return page.render(
        "compare.html",
        title=" · ".join(numbers["groups"]),
        subtitle=f"{sum(len(g.workdirs) for g in groups)} runs compared",
        table=page.Table("", ["", *numbers["groups"]], _rows(numbers)),
        notes=notes,
        sections=sections,
    )


def _column(group, name):
    """The runs of the group in which the task was completed; None without any."""
    pairs = [
        (numbers, workdir)
        for results, workdir in zip(group.results, group.workdirs, strict=True)
        if (numbers := completed(results, name))
    ]
    if not pairs:
        return None
    folder = rundir.folder(pairs[0][1]) / FOLDER
    return Column(group.label, [numbers for numbers, _ in pairs], folder)


def _evaluated_alike(columns):
    """Whether all the runs were evaluated with the same settings of the task."""
    settings = {
        json.dumps(
            {k: v for k, v in x["settings"].items() if k not in ("seed", "sgld")},
            sort_keys=True,
        )
        for column in columns
        for x in column.numbers
    }
    return len(settings) < 2
