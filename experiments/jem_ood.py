"""JEM, Table 3: AUROC of three scores on out-of-distribution images.

    python -m experiments.jem_ood --train [--small]

For JEM and a plain classifier. The paper's numbers, from memory, are of networks
trained on CIFAR-10.
"""

from ebmjax.eval.tasks import ood
from experiments import common
from experiments.common import Spec

PARTS = ("ood",)
SCORES = ("log_density", "max_log_prob", "approximate_mass")
SETS = ("svhn_cropped", "interpolation", "cifar100", "celeb_a")
PAPER = {
    ("jem", "log_density"): (0.67, 0.65, 0.67, 0.75),
    ("jem", "max_log_prob"): (0.89, 0.75, 0.87, 0.79),
    ("jem", "approximate_mass"): (0.83, 0.78, 0.82, 0.79),
    ("classifier", "max_log_prob"): (0.93, 0.77, 0.85, 0.62),
}


def specs(small):
    return [Spec("classifier"), Spec("jem")]


def report(results, paper=PAPER):
    rows = []
    for spec, found in results.items():
        sets = found.numbers["ood"]["sets"]
        columns = [*sets, *(name for name in SETS if name not in sets)]
        for score in SCORES:
            heads = common.label(spec), ood.SCORES[score].label
            ours = [_auroc(sets.get(name, {}), score) for name in columns]
            rows.append((*heads, "here", *ours))
            if (spec.objective, score) in paper:
                theirs = dict(zip(SETS, paper[spec.objective, score], strict=True))
                theirs = [f"{theirs[n]:.2f}" if n in theirs else "" for n in columns]
                rows.append((*heads, "paper", *theirs))
    note = f"Gaussian noise of {found.numbers['ood']['noise_std']} on all images."
    return common.Report(("model", "score", "", *columns), rows, {}, note)


def _auroc(result, score):
    if "error" in result:
        return "not prepared"
    return f"{result['scores'][score]['auroc']:.2f}" if result else ""


if __name__ == "__main__":
    common.main(__doc__, specs, PARTS, report)
