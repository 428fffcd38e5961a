"""Attacks on a run: the accuracy at each eps, distances to the nearest mistake.

eps and distances are in the units of images in [0, 1], as in the literature; the
networks, and attacks, see images in [-1, 1] and so twice of that. An accuracy is a row
{"eps", "eps_text", "accuracy"} of the share of images that are classified right.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ebmjax import runs
from ebmjax.eval import attacks, crosscheck, ood, refinement
from ebmjax.eval.result import Progress, key, to_uint8

# (key, logits_fn, x, labels, *, norm, eps) -> x_adv: pure, x [B, H, W, C] in [-1, 1],
# eps [B, 1, 1, 1] in the units of x, x_adv in the eps-ball about x and in [-1, 1].
Attack = Callable[..., jax.Array]


class Target(NamedTuple):
    """What is attacked."""

    run: runs.Run
    x: np.ndarray  # [N, H, W, C] in [-1, 1]
    labels: np.ndarray  # [N]
    progress: Progress

    def map(self, fn, copies, *arrays, purpose, text):
        """`run.map` of (x, labels, *arrays), the first two repeated `copies` times."""
        return self.run.map(
            fn,
            np.tile(self.x, (copies, 1, 1, 1)),
            np.tile(self.labels, copies),
            *arrays,
            key=key(self.run, purpose),
            batch_size=self.run.config.eval.attacks.batch_size,
            progress=self.progress(text),
        )


def eps_list(c, norm: str) -> list[tuple[float, str]]:
    """[(eps in units of [0, 1], how one writes it)] of `eval.attacks`."""
    return with_texts(c[f"eps_{norm}"], norm)


def with_texts(eps_list, norm: str) -> list[tuple[float, str]]:
    """The values of a config key as above."""
    if norm == "linf":
        return [(eps / 255, f"{eps:g}/255") for eps in eps_list]
    return [(eps, f"{eps:g}") for eps in eps_list]


def usual(texts: list[str], norm: str) -> str:
    """The eps that stands for all in a headline: the literature's, if it is there."""
    eps = {"linf": "8/255", "l2": "0.5"}[norm]
    return eps if eps in texts else texts[len(texts) // 2]


def max_eps(c, norm: str) -> float:
    return c.max_eps_linf / 255 if norm == "linf" else c.max_eps_l2


def accuracies(target: Target, attack: Callable, eps, *, purpose: str, text: str):
    """`attack(model, key, x, labels, eps [B]) -> {"right": [B], ...}` at every eps.

    -> rows, and the other arrays [E, N, ...]. All in one call: one program, in which
    each image has its own eps.
    """
    num = len(target.labels)
    each = np.repeat(np.float32([2 * value for value, _ in eps]), num)
    out = target.map(attack, len(eps), each, purpose=purpose, text=text)
    out = {k: v.reshape(len(eps), num, *v.shape[1:]) for k, v in out.items()}
    rows = [
        {"eps": value, "eps_text": text, "accuracy": float(np.mean(right))}
        for (value, text), right in zip(eps, out.pop("right"), strict=True)
    ]
    return rows, out


def pgd(target: Target, norm: str) -> tuple[dict, np.ndarray]:
    """Accuracies under PGD, and its examples at the eps that is pictured."""
    c = target.run.config.eval.attacks
    eps = eps_list(c, norm)
    texts = [text for _, text in eps]

    def attack(model, key, x, labels, eps):
        worst, info = attacks.pgd(
            key,
            model.logits,
            x,
            labels,
            norm=norm,
            eps=eps,
            step_size=c.step_share * eps,
            num_steps=c.num_steps,
            num_restarts=c.num_restarts * len(c.losses),
            loss=tuple(c.losses),
            early_stop=True,
            return_info=True,
        )
        right = attacks.is_correct(model.logits(worst), labels)
        return {"x": worst, "right": right, "nan": info.nan_gradient}

    names = {"purpose": f"attack {norm}", "text": f"{norm}: {', '.join(texts)}"}
    rows, arrays = accuracies(target, attack, eps, **names)
    pictured = texts.index(usual(texts, norm))
    numbers = {"sweep": rows, "pictured_eps": texts[pictured]}
    numbers["num_nan_gradients"] = int(arrays["nan"].any(axis=0).sum())  # images
    return numbers, arrays["x"][pictured]


def own_attack(target: Target, norm: str, name: str, attack: Attack) -> list[dict]:
    """Accuracies under a user's attack. Raises ValueError if x_adv breaks a rule of
    `Attack`, or is not finite."""

    def checked(model, key, x, labels, eps):
        eps = eps[:, None, None, None]
        z = attack(key, model.logits, x, labels, norm=norm, eps=eps)
        if z.shape != x.shape:
            raise ValueError(f"attack {name!r} returned {z.shape}, expected {x.shape}")
        right = (attacks.is_correct(model.logits(image), labels) for image in (x, z))
        return {
            "right": functools.reduce(jnp.logical_and, right),
            "size": attacks.NORMS[norm].size(z - x).reshape(-1),
            "largest": jnp.abs(z).reshape(len(z), -1).max(axis=1),
        }

    eps = eps_list(target.run.config.eval.attacks, norm)
    names = {"purpose": f"attack {norm} {name}", "text": f"{norm}: {name}"}
    rows, arrays = accuracies(target, checked, eps, **names)
    allowed = 2 * np.array([value for value, _ in eps])[:, None]
    if not np.all(arrays["size"] <= 1.001 * allowed + 1e-6):  # nor where it is NaN
        raise ValueError(f"attack {name!r} leaves the {norm} ball of size eps about x")
    if not np.all(arrays["largest"] <= 1 + 1e-6):
        raise ValueError(f"attack {name!r} leaves [-1, 1], the range of pixels")
    return rows


def distances(target: Target, norm: str) -> list[float]:
    """To the nearest mistake found, in units of [0, 1]; inf where none was."""
    c = target.run.config.eval.attacks

    def search(model, key, x, labels):
        return attacks.minimal_distance(
            key,
            model.logits,
            x,
            labels,
            norm=norm,
            max_eps=2 * max_eps(c, norm),
            relative_step_size=c.step_share,
            num_steps=c.num_steps,
            num_rounds=c.distance_rounds,
            num_restarts=len(c.losses),
            loss=tuple(c.losses),
            early_stop=True,
        ).distance

    names = {"purpose": f"distance {norm}", "text": f"{norm}: nearest mistakes"}
    return [round(float(d), 5) for d in target.map(search, 1, **names) / 2]


def foolbox(target: Target, norm: str, rows: list[dict]) -> dict:
    """Accuracies under foolbox's attack, and whether it finds no more than `rows`."""
    c = target.run.config.eval.attacks
    target.progress(f"{norm}: foolbox on the same images")
    theirs = crosscheck.foolbox_accuracies(
        target.run.model,
        target.x,
        target.labels,
        norm=norm,
        eps=[2 * row["eps"] for row in rows],
        step_share=c.step_share,
        num_steps=c.num_steps,
        batch_size=c.batch_size,
    )
    gaps = [row["accuracy"] - other for row, other in zip(rows, theirs, strict=True)]
    # Random starts may leave ours one image higher.
    confirmed = round(max(gaps) * len(target.labels)) <= 1
    return {"accuracies": theirs, "confirmed": confirmed}


def refined(target: Target, num_steps: int) -> dict:
    """JEM-k under attack, by the true gradient of its chain and straight through."""
    c = target.run.config.eval.attacks
    norms = {}
    for norm in c.norms:
        curves = {}
        for gradient in c.refine_gradients:
            classifier = refined_classifier(target.run, norm, num_steps, gradient)
            curves[gradient], _ = accuracies(
                target,
                functools.partial(_attack_refined, c, classifier, norm),
                [(0.0, "0"), *eps_list(c, norm)],
                purpose=f"refined {norm} {num_steps}",
                text=f"JEM-{num_steps}, {norm}, {gradient} gradient",
            )
        norms[norm] = {"noise_std": _noise_std(c, norm), "gradients": curves}
    num = len(target.labels)
    return {"num_images": num, "num_copies": c.refine_copies, "norms": norms}


def refined_classifier(run: runs.Run, norm: str, num_steps: int, gradient: str):
    """`refinement.refined_classifier` of a logits_fn, by the run's config."""
    c = run.config.eval.attacks
    return functools.partial(
        refinement.refined_classifier,
        num_steps=num_steps,
        num_copies=c.refine_copies,
        input_noise_std=_noise_std(c, norm),
        sampler=run.sampler,
        gradient=gradient,
    )


def _noise_std(c, norm):
    """The official script has this noise under L-infinity attacks only."""
    return c.refine_noise_std if norm == "linf" else 0.0


def _attack_refined(c, classifier, norm, model, key, x, labels, eps):
    refined_logits = classifier(model.logits)
    k_attack, k_test = jax.random.split(key)
    worst = attacks.pgd(
        k_attack,
        refined_logits,
        x,
        labels,
        norm=norm,
        eps=eps,
        step_size=c.step_share * eps,
        num_steps=c.num_steps,
        loss=c.losses[-1],
        random=True,
    )
    return {"right": attacks.is_correct(refined_logits(k_test, worst), labels)}


def distal(run, progress):
    """One example a class. -> numbers of each, and the images, uint8."""
    c = run.config.eval.attacks
    classes = np.arange(run.num_classes, dtype=np.int32)
    shape = (run.num_classes, *run.image_shape)
    start = np.asarray(ood.uniform_noise(key(run, "distal"), shape))

    def climb(model, key, x, targets):
        example = attacks.distal(
            model.logits,
            x,
            targets,
            step_size=c.distal_step_size,
            num_steps=c.distal_steps,
            confidence=c.distal_confidence,
        )
        log_prob = -attacks.LOSSES["cross_entropy"](model.logits(example.x), targets)
        before, after = model.energy(x), model.energy(example.x)
        return example.x, example.num_steps, jnp.exp(log_prob), -before, -after

    x, num_steps, confidence, before, after = run.map(
        climb, start, classes, progress=progress("distal adversarial examples")
    )
    rows = [
        {
            "class": run.class_names[k],
            "confidence": float(confidence[k]),
            "num_steps": int(num_steps[k]),
            "log_density": float(after[k]),
            "log_density_of_noise": float(before[k]),
        }
        for k in classes
    ]
    return rows, to_uint8(x)
