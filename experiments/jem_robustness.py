"""JEM's robustness curves: accuracy under L∞ and L2 attacks, and of refinement.

    python -m experiments.jem_robustness --train [--small]

JEM-k classifies after k SGLD steps from the input; the attack differentiates through
the chain. The paper's curves use straight-through gradients, which are weaker and so
show more robustness; others report 4.28 % for JEM under AutoAttack at L∞ 8/255. The
figure's other networks are adversarially trained, in L∞ and in L2 (Madry et al., 2018).
"""

from ebmjax.eval.report import charts
from ebmjax.eval.task import NORMS
from experiments import common
from experiments.common import Spec, percent

PARTS = ("attacks",)


L2 = {"norm": "l2", "eps": 0.5, "step_size": 0.1}  # see configs/adversarial_cifar10.py
ADVERSARIAL = {
    Spec("adversarial"): "adversarial L∞ 8/255",
    Spec(
        "adversarial",
        changes=tuple((f"adversarial.{key}", value) for key, value in L2.items()),
    ): "adversarial L2 0.5",
}


def specs(small):
    return [Spec("classifier"), Spec("jem"), *ADVERSARIAL]


def label(spec):
    return ADVERSARIAL.get(spec) or common.label(spec)


def report(results):
    rows, pictures = [], {}
    for norm, symbol in NORMS.items():
        curves = {}
        for spec, found in results.items():
            name, attacks = label(spec), found.numbers["attacks"]
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
    note += f" of the first {_num_refined(results)}."
    return common.Report(("attack", "classifier", "accuracy"), rows, pictures, note)


def _num_refined(results):
    attacks = [found.numbers["attacks"] for found in results.values()]
    refined = [x for a in attacks for x in a.get("refined", {}).values()]
    return max((x["num_images"] for x in refined), default=0)


if __name__ == "__main__":
    common.main(__doc__, specs, PARTS, report)
