"""Runs to evaluate, results of evaluations, and their pages."""

import functools
import html.parser
import pathlib

import jax.numpy as jnp
import numpy as np

from ebmjax import config, data, models, parallel, runs, sgld
from ebmjax.eval.result import npz, picture, to_json
from ebmjax.eval.tasks import ood


def linear_network():
    """Logits linear in x, and a constant pull of the energy towards 0."""

    def apply(params, stats, x):
        flat = x.reshape(len(x), -1)
        norm = jnp.sum(flat**2, axis=-1, keepdims=True)
        return flat @ params["w"] - 0.02 * norm

    def features(params, stats, x):
        return x.reshape(len(x), -1)[:, ::4]

    return models.Network(None, apply, None, features, True)


@functools.cache
def ridge_weights():
    """Least squares in closed form, scaled to be a classifier."""
    train = data.load("digits", num_valid=200).train
    x = np.float32(train.image.reshape(len(train.image), -1) / 127.5 - 1)
    one_hot = np.eye(10, dtype=np.float32)[train.label] - 0.1
    gram = x.T @ x + 100 * np.eye(64, dtype=np.float32)
    return 6 * np.linalg.solve(gram, x.T @ one_hot)


def small_config():
    c = config.default()
    c.data.name, c.data.num_valid = "digits", 200
    c.eval.ood.num_images, c.eval.ood.refine_steps = 50, 2
    c.eval.attacks.num_images, c.eval.attacks.refine_images = 20, 5
    c.eval.attacks.num_steps, c.eval.attacks.step_share = 8, 0.3
    c.eval.attacks.distal_steps, c.eval.attacks.distance_rounds = 5, 6
    c.eval.attacks.norms, c.eval.attacks.eps_linf = ("linf",), (4.0, 8.0, 32.0)
    c.eval.attacks.refine_copies = 2
    c.eval.energies.update(num_images=20, num_steps=4)
    c.eval.counterfactuals.num_steps = 6
    c.eval.samples.num_chains, c.eval.samples.num_steps = 20, 4
    c.eval.samples.num_reference = 60
    return c


def make_run(workdir, c=None, step=7):
    c = c or small_config()
    pathlib.Path(workdir, "config.json").write_text(config.to_json(c))
    chains = np.random.default_rng(1).uniform(-1, 1, (40, 8, 8, 1))
    return runs.Run(
        config=c,
        workdir=str(workdir),
        step=step,
        image_shape=(8, 8, 1),
        class_names=tuple("0123456789"),
        recoveries=0,
        model=runs.Model(
            linear_network(), parallel.place(({"w": ridge_weights()}, {}))
        ),
        buffer=np.float32(chains),
        num_blocks=1,
        sampler=sgld.JEM,
    )


def reliability(confidence=0.9, accuracy=0.8):
    return {
        "edges": [0.0, 0.5, 1.0],
        "counts": [0, 100],
        "accuracy": [None, accuracy],
        "confidence": [None, confidence],
    }


