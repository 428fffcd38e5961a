"""The robustness in a few words, and the table of AutoAttack."""

from ebmjax.eval import robustness
from ebmjax.eval.report import page
from ebmjax.eval.task import NORMS, Verdict, format_number


def headline(of_norm: dict, norm: str) -> dict:
    """The row that stands for a norm: AutoAttack's if it ran, with PGD's accuracy at
    the same eps, or None, as "pgd"; else PGD's."""
    if rows := of_norm.get("autoattack"):
        eps = robustness.usual([row["eps_text"] for row in rows], norm)
        row = next(row for row in rows if row["eps_text"] == eps)
        pgd = [r for r in of_norm["sweep"] if r["eps_text"] == eps]
        return row | {"pgd": pgd[0]["accuracy"] if pgd else None}
    eps = of_norm["pictured_eps"]
    return next(row for row in of_norm["sweep"] if row["eps_text"] == eps)


def robustness_verdict(numbers: dict) -> Verdict:
    rows = {norm: headline(x, norm) for norm, x in numbers["norms"].items()}
    at = [f"{NORMS[norm]} {row['eps_text']}" for norm, row in rows.items()]
    detail = (
        f"accuracy at {' and at '.join(at)} on {numbers['num_images']} images, clean"
        f" {numbers['clean_accuracy']:.1%}; {_attack_names(numbers, rows)}"
    )
    if num := max(x["num_nan_gradients"] for x in numbers["norms"].values()):
        detail += f"; the gradient of {num} images had NaN: an upper bound"
    checks = [x["crosscheck"] for x in numbers["norms"].values() if "crosscheck" in x]
    if checks:
        agree = all(check["confirmed"] for check in checks)
        detail += f"; foolbox finds {'no more' if agree else 'MORE'}"
    judged = [row["judge"] for row in _autoattack_rows(numbers, "judge")]
    if judged:
        agree = all(judge["confirmed"] for judge in judged)
        detail += f"; pyautoattack finds {'no more' if agree else 'MORE'}"
    if _autoattack_rows(numbers, "warnings"):
        detail += "; with warnings, see below"
    return Verdict(" / ".join(f"{x['accuracy']:.1%}" for x in rows.values()), detail)


def _attack_names(numbers, rows):
    """Which attacks the accuracies of a headline are of."""
    pgd = (
        f"PGD, {numbers['num_steps']} steps,"
        f" {' and '.join(numbers['losses']).replace('_', ' ')} loss"
    )
    by_auto = {norm: row["pgd"] for norm, row in rows.items() if "pgd" in row}
    if not by_auto:
        return pgd
    under = " / ".join(
        "–" if accuracy is None else f"{accuracy:.1%}" for accuracy in by_auto.values()
    )
    others = [NORMS[norm] for norm in rows if norm not in by_auto]
    name = f"AutoAttack ({' and '.join(NORMS[norm] for norm in by_auto)})"
    text = f"{name if others else 'AutoAttack'}; under PGD {under}"
    return text + (f", which alone ran for {' and '.join(others)}" if others else "")


def _autoattack_rows(numbers, item):
    """AutoAttack's rows that have this item, and not empty."""
    norms = numbers["norms"].values()
    return [row for x in norms for row in x.get("autoattack", ()) if row.get(item)]


def autoattack_table(numbers: dict, norm: str) -> page.Table:
    """The accuracy after each attack of AutoAttack, at each eps."""
    rows = numbers["norms"][norm]["autoattack"]
    judged = any("judge" in row for row in rows)
    head = ["eps", *rows[0]["accuracies"], "seconds"]
    head += ["pyautoattack", "its seconds"] if judged else []
    lines = []
    for row in rows:
        line = [f"{share:.1%}" for share in row["accuracies"].values()]
        line = [row["eps_text"], *line, format_number(row["seconds"], ".0f")]
        if judged:
            judge = row.get("judge", {"accuracy": None, "seconds": None})
            formats = {"accuracy": ".1%", "seconds": ".0f"}
            line += [format_number(judge[k], spec) for k, spec in formats.items()]
        lines.append(page.Row(line))
    settings = numbers["autoattack"]
    warnings = [f"At {r['eps_text']} {why}." for r in rows for why in r["warnings"]]
    text = (
        f"AutoAttack, version {settings['version']}: the accuracy left after each of"
        f" its attacks. {settings['num_steps']} steps, {settings['num_targets']}"
        f" targets, {settings['num_queries']:,} queries. {' '.join(warnings)}"
    )
    title = f"AutoAttack, {NORMS[norm]}"
    return page.Table(title, head, lines, text.strip())
