"""report.html: one file, with all pictures in it, made from a run's eval.json.

What is computed is decided elsewhere; here is how it is told. The page needs no
network, follows the reader's light or dark setting, and fits a phone.
"""

import json
from typing import Any

from etils import epath
from matplotlib.figure import Figure

from ebmjax.eval import charts, page, sections, summary


def render(results: dict[str, Any], folder: epath.Path) -> str:
    """eval.json as a page; `folder` holds the pictures and arrays of its parts."""
    run, drawn, notes = results["run"], [], _notes(results)
    for part, section in sections.SECTIONS.items():
        if found := summary.whole(results, part):
            settings = json.dumps(found["settings"], indent=1)
            try:
                drawn.append(section(found, folder)._replace(settings=settings))
            except (KeyError, FileNotFoundError) as error:  # another version's, or gone
                notes.append(f"{part} cannot be drawn, evaluate it again: {error!r}")
    return page.render(
        "report.html",
        title=run["name"],
        subtitle=_about(run),
        verdicts=summary.verdicts(results),
        notes=notes,
        sections=drawn,
    )


def figures(results: dict[str, Any], folder: epath.Path) -> dict[str, Figure]:
    """The page's main charts one by one, for other documents."""
    found = {}
    if part := summary.whole(results, "calibration"):
        found["reliability"] = charts.reliability(part["as_trained"]["reliability"])
    if part := summary.whole(results, "ood"):
        arrays = page.arrays_of(folder / "ood_scores.npz")
        sets = [name for name, s in part["sets"].items() if "scores" in s]
        for score in sections.MAIN_SCORES:
            found[f"ood_{score}"] = sections.ood_histogram(arrays, sets, score)
    if part := summary.whole(results, "attacks"):
        for norm in part["norms"]:
            found[f"accuracy_{norm}"] = sections.attack_figure(part, norm)
    if part := summary.whole(results, "samples"):
        found["energies"] = sections.energy_figure(folder)
    return found


def _about(run):
    written = {"p_x": "p(x)", "p_x_y": "p(x | y)"}
    terms = " + ".join(
        f"{'' if weight == 1 else f'{weight:g} '}"
        + written.get(term, term.replace("_", " "))
        for term, weight in run["objective"].items()
    )
    model = run["model"]
    name = model["name"].replace("_", " ")
    if model["name"] == "wide_resnet":
        name = f"WRN-{model['depth']}-{model['width']}"
    which = "averaged parameters of the " if run["ema"] else ""
    return (
        f"{name} on {run['data']}, {terms}; {which}{run['checkpoint']} checkpoint,"
        f" step {run['step']:,}, seed {run['seed']}"
        + (f", {run['recoveries']} recoveries" if run["recoveries"] else "")
    )


def _notes(results):
    step, notes = results["run"]["step"], []
    for part in sections.SECTIONS:
        if results.get(part, {}).get("step", step) != step:
            notes.append(
                f"The part {part} is of step {results[part]['step']:,}, an older"
                " checkpoint: evaluate it again."
            )
    sets = (summary.whole(results, "ood") or {}).get("sets", {})
    for name, found in sets.items():
        if "error" in found:
            notes.append(f"OOD set {name}: {found['error']}")
    return notes
