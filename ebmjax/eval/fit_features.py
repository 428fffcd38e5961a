"""OOD scores of features, and those of training examples to which they are fitted.

The latter take most of the time and stay the same while checkpoint and data do, so they
are kept in a file. The first batch is always computed: it must agree with the file.
"""

import io
import json
import logging
import zlib

import jax
import numpy as np

from ebmjax import processes, rundir
from ebmjax.eval import feature_scores
from ebmjax.eval.result import FOLDER, Progress

FILE = "ood_fit_features.npz"
TOLERANCE = 1e-3  # of the largest feature: TF32 and float32 differ by less


def scores(
    run, features: dict[str, np.ndarray], progress: Progress
) -> dict[str, dict[str, np.ndarray]]:
    """{set: features [N, F]} -> {set: {score: [N]}}, by `feature_scores`.

    {} without training examples; NaN for an example whose features are not finite.
    """
    c, train = run.config.eval.ood, run.splits().train
    image, label = train.image[: c.num_fit], train.label[: c.num_fit]
    if not len(label):
        return {}
    fitted = of_examples(run, image, label, progress)
    every = np.concatenate(list(features.values()))
    finite = np.isfinite(every).all(axis=1) & np.isfinite(fitted).all()
    found = {score: np.full(len(every), np.nan) for score in feature_scores.LABELS}
    if finite.any():  # one fit for all sets: it takes longer than the scores
        new = feature_scores.scores(fitted, label, every[finite], k=c.neighbours)
        for score, values in new.items():
            found[score][finite] = values
    ends = np.cumsum([len(x) for x in features.values()])[:-1]
    parts = {score: np.split(values, ends) for score, values in found.items()}
    return {
        name: {score: of_sets[i] for score, of_sets in parts.items()}
        for i, name in enumerate(features)
    }


def of_examples(
    run, image: np.ndarray, label: np.ndarray, progress: Progress
) -> np.ndarray:
    """Features [N, F] of training examples as they are, without noise."""
    num_first = run.config.eval.batch_size
    if len(image) <= num_first:
        return _compute(run, image, progress)
    first = _compute(run, image[:num_first], progress)
    path = rundir.folder(run.workdir) / FOLDER / FILE
    settings = _depends_on(run, image, label)
    features = _read(path, settings)
    if features is None or not _agree(first, features[:num_first]):
        features = np.concatenate([first, _compute(run, image[num_first:], progress)])
        _write(path, features, settings)
    return features


def _compute(run, image, progress):
    text = progress("features of training examples")
    return run.map(_features, image, progress=text)


def _features(model, key, image):
    return model.features(model.to_float(image))


def _depends_on(run, image, label):
    settings = {
        "step": run.step,
        "ema": run.ema,
        "images": zlib.crc32(np.ascontiguousarray(image)),
        "labels": zlib.crc32(np.ascontiguousarray(label)),
    }
    return json.dumps(settings, sort_keys=True)


def _agree(new, old):
    """Are they of one model? Not if anything is NaN."""
    scale = np.abs(new).max()
    return new.shape == old.shape and np.abs(new - old).max() <= TOLERANCE * scale


def _read(path, settings):
    """The features, or None unless all processes read the same of these settings."""
    content = _content(path, settings)
    try:
        processes.check_same("the features in a file", content)
    except ValueError:
        return None
    if not content:
        return None
    with np.load(io.BytesIO(content)) as file:
        return file["features"]


def _content(path, settings):
    """The file if it is of these settings, else nothing."""
    try:
        content = path.read_bytes()
        with np.load(io.BytesIO(content)) as file:
            of_settings = str(file["settings"]) == settings
            return content if of_settings and "features" in file else b""
    except Exception:  # missing, or damaged in one of many ways
        return b""


def _write(path, features, settings):
    if jax.process_index() > 0:
        return
    file = io.BytesIO()
    np.savez(file, features=features, settings=np.array(settings))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        rundir.write(path, file.getvalue())
    except OSError as error:
        logging.warning("%s cannot be written: %s", path, error)
