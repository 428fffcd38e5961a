"""Several evaluated runs side by side; seeds of one config become mean and spread."""

import json
import os.path
import statistics
from typing import Any, NamedTuple

from ebmjax import config, rundir
from ebmjax.eval import charts, page, summary
from ebmjax.eval.page import Row, Section, Table, drawn
from ebmjax.eval.run import FILE, FOLDER, REPORT, read
from ebmjax.eval.summary import NORMS

COMPARISON = "compare.json"
# Keys that do not make another kind of run: who sees to it, and how often.
INCIDENTAL = ("seed", "eval", "every", "checkpoint", "parallel", "tensorboard")


class Group(NamedTuple):
    """Runs of one config, up to their seeds."""

    name: str
    workdirs: list[str]
    results: list[dict]


def write(workdirs: list[str], out: str) -> str:
    """Makes compare.json and report.html in `out`; returns a table for the screen.

    Raises ValueError for fewer than two runs, FileNotFoundError for one that is not
    a run or has not been evaluated.
    """
    if len(workdirs) < 2:
        raise ValueError("--compare needs two runs or more: --compare RUN RUN ...")
    groups = grouped(workdirs)
    numbers = compared(groups)
    folder = rundir.folder(out)
    folder.mkdir(parents=True, exist_ok=True)
    rundir.write(folder / COMPARISON, json.dumps(numbers, indent=1) + "\n")
    rundir.write(folder / REPORT, render(groups, numbers))
    return table(numbers)


def grouped(workdirs: list[str]) -> list[Group]:
    """The runs, those that differ in nothing but the seed together."""
    by_config: dict[str, list[str]] = {}
    for workdir in workdirs:
        flat = config.flatten(rundir.read_config(workdir))
        kept = {k: v for k, v in flat.items() if k.split(".")[0] not in INCIDENTAL}
        by_config.setdefault(json.dumps(kept, sort_keys=True), []).append(workdir)
    groups = []
    for members in by_config.values():
        results = [read(workdir) for workdir in members]
        for workdir, found in zip(members, results, strict=True):
            if not found:
                raise FileNotFoundError(
                    f"{workdir} has no {FILE}: run `python -m ebmjax.eval"
                    f" --workdir={workdir}` first"
                )
        names = [found["run"]["name"] for found in results]
        name = names[0]
        if len(names) > 1:
            stem = os.path.commonprefix(names).rstrip("-_ .0123456789") or names[0]
            name = f"{stem}, {len(names)} seeds"
        groups.append(Group(name, members, results))
    return groups


def compared(groups: list[Group]) -> dict[str, Any]:
    """Every measure of every group: mean, sample standard deviation, count."""
    measures: dict[str, dict] = {}
    for group in groups:
        for results in group.results:
            for measure in summary.measures(results):
                row = measures.setdefault(
                    measure.name,
                    {"kind": measure.kind, "better": measure.better, "groups": {}},
                )
                row["groups"].setdefault(group.name, []).append(measure.value)
    for row in measures.values():
        row["groups"] = {name: _spread(x) for name, x in row["groups"].items()}
    return {
        "groups": {group.name: group.workdirs for group in groups},
        "measures": measures,
        "ece_ratio": _ece_ratios(groups, measures),
    }


def _spread(values):
    std = statistics.stdev(values) if len(values) > 1 else None
    return {"mean": statistics.fmean(values), "std": std, "num_runs": len(values)}


def _ece_ratios(groups, measures):
    """How many times smaller the ECE is than the plain classifier's, as NG-EBM's
    paper puts it; than the first run's, if none is a plain classifier."""
    name = next((name for name in measures if name.startswith("ECE, ")), None)
    if name is None:
        return {}
    found = measures[name]["groups"]
    plain = [g.name for g in groups if _is_plain(g) and g.name in found]
    baseline = next(iter(plain), next(iter(found)))
    ratios = {
        other: found[baseline]["mean"] / found[other]["mean"]
        for other in found
        if other != baseline and found[other]["mean"] > 0
    }
    return {"measure": name, "baseline": baseline, "times_smaller": ratios}


def _is_plain(group):
    return list(group.results[0]["run"]["objective"]) == ["cross_entropy"]


