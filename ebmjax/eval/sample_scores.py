"""Fréchet distance, KID and Inception Score of a run's samples, by some features."""

from collections.abc import Callable

import numpy as np

from ebmjax import processes, runs
from ebmjax.eval import calibration, frechet
from ebmjax.eval.result import to_uint8

INCEPTION = "inception:"  # before the file of its weights, in eval.samples.extractor

KID_SUBSET_SIZE, INCEPTION_SPLITS = 1_000, 10  # at most

Extractor = Callable[..., tuple[np.ndarray, np.ndarray]]  # images, progress


def extractor(run: runs.Run) -> Extractor:
    """Images, progress -> features [N, F] and logits [N, K] of the network that
    `eval.samples.extractor` names.

    Raises FileNotFoundError where it is not, ValueError where it is of other images.
    """
    c = run.config.eval.samples
    path, input = c.extractor, c.inception_input
    if path.startswith(INCEPTION):
        file = path.removeprefix(INCEPTION)
        return processes.on_every_process(lambda: _inception(run, file, input))
    if not path:
        return _by_run(run)

    def load():
        try:
            return runs.load(path)
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"config.eval.samples.extractor: {error}. It is a run directory, or"
                f" {INCEPTION}FILE with the weights of FID's network"
            ) from error

    other = processes.on_every_process(load)
    if other.image_shape != run.image_shape:
        raise ValueError(
            f"config.eval.samples.extractor {path} takes images"
            f" {other.image_shape}, expected {run.image_shape}"
        )
    return _by_run(other)


def _inception(run, file, input):
    from ebmjax.eval import inception

    if run.image_shape[-1] not in (1, 3):
        raise ValueError(
            "FID's network takes grey and RGB images, not images with"
            f" {run.image_shape[-1]} channels"
        )
    return inception.Extractor(file, input)


def _by_run(run):
    def extract(model, key, image):
        x = model.to_float(image)
        return model.features(x), model.logits(x)

    return lambda image, progress: run.map(extract, image, progress=progress)


def scores(
    run: runs.Run,
    extract: Extractor,
    images: dict[str, np.ndarray],
    progress: Callable,
) -> dict:
    """The scores of every kind of samples, uint8 {name: [N, H, W, C]}.

    As many test images are scored beside them: as near to the training images as
    samples can be expected to come.
    """
    c, splits = run.config.eval.samples, run.splits()
    sets = {"test": splits.test.image} | images
    if c.buffer_share < 1 and run.buffer is not None:
        name = f"buffer, most confident {c.buffer_share:.0%}"
        sets[name] = _most_confident(run, c.buffer_share)
    num = min(c.num_chains, *(len(x) for x in sets.values()))
    train = splits.train.image[: c.num_reference]
    examples = np.concatenate([train, *(x[:num] for x in sets.values())])
    features, logits = extract(examples, progress)
    cuts = len(train) + num * np.arange(len(sets))
    reference, *features = np.split(features, cuts)
    _, *logits = np.split(logits, cuts)
    rows = {
        name: _scores_of(f, g, reference)
        for name, f, g in zip(sets, features, logits, strict=True)
    }
    numbers = {
        "extractor": c.extractor or "this run",
        "num_features": reference.shape[1],
        "num_samples": num,
        "num_reference": len(train),
        "reference": "training images",
        "kid_subset_size": min(num, len(train), KID_SUBSET_SIZE),
        "inception_splits": min(num, INCEPTION_SPLITS),
        "sets": rows,
    }
    if c.extractor.startswith(INCEPTION):
        numbers["input"] = c.inception_input
    return numbers


def _scores_of(features, logits, reference):
    num = len(features)
    kid = frechet.kid(features, reference, subset_size=min(KID_SUBSET_SIZE, num))
    probs = calibration.softmax(logits)
    splits = min(INCEPTION_SPLITS, num)
    score = frechet.inception_score(probs, num_splits=splits)
    return {
        "frechet_distance": frechet.frechet_distance(features, reference),
        "kid": kid._asdict(),
        "inception_score": score._asdict(),
    }


def _most_confident(run, share):
    """The `share` of the buffer of each predicted class of which the run is surest, in
    random order: what the numbers of SADA-JEM and M-JEM are of.  uint8 [N, H, W, C]."""
    image = to_uint8(run.buffer)
    probs = calibration.softmax(run.logits(image))
    predicted, confidence = probs.argmax(axis=-1), probs.max(axis=-1)
    kept = []
    for label in np.unique(predicted):
        (of_class,) = np.nonzero(predicted == label)
        order = np.argsort(-confidence[of_class], kind="stable")
        kept.append(of_class[order[: max(round(share * len(of_class)), 1)]])
    kept = np.concatenate(kept)
    return image[np.random.default_rng(run.config.seed).permutation(kept)]


def is_inception(numbers: dict) -> bool:
    return numbers["extractor"].startswith(INCEPTION)


def distance_name(numbers: dict) -> str:
    """What the Fréchet distance is called: FID only with FID's own network."""
    if is_inception(numbers):
        return f"FID ({numbers['input']} input, {numbers['num_samples']:,} samples)"
    return f"Fréchet distance by features of {numbers['extractor']}"
