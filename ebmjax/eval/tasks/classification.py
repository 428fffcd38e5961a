"""Accuracy and proper scores on the test set."""

import jax
import numpy as np

from ebmjax import runs
from ebmjax.eval import calibration
from ebmjax.eval.report import glossary
from ebmjax.eval.result import Progress, Result, finite_logits, key
from ebmjax.eval.task import Measure, Task, Verdict, format_number


def compute(run: runs.Run, progress: Progress) -> Result:
    """The test examples as they are and, if `eval.noise_std` is set, under Gaussian
    input noise too."""
    c, test = run.config.eval, run.splits().test
    progress("test examples")
    logits = finite_logits(run, test.image)
    numbers = classification_metrics(logits, test.label, c.num_bins)
    if c.noise_std:

        def noisy_logits(model, key, image):
            x = model.to_float(image)
            return model.logits(x + c.noise_std * jax.random.normal(key, x.shape))

        logits = run.map(
            noisy_logits,
            test.image,
            key=key(run, "noise"),
            progress=progress(f"test examples with noise {c.noise_std:g}"),
        )
        numbers["noised"] = {"noise_std": c.noise_std}
        numbers["noised"] |= classification_metrics(logits, test.label, c.num_bins)
    return Result(numbers)


def classification_metrics(
    logits: np.ndarray, labels: np.ndarray, num_bins: int
) -> dict:
    """[N, K], [N] -> accuracy, NLL (nats), Brier score and ECE."""
    probs = calibration.softmax(logits)
    numbers = {
        "num_images": len(labels),
        "accuracy": calibration.accuracy(logits, labels),
        "nll": calibration.nll_from_logits(logits, labels),
        "brier": calibration.brier(probs, labels),
        "ece": calibration.ece(probs, labels, num_bins),
        "num_bins": num_bins,
    }
    if logits.shape[1] >= 100:
        numbers["top5_accuracy"] = calibration.top_k_accuracy(logits, labels, k=5)
    return numbers


def classification_verdict(numbers: dict) -> Verdict:
    return Verdict(
        format_number(numbers["accuracy"], ".1%"),
        f"of {numbers['num_images']:,} test examples; NLL"
        f" {format_number(numbers['nll'], '.3f')} nats, Brier score"
        f" {format_number(numbers['brier'], '.3f')}",
    )


def measures(numbers: dict) -> list[Measure]:
    rows = _measures(numbers, "")
    if noised := numbers.get("noised"):
        rows += _measures(noised, f", noise {noised['noise_std']:g}")
    return rows


def _measures(numbers, suffix):
    rows = [Measure(f"accuracy{suffix}", numbers["accuracy"], "%", "higher")]
    if "top5_accuracy" in numbers:
        value = numbers["top5_accuracy"]
        rows.append(Measure(f"top-5 accuracy{suffix}", value, "%", "higher"))
    ece = f"ECE, {numbers['num_bins']} bins{suffix}"
    return rows + [
        Measure(f"NLL{suffix}", numbers["nll"], "nats", "lower"),
        Measure(f"Brier{suffix}", numbers["brier"], "", "lower"),
        Measure(ece, numbers["ece"], "%", "lower"),
    ]


TASK = Task(
    compute,
    title="Classification",
    verdict=classification_verdict,
    measures=measures,
    section=lambda numbers, folder: None,  # the verdict has all of it
    glossary=glossary.CLASSIFICATION,
)
