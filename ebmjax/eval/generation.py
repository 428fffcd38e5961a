"""What a run's model makes and likes: chains, energies, pictures, distances."""

import functools

import numpy as np

from ebmjax import processes, runs
from ebmjax.eval import calibration, frechet, ood, samples
from ebmjax.eval.found import COLUMNS, Found, Watch, bytes_of, key, npz, picture

PER_CLASS = 5  # images a class at each end


def sampled(run: runs.Run, watch: Watch) -> Found:
    """Chains and their energies, what the model finds likely, distances to data."""
    c, splits = run.config.eval.samples, run.splits()
    extractor = _extractor(run)  # before anything that takes long
    columns = min(run.num_classes, COLUMNS)
    start, chains = _chains(run, c.num_chains, watch("chains on p(x)"))
    labels = np.tile(np.arange(columns, dtype=np.int32), PER_CLASS)
    progress = watch("chains on p(x | y)")
    _, by_class = _chains(run, len(labels), progress, labels)
    drawn = {"chains": bytes_of(chains.x)}
    if run.buffer is not None:  # at random, for its blocks may be classes
        order = np.random.default_rng(run.config.seed).permutation(len(run.buffer))
        drawn["buffer"] = bytes_of(run.buffer[order[: c.num_chains]])

    watch("energies")
    energies = {"test": run.energy(splits.test.image), "noise": run.energy(start)}
    energies |= {name: run.energy(x) for name, x in drawn.items()}
    watch("nearest training images")
    shown = "buffer" if "buffer" in drawn else "chains"
    likely = drawn[shown][samples.extremes(-energies[shown], COLUMNS)[0]]
    near = samples.nearest(likely, splits.train.image, 5)
    neighbours = [likely, *splits.train.image[near.T]]

    quantiles = np.quantile(chains.energy, [0.05, 0.5, 0.95], axis=0)
    numbers = {
        "num_chains": c.num_chains,
        "num_steps": c.num_steps,
        "step_size": run.config.sgld.step_size,
        "noise_std": run.config.sgld.noise_std,
        "mean_energy": {name: float(np.mean(e)) for name, e in energies.items()},
        "trace": dict(zip(("q05", "median", "q95"), quantiles, strict=True)),
        "class_columns": list(run.class_names[:columns]),
        "neighbours_of": shown,
        "scores": _scores(run, extractor, drawn, watch),
    }
    files = {
        "chains.png": picture(drawn["chains"][:100], COLUMNS),
        "chains_by_class.png": picture(by_class.x, columns),
        "neighbours.png": picture(np.concatenate(neighbours), len(likely)),
        "energies.npz": npz(energies),
        "samples.npz": npz(drawn),
    }
    if "buffer" in drawn:
        files["buffer.png"] = picture(drawn["buffer"][:100], COLUMNS)
    return Found(numbers, files | _extremes(run, -energies["test"], columns))


def _chains(run, num, progress, labels=None):
    """Where `num` chains start, U(-1, 1), and the chains: on p(x), or p(x | y)."""
    c = run.config.eval.samples
    name = "chains" if labels is None else "class chains"
    shape = (num, *run.image_shape)
    start = np.asarray(ood.uniform_noise(key(run, f"start of {name}"), shape))

    def from_noise(model, key, start, labels=None):
        return samples.chains(
            key,
            functools.partial(model.energy, labels=labels),
            start,
            num_steps=c.num_steps,
            sampler=run.sampler,
        )

    arrays = (start,) if labels is None else (start, labels)
    return start, run.map(from_noise, *arrays, key=key(run, name), progress=progress)


def _extremes(run, log_density, columns):
    """Pictures of the test images that the model finds most and least likely."""
    test = run.splits().test
    log_probs = np.log(calibration.softmax(run.logits(test.image)) + 1e-300)
    of_label = log_probs[np.arange(len(test.label)), test.label]
    per_class = samples.extremes_per_class(of_label, test.label, PER_CLASS)
    shown = [per_class[k] for k in sorted(per_class)[:columns]]
    count = min(len(best) for best, _ in shown)  # classes may be small
    rows = [np.array([ends[i][:count] for ends in shown]).T for i in (0, 1)]
    best, worst = samples.extremes(log_density, 2 * COLUMNS)
    return {
        "test_likely.png": picture(test.image[best], COLUMNS),
        "test_unlikely.png": picture(test.image[worst], COLUMNS),
        "test_sure.png": picture(test.image[rows[0].ravel()], len(shown)),
        "test_unsure.png": picture(test.image[rows[1].ravel()], len(shown)),
    }


def _extractor(run):
    """The run whose features and classes judge the samples."""
    path = run.config.eval.samples.extractor
    if not path:
        return run

    def load():
        try:
            return runs.load(path)
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"config.eval.samples.extractor: {error}. Inception's weights are not"
                " part of ebmjax: give its tools the images of eval/samples.npz, or"
                " their features to ebmjax.eval.frechet"
            ) from error

    found = processes.on_every_process(load)
    if found.image_shape != run.image_shape:
        raise ValueError(
            f"config.eval.samples.extractor {path} takes images {found.image_shape},"
            f" this run makes {run.image_shape}"
        )
    return found


def _scores(run, extractor, drawn, watch):
    """Fréchet distance, KID and Inception Score of every kind of samples.

    Test images are scored beside them, at the same number: as near to the
    training images as samples can be expected to come.
    """
    c, splits = run.config.eval.samples, run.splits()
    sets = {"test": splits.test.image} | drawn
    num = min(len(x) for x in sets.values())
    num = min(num, c.num_chains)

    def extract(model, key, image):
        return model.features(model.to_float(image)), model.logits(
            model.to_float(image)
        )

    train = splits.train.image[: c.num_reference]
    images = np.concatenate([train, *(x[:num] for x in sets.values())])
    features, logits = extractor.map(
        extract, images, progress=watch("features of samples and data")
    )
    cuts = len(train) + num * np.arange(len(sets))
    reference, *features = np.split(features, cuts)
    _, *logits = np.split(logits, cuts)
    rows = {}
    for name, f, g in zip(sets, features, logits, strict=True):
        kid = frechet.kid(f, reference, subset_size=min(1_000, num))
        splits = min(10, num)
        score = frechet.inception_score(calibration.softmax(g), num_splits=splits)
        rows[name] = {
            "frechet_distance": frechet.frechet_distance(f, reference),
            "kid": kid._asdict(),
            "inception_score": score._asdict(),
        }
    return {
        "extractor": c.extractor or "this run",
        "num_features": reference.shape[1],
        "num_samples": num,
        "num_reference": len(train),
        "selected": False,
        "sets": rows,
    }
