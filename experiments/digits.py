"""The table of the README: three objectives on scikit-learn's digits.

    python -m experiments.digits            # trains what is missing, then the table
    python -m experiments.digits --table    # from experiments/results/digits.json

Runs are in runs/, as `python -m ebmjax.main --config=jem_digits` leaves them.
"""

import json
import pathlib
import subprocess
import sys

RUNS = {
    "classifier": "classifier_digits",
    "NG-EBM": "ng_ebm_digits",
    "JEM": "jem_digits",
}
RESULTS = pathlib.Path(__file__).parent / "results" / "digits.json"
# Name, format, whether higher is better, and where it is in eval.json.
ROWS = [
    ("accuracy", "{:.1%}", True, lambda r: r["classification"]["accuracy"]),
    ("NLL, nats", "{:.3f}", False, lambda r: r["classification"]["nll"]),
    ("ECE, 15 bins", "{:.1%}", False, lambda r: r["classification"]["ece"]),
    (
        "ECE after temperature scaling",
        "{:.1%}",
        False,
        lambda r: r["calibration"]["temperature"]["ece"],
    ),
    (
        "AUROC of log p(x), mean over four OOD sets",
        "{:.3f}",
        True,
        lambda r: r["ood"]["mean"]["log_density"]["auroc"],
    ),
    (
        "AUROC of approximate mass",
        "{:.3f}",
        True,
        lambda r: r["ood"]["mean"]["approximate_mass"]["auroc"],
    ),
    (
        "accuracy under PGD, L∞ 8/255, 200 images",
        "{:.1%}",
        True,
        lambda r: next(
            row["accuracy"]
            for row in r["attacks"]["norms"]["linf"]["sweep"]
            if row["eps_text"] == "8/255"
        ),
    ),
]


def measured() -> dict[str, dict[str, float]]:
    """{run: {row: number}} of the three runs, trained and evaluated where missing."""
    from ebmjax.eval.evaluate import read

    numbers = {}
    for column, name in RUNS.items():
        results = read(f"runs/{name}")
        if "attacks" not in results:  # as a user would, on one device a core
            command = [sys.executable, "-m", "ebmjax.main", f"--config={name}"]
            subprocess.run(command, check=True)
            results = read(f"runs/{name}")
        numbers[column] = {row: round(get(results), 5) for row, _, _, get in ROWS}
    return numbers


def table(numbers: dict[str, dict[str, float]]) -> str:
    """Markdown; the best of each row, as it is printed, in bold."""
    lines = ["| | " + " | ".join(numbers) + " |", "| --- " * (len(numbers) + 1) + "|"]
    for row, form, higher, _ in ROWS:
        values = [column[row] for column in numbers.values()]
        best = form.format(max(values) if higher else min(values))
        cells = [form.format(value) for value in values]
        cells = [f"**{cell}**" if cell == best else cell for cell in cells]
        lines.append(f"| {row} | {' | '.join(cells)} |".replace("%", " %"))
    return "\n".join(lines)


def main():
    if "--table" not in sys.argv:
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(measured(), indent=1) + "\n")
    print(table(json.loads(RESULTS.read_text())))


if __name__ == "__main__":
    main()