def table(numbers: dict) -> str:
    """One row a measure, one column a group."""
    rows = [["", *numbers["groups"]]]
    rows += [[row.cells[0], *row.cells[1:]] for row in _rows(numbers)]
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
        measure = summary.Measure(name, 0.0, row["kind"], row["better"])
        cells, means = [name], {}
        for i, group in enumerate(numbers["groups"], start=1):
            spread = row["groups"].get(group)
            if spread is None:
                cells.append("–")
                continue
            means[i] = spread["mean"]
            std = "" if spread["std"] is None else f" ± {measure.text(spread['std'])}"
            cells.append(measure.text(spread["mean"]) + std)
        best = {"more": max, "less": min}.get(row["better"], lambda _: None)
        top = best(means.values())
        rows.append(Row(cells, tuple(i for i, mean in means.items() if mean == top)))
    return rows


def _ratio_notes(numbers):
    ratio = numbers["ece_ratio"]
    notes = []
    for name, times in ratio.get("times_smaller", {}).items():
        how = (
            f"{times:.2f} times smaller"
            if times >= 1
            else f"{1 / times:.2f} times larger"
        )
        notes.append(
            f"{ratio['measure']}: that of {name} is {how} than that of"
            f" {ratio['baseline']}."
        )
    return notes


def render(groups: list[Group], numbers: dict) -> str:
    """The comparison as a page, with its pictures in it."""
    first = {group.name: group.results[0] for group in groups}
    panels = []
    calibrated = {
        name: part["as_trained"]["reliability"]
        for name, results in first.items()
        if (part := summary.whole(results, "calibration"))
    }
    if calibrated:
        panels.append(
            drawn(
                charts.reliability_curves(calibrated),
                "reliability",
                "Reliability.",
                "Bins with 1 % of the images or more; over-confident below the line.",
            )
        )
    for norm, scale, unit in (("linf", 255, "255ths"), ("l2", 1, "[0, 1] units")):
        curves = {
            group.name: curve
            for group in groups
            if (curve := _robustness(group, norm, scale))
        }
        if curves:
            panels.append(
                drawn(
                    charts.robustness(curves, f"{NORMS[norm]} eps, {unit}"),
                    f"attack-{norm}",
                    f"Accuracy under {NORMS[norm]} attacks.",
                )
            )
    return page.render(
        "compare.html",
        title=" · ".join(numbers["groups"]),
        subtitle=f"{sum(len(g.workdirs) for g in groups)} runs compared",
        table=Table("", ["", *numbers["groups"]], _rows(numbers)),
        notes=_ratio_notes(numbers) + _differences(groups),
        charts=panels,
        sections=_pictures(groups),
    )


def _robustness(group, norm, scale):
    """Mean accuracy over the group's runs at each eps that all of them have."""
    accuracies: dict[float, list] = {}
    for results in group.results:
        part = summary.whole(results, "attacks")
        if part and norm in part["norms"]:
            accuracies.setdefault(0.0, []).append(part["clean_accuracy"])
            for row in part["norms"][norm]["sweep"]:
                accuracies.setdefault(row["eps"], []).append(row["accuracy"])
    most = max(map(len, accuracies.values()), default=0)
    pairs = sorted(
        (scale * eps, statistics.fmean(x))
        for eps, x in accuracies.items()
        if len(x) == most
    )
    return tuple(map(list, zip(*pairs, strict=True))) if pairs else None


def _differences(groups):
    """One sentence for each part that was not evaluated alike everywhere."""
    notes = []
    every = [results for group in groups for results in group.results]
    for part in ("ood", "attacks", "samples"):
        settings = {
            json.dumps(found["settings"], sort_keys=True)
            for results in every
            if (found := summary.whole(results, part))
        }
        if len(settings) > 1:
            notes.append(f"Mind: the runs were evaluated with different eval.{part}.")
    return notes


def _pictures(groups):
    """The same picture of the first run of each group, side by side."""
    sections = []
    for title, text, part, names in (
        (
            "Samples",
            "From the replay buffer where there is one, else chains from noise.",
            "samples",
            ("buffer.png", "chains.png"),
        ),
        (
            "Distal adversarial examples",
            "From noise up p(class | x), one a class in their order.",
            "attacks",
            ("distal.png",),
        ),
    ):
        panels = []
        for group in groups:
            found = summary.whole(group.results[0], part)
            here = [name for name in names if found and name in found["files"]]
            if here:
                folder = rundir.folder(group.workdirs[0]) / FOLDER
                panels.append(page.shown(folder, here[0], group.name))
        if panels:
            sections.append(Section(title, text, panels))
    return sections
