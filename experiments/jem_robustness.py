"""JEM's robustness curves: accuracy under L∞ and L2 attacks, and of refinement.

    python -m experiments.jem_robustness --train [--small]

JEM-k classifies after k SGLD steps from the input; the attack differentiates through
the chain. The paper's curves use straight-through gradients, which are weaker and so
show more robustness; others report 4.28 % for JEM under AutoAttack at L∞ 8/255.
"""

from ebmjax.eval.report import charts
from ebmjax.eval.task import NORMS
from experiments import common
from experiments.common import Spec, percent

PARTS = ("attacks",)


def specs(small):
    return [Spec("classifier"), Spec("jem")]


def report(results):
    rows, pictures = [], {}
    for norm, symbol in NORMS.items():
        curves = {}
        for spec, found in results.items():
            name, attacks = common.label(spec), found.numbers["attacks"]
            if norm not in attacks["norms"]:
                continue
            clean = {"eps": 0.0, "eps_text": "0", "accuracy": attacks["clean_accuracy"]}
            curves[name] = [clean, *attacks["norms"][norm]["sweep"]]
            for steps, refined in attacks.get("refined", {}).items():
                for gradient, curve in refined["norms"][norm]["gradients"].items():
                    through = "" if gradient == "true" else ", straight through"
                    curves[f"{name}-{steps}{through}"] = curve
        for name, curve in curves.items():
            for point in curve:
                accuracy = percent(point["accuracy"])
                rows.append((f"{symbol} {point['eps_text']}", name, accuracy))
        points = {
            name: ([p["eps"] for p in curve], [p["accuracy"] for p in curve])
            for name, curve in curves.items()
        }
        axis = f"{symbol} eps, images in [0, 1]"
        pictures[norm] = charts.curves(points, axis, "accuracy")
    note = f"Of the first {attacks['num_images']} test images; refined classifiers"
    note += f" of the first {_num_refined(attacks)}."
    return common.Report(("attack", "classifier", "accuracy"), rows, pictures, note)


def _num_refined(attacks):
    counts = [x["num_images"] for x in attacks.get("refined", {}).values()]
    return counts[0] if counts else 0


if __name__ == "__main__":
    common.main(__doc__, specs, PARTS, report)
