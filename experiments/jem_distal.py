"""JEM's distal adversarial examples: noise, changed until a class is certain.

    python -m experiments.jem_distal --train [--small]

In the paper's figure JEM's and those of an adversarially trained network turn into
images of the class, and a classifier's stay noise. The paper gives no numbers; here
they are the number of steps and log p(x).
"""

import statistics

from experiments import common, jem_robustness
from experiments.common import percent

PARTS = ("attacks",)


def specs(small):
    return jem_robustness.specs(small)


def report(results):
    rows, pictures = [], {}
    for spec, found in results.items():
        label, distal = jem_robustness.label(spec), found.numbers["attacks"]["distal"]

        def median(key, distal=distal):
            return statistics.median(example[key] for example in distal)

        rows.append(
            (
                label,
                f"{median('num_steps'):.0f}",
                percent(median("confidence")),
                f"{median('log_density') - median('log_density_of_noise'):+.2f} nats",
            )
        )
        norm = dict(spec.changes).get("adversarial.norm", "")
        caption = f"{spec.objective} {norm}".strip()
        pictures[caption] = found.file("distal.png").read_bytes()
    columns = ("model", "steps", "confidence", "log p(x) minus that of the noise")
    return common.Report(columns, rows, pictures, "Medians over the classes.")


if __name__ == "__main__":
    common.main(__doc__, specs, PARTS, report)
