"""Parts of the pages that are made from the repository when the site is built.

python docs/generate.py    # makes notebook.ipynb of notebook.md, which is committed
"""

import json
import pathlib
import re

from ebmjax.keys import KEYS
from experiments import digits

DOCS = pathlib.Path(__file__).parent
RESULTS = digits.RESULTS.parent
GROUPS = {
    "": "The run",
    "data": "Data",
    "model": "Network",
    "objective": "Objective: weights of the terms",
    "hdge": "Contrast (HDGE)",
    "outliers": "Outlier exposure",
    "adversarial": "Adversarial training",
    "sgld": "Sampler",
    "optimizer": "Optimizer",
    "recovery": "Divergence",
    "every": "Intervals",
    "checkpoint": "Checkpoints",
    "parallel": "Devices",
    "eval": "Evaluation",
    "eval.shift": "Evaluation: corruptions",
    "eval.ood": "Evaluation: out-of-distribution detection",
    "eval.attacks": "Evaluation: attacks",
    "eval.energies": "Evaluation: energies under attack",
    "eval.counterfactuals": "Evaluation: counterfactuals",
    "eval.samples": "Evaluation: samples",
}


def write_all(folder: pathlib.Path) -> None:
    folder.mkdir(exist_ok=True)
    pages = {
        "keys": keys(),
        "digits": digits.table(json.loads(digits.RESULTS.read_text())),
        "fashion_mnist": photographs(RESULTS / "fashion_mnist.md"),
        "cifar10": photographs(RESULTS / "cifar10.md"),
    }
    for name, text in pages.items():
        (folder / f"{name}.md").write_text(text + "\n")


def keys() -> str:
    """A table of each group of keys: default, bounds, meaning."""
    sections = []
    for group, title in GROUPS.items():
        rows = [
            f"| `{name}` | `{key.default!r}` | {_cell(key.bounds)} | {_cell(key.doc)} |"
            for name, key in KEYS.items()
            if name.rpartition(".")[0] == group
        ]
        head = ["| key | default | value | meaning |", "| --- | --- | --- | --- |"]
        sections.append("\n".join([f"## {title}\n", *head, *rows]))
    return "\n\n".join(sections)


def photographs(path: pathlib.Path) -> str:
    """The tables, in small type."""
    text = path.read_text() if path.exists() else "Not measured yet."
    return f"::::{{container}} numbers\n\n{text}\n::::"


def notebook() -> str:
    """notebook.md as Jupyter's JSON, for Colab, without outputs."""
    import jupytext
    import nbformat

    text = (DOCS / "notebook.md").read_text()
    text = re.sub(r"{{ colab }}\n\n|<!--.*?-->\n\n", "", text, flags=re.DOTALL)
    page = jupytext.reads(text, fmt="md:myst")
    for i, cell in enumerate(page.cells):
        cell.id, cell.metadata = f"cell-{i}", {}
    page.metadata = {"kernelspec": page.metadata["kernelspec"]}
    return nbformat.writes(page) + "\n"


def _cell(text):
    """Text in a cell of a Markdown table, where neither | nor * is markup."""
    escaped = "".join(f"\\{x}" if x in "|*_<[" else x for x in text)
    escaped = escaped.replace("''", "`''`")
    return escaped[:1].upper() + escaped[1:]


if __name__ == "__main__":
    (DOCS / "notebook.ipynb").write_text(notebook())
