"""Classification, calibration and out-of-distribution detection of a run.

Parts of an evaluation are functions `(run, watch) -> Found`: they know what a run
and its config are, and leave files to their caller. Fractions are in [0, 1].
"""

import functools

import jax
import numpy as np

from ebmjax import data, processes, runs
from ebmjax.eval import calibration, ood
from ebmjax.eval.found import COLUMNS, Found, Watch, bytes_of, floats, key, npz, picture


def classification(run: runs.Run, watch: Watch) -> Found:
    """Accuracy and proper scores on the test images, as they are and, if
    `eval.noise_std` is set, under Gaussian input noise too."""
    c, test = run.config.eval, run.splits().test
    watch("test images")
    numbers = classify(run.logits(test.image), test.label, c.num_bins)
    if c.noise_std:
        progress = watch(f"test images with noise {c.noise_std:g}")

        def noised(model, key, image):
            return model.logits(_noised(key, model.to_float(image), c.noise_std))

        logits = run.map(noised, test.image, key=key(run, "noise"), progress=progress)
        numbers["noised"] = {"noise_std": c.noise_std}
        numbers["noised"] |= classify(logits, test.label, c.num_bins)
    return Found(numbers, {})


def classify(logits: np.ndarray, labels: np.ndarray, num_bins: int) -> dict:
    """[N, K], [N] -> what one says of a classifier in five numbers."""
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


def calibrated(run: runs.Run, watch: Watch) -> Found:
    """Calibration errors on the test images, and what a temperature would mend."""
    num_bins, splits = run.config.eval.num_bins, run.splits()
    watch("test images")
    logits, labels = run.logits(splits.test.image), splits.test.label
    numbers = {"num_images": len(labels), "num_bins": num_bins}
    numbers["as_trained"] = _calibration_errors(logits, labels, num_bins)
    watch("validation images, for the temperature")
    try:
        if not len(splits.valid.label):
            raise ValueError("there are no validation images (config.data.num_valid)")
        temperature = calibration.fit_temperature(
            run.logits(splits.valid.image), splits.valid.label
        )
    except ValueError as error:
        numbers["temperature"] = {"skipped": str(error)}
        return Found(numbers, {})
    numbers["temperature"] = {
        "value": temperature,
        "num_valid": len(splits.valid.label),
    } | _calibration_errors(logits / temperature, labels, num_bins)
    return Found(numbers, {})


def _calibration_errors(logits, labels, num_bins):
    probs = calibration.softmax(logits)
    return {
        "ece": calibration.ece(probs, labels, num_bins),
        "ece_equal_mass": calibration.ece(probs, labels, num_bins, "equal_mass"),
        "mce": calibration.mce(probs, labels, num_bins),
        "rms_ce": calibration.rms_ce(probs, labels, num_bins),
        "classwise_ece": calibration.classwise_ece(probs, labels, num_bins),
        "ece_20_bins": calibration.ece(probs, labels, 20),  # the papers' figures
        "ng_ebm_midpoint_ece": calibration.midpoint_ece(probs, labels),
        "nll": calibration.nll_from_logits(logits, labels),
        "brier": calibration.brier(probs, labels),
        "reliability": calibration.reliability_diagram(
            probs, labels, num_bins
        )._asdict(),
    }


def out_of_distribution(run: runs.Run, watch: Watch) -> Found:
    """How well each score tells test images from those of other sets.

    A set that cannot be read is an error in its place; the others stay whole.
    """
    c = run.config.eval.ood
    test = run.splits().test.image[: c.num_images]
    images, sets = {"test": test}, {}
    for name in c.sets:
        watch(f"reading {name}")
        try:
            found = processes.on_every_process(
                functools.partial(_ood_images, run, name, test)
            )
            processes.check_same(name, np.ascontiguousarray(found).data)
            images[name] = found
        except (OSError, ValueError) as error:
            sets[name] = {"error": str(error)}

    def scores_of(model, key, image):
        k_noise, k_chain = jax.random.split(key)
        x = _noised(k_noise, model.to_float(image), c.noise_std)
        scores = {name: score(model.logits, x) for name, score in ood.SCORES.items()}
        if c.refine_steps:
            refined = ood.refinement_scores(
                k_chain,
                model.logits,
                x,
                num_steps=c.refine_steps,
                sampler=run.sampler,
            )
            scores |= {f"refined_{k}": v for k, v in refined._asdict().items()}
        return scores

    # All sets in one call, so that the scores are compiled once.
    found = run.map(
        scores_of,
        np.concatenate(list(images.values())),
        key=key(run, "ood"),
        progress=watch(f"scores of {', '.join(images)}"),
    )
    cuts = np.cumsum([len(x) for x in images.values()])[:-1]
    by_set = {name: {} for name in images}
    for score, values in found.items():
        for name, part in zip(images, np.split(values, cuts), strict=True):
            by_set[name][score] = part
    inside = by_set["test"]
    for name in images:
        if name != "test":
            judged = {k: _judge(inside[k], by_set[name][k]) for k in inside}
            sets[name] = {"num_images": len(images[name]), "scores": judged}
    numbers = {
        "num_images": len(test),
        "noise_std": c.noise_std,
        "refine_steps": c.refine_steps,
        "sets": {name: sets[name] for name in c.sets},
    }
    judged = [x["scores"] for x in sets.values() if "scores" in x]
    if judged:
        numbers["mean"] = {
            score: {
                metric: float(np.mean([x[score][metric] for x in judged]))
                for metric in judged[0][score]
            }
            for score in inside
        }
    rows = [x[:COLUMNS] for x in images.values() if len(x) >= COLUMNS]
    numbers["pictured"] = [name for name, x in images.items() if len(x) >= COLUMNS]
    arrays = {f"{k}/{s}": x for k, found in by_set.items() for s, x in found.items()}
    files = {"ood_scores.npz": npz(arrays)}
    if rows:
        files["ood_examples.png"] = picture(np.concatenate(rows), COLUMNS)
    return Found(numbers, files)


def _ood_images(run, name, test):
    """uint8 [M, H, W, C], M at most `eval.ood.num_images`."""
    k_set, shape = key(run, name), test.shape
    made = {
        "interpolation": lambda: ood.interpolations(k_set, floats(test)),
        "uniform": lambda: ood.uniform_noise(k_set, shape),
        "gaussian": lambda: ood.gaussian_noise(k_set, shape),
        "constant": lambda: ood.constant_images(k_set, shape),
    }
    if name in made:
        return bytes_of(made[name]())
    _, height, width, channels = shape
    dataset = data.load_split(
        name,
        data_dir=run.config.data.data_dir or None,
        size=(height, width),
        channels=channels,
    )
    return dataset.image[: run.config.eval.ood.num_images]


def _noised(key, x, noise_std):
    return x + noise_std * jax.random.normal(key, x.shape)


def _judge(score_in, score_out):
    pair = score_in, score_out
    return {
        "auroc": ood.auroc(*pair),
        "aupr_in": ood.aupr(*pair),
        "aupr_out": ood.aupr(*pair, positive="out"),
        "fpr95_in": ood.fpr_at_tpr(*pair),
        "fpr95_out": ood.fpr_at_tpr(*pair, positive="out"),
    }