def results(name="a run", seed=0, ece=0.1, accuracy=0.8, objective=None):
    """An eval.json as the tasks would write it, with made-up numbers."""
    errors = "ece_equal_mass mce rms_ce classwise_ece ece_20_bins ng_ebm_midpoint_ece"
    errors = dict.fromkeys(errors.split(), ece) | {"nll": 0.5, "brier": 0.2}
    errors |= {"ece": ece, "reliability": reliability()}
    scores = {
        score: {
            "auroc": 0.7 + 0.01 * i,
            "aupr_in": 0.5,
            "aupr_out": 0.4,
            "fpr95_in": 0.3,
            "fpr95_out": 0.2,
        }
        for i, score in enumerate(ood.SCORES)
    }
    rows = [
        {"eps": 4 / 255, "eps_text": "4/255", "accuracy": 0.6},
        {"eps": 8 / 255, "eps_text": "8/255", "accuracy": 0.25},
    ]
    clean = {"eps": 0.0, "eps_text": "0", "accuracy": 0.7}
    means = {"clean": 1.0, "attacked": -1.5, "change": -2.5}
    common = {"step": 7, "seconds": 1.0, "settings": {}}
    return {
        "run": {
            "name": name,
            "step": 7,
            "recoveries": 1,
            "checkpoint": "last",
            "ema": False,
            "data": "digits",
            "seed": seed,
            "class_names": ["0", "1"],
            "image_shape": [8, 8, 1],
            "objective": objective or {"cross_entropy": 1.0, "p_x": 0.5},
            "model": {"name": "wide_resnet", "depth": 10, "width": 2},
        },
        "classification": common
        | {
            "num_images": 100,
            "accuracy": accuracy,
            "nll": 0.5,
            "brier": 0.2,
            "ece": ece,
            "num_bins": 15,
            "files": [],
        },
        "calibration": common
        | {
            "num_images": 100,
            "num_bins": 15,
            "as_trained": errors,
            "temperature": errors | {"value": 1.5, "num_valid": 50},
            "files": [],
        },
        "ood": common
        | {
            "num_images": 100,
            "noise_std": 0.03,
            "refine_steps": 0,
            "labels": {k: score.label for k, score in ood.SCORES.items()},
            "axes": {"log_density": "log p(x) + log Z, nats"},
            "not_finite": {},
            "sets": {
                "/data/other.npz": {"num_images": 30, "scores": scores},
                "<b>svhn</b>": {"error": "is not prepared"},
            },
            "mean": scores,
            "pictured": ["test"],
            "files": ["ood_examples.png", "ood_scores.npz"],
        },
        "attacks": common
        | {
            "num_images": 20,
            "clean_accuracy": 0.8,
            "losses": ["cross_entropy", "margin"],
            "num_steps": 40,
            "num_restarts": 1,
            "step_share": 0.1,
            "norms": {
                "linf": {
                    "sweep": rows,
                    "pictured_eps": "8/255",
                    "distances": [0.0, 0.02, 0.05, None],
                    "max_eps": 32 / 255,
                    "num_nan_gradients": 0,
                    "attacks": {},
                    "crosscheck": {"accuracies": [0.6, 0.3], "confirmed": True},
                }
            },
            "refined": {
                "1": {
                    "num_images": 5,
                    "num_copies": 2,
                    "norms": {
                        "linf": {
                            "noise_std": 0.03,
                            "gradients": {
                                "true": [clean, *rows],
                                "straight_through": [
                                    clean,
                                    rows[0],
                                    rows[1] | {"accuracy": 0.2},
                                ],
                            },
                        }
                    },
                }
            },
            "distal": [
                {
                    "class": name,
                    "confidence": 0.95,
                    "num_steps": 12,
                    "log_density": 3.0,
                    "log_density_of_noise": 1.5,
                }
                for name in "01"
            ],
            "settings": {"distal_step_size": 0.2, "distal_confidence": 0.9},
            "files": ["attack_linf.png", "distal.npz", "distal.png"],
        },
        "energies": common
        | {
            "num_images": 20,
            "num_steps": 20,
            "step_share": 0.25,
            "clean_accuracy": 0.8,
            "attacks": [
                {
                    "name": "linf_0",
                    "norm": "linf",
                    "eps": 8 / 255,
                    "eps_text": "8/255",
                    "accuracy": 0.25,
                    "auroc": 0.125,
                    "groups": {
                        name: {"num": num, "marginal": means, "joint": means}
                        for name, num in (("all", 20), ("fooled", 11))
                    },
                }
            ],
            "files": ["attack_energies.npz"],
        },
        "counterfactuals": common
        | {
            "num_steps": 50,
            "classes": ["0", "1"],
            "test_images": [3, 0],
            "log_density_of_image": [1.0, 2.0],
            "confidence": [[0.5, 0.75], [None, 0.25]],
            "log_density": [[1.5, 4.0], [None, 2.5]],
            "distance": [[0.1, 1.25], [None, 0.2]],
            "mean": {
                "num": 2,
                "num_diverged": 1,
                "confidence": 0.75,
                "log_density": 4.0,
                "log_density_gain": 3.0,
                "distance": 1.25,
            },
            "files": ["counterfactuals.npz", "counterfactuals.png"],
        },
        "samples": common
        | {
            "num_chains": 20,
            "num_diverged": 0,
            "num_steps": 2,
            "step_size": 1.0,
            "noise_std": 0.01,
            "trace": {"q05": [1, 0, -1], "median": [2, 1, 0], "q95": [3, 2, 1]},
            "class_columns": ["0", "1"],
            "neighbours_of": "chains",
            "scores": {
                "extractor": "this run",
                "num_features": 16,
                "num_samples": 20,
                "num_reference": 60,
                "selected": False,
                "sets": {
                    kind: {
                        "frechet_distance": distance,
                        "kid": {"mean": 0.1, "std": 0.01},
                        "inception_score": {"mean": 2.0, "std": 0.1},
                    }
                    for kind, distance in (("test", 6.25), ("chains", 90.5))
                },
            },
            "files": ["chains.png"],
        },
    }


def write_run(folder, numbers, c=None):
    """A run directory as an evaluation leaves it, without its checkpoints."""
    folder = pathlib.Path(folder)
    (folder / "eval").mkdir(parents=True)
    c = c or config.default()
    c.seed = numbers["run"]["seed"]
    (folder / "config.json").write_text(config.to_json(c))
    (folder / "eval.json").write_text(to_json(numbers))
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (10, 8, 8, 1)).astype(np.uint8)
    names = "ood_examples attack_linf distal chains chains_by_class neighbours"
    names += " counterfactuals test_likely test_unlikely test_sure test_unsure"
    for name in names.split():
        (folder / "eval" / f"{name}.png").write_bytes(picture(images, 5))
    arrays = {
        f"{kind}/{score}": rng.normal(size=50)
        for kind in ("test", "/data/other.npz")
        for score in ood.SCORES
    }
    (folder / "eval" / "ood_scores.npz").write_bytes(npz(arrays))
    (folder / "eval" / "distal.npz").write_bytes(npz({"x": images[:2]}))
    pairs = rng.integers(0, 256, (2, 3, 8, 8, 1)).astype(np.uint8)
    (folder / "eval" / "counterfactuals.npz").write_bytes(npz({"x": pairs}))
    arrays = {
        f"{name}/{k}": rng.normal(size=20) > 0 if k == "right" else rng.normal(size=20)
        for name in ("clean", "linf_0")
        for k in ("marginal", "joint", "right")
    }
    (folder / "eval" / "attack_energies.npz").write_bytes(npz(arrays))
    energies = {kind: rng.normal(size=50) for kind in ("test", "chains", "noise")}
    (folder / "eval" / "energies.npz").write_bytes(npz(energies))
    return folder


class Page(html.parser.HTMLParser):
    """What is in a page, and whether its elements close in order."""

    VOID = ("meta", "img", "br", "use", "path", "link")

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.words, self.addresses = [], [], [], []
        self.feed(text)
        assert not self.open
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.addresses += [v for k, v in attrs if k in ("src", "href", "xlink:href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.words.append(data)
