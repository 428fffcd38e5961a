"""Attacks on a run: the accuracy at each eps, distances to the nearest mistake.

eps and distances are in the units of images in [0, 1], as in the literature; the
networks, and attacks, see images in [-1, 1] and so twice of that. All functions take x
[N, H, W, C] in [-1, 1] and labels [N], and give rows {"eps", "eps_text", "accuracy"}.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from ebmjax.eval import attacks, crosscheck, ood, refinement
from ebmjax.eval.result import key, to_uint8

# (key, logits_fn, x, labels, *, norm, eps) -> x_adv: pure, x [B, H, W, C] in [-1, 1],
# eps [B, 1, 1, 1] in the units of x, x_adv in the eps-ball about x and in [-1, 1].
Attack = Callable[..., jax.Array]


def eps_list(c, norm: str) -> list[tuple[float, str]]:
    """[(eps in units of [0, 1], how one writes it)] of `eval.attacks`."""
    if norm == "linf":
        return [(eps / 255, f"{eps:g}/255") for eps in c.eps_linf]
    return [(eps, f"{eps:g}") for eps in c.eps_l2]


def max_eps(c, norm):
    return c.max_eps_linf / 255 if norm == "linf" else c.max_eps_l2


def _curve(run, attack, x, labels, eps, *, purpose, progress):
    """`attack(model, key, x, labels, eps [B]) -> {"correct": [B], ...}` at every eps.

    -> rows of accuracy, and the other arrays [E, N, ...]. All in one call: one
    program, in which each image has its own eps.
    """
    out = run.map(
        attack,
        np.tile(x, (len(eps), 1, 1, 1)),
        np.tile(labels, len(eps)),
        np.repeat(np.float32([2 * value for value, _ in eps]), len(labels)),
        key=key(run, purpose),
        batch_size=run.config.eval.attacks.batch_size,
        progress=progress,
    )
    out = {k: v.reshape(len(eps), len(labels), *v.shape[1:]) for k, v in out.items()}
    rows = [
        {"eps": value, "eps_text": text, "accuracy": float(accuracy)}
        for (value, text), accuracy in zip(
            eps, out.pop("correct").mean(axis=1), strict=True
        )
    ]
    return rows, out


def pgd(run, x, labels, norm, progress):
    """Accuracies under PGD, and what it made of x at the eps that is pictured."""
    c = run.config.eval.attacks
    eps = eps_list(c, norm)

    def attack(model, key, x, labels, eps):
        worst = attacks.pgd(
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
        )
        correct = model.logits(worst).argmax(axis=-1) == labels
        return {"x": worst, "correct": correct}

    rows, found = _curve(
        run,
        attack,
        x,
        labels,
        eps,
        purpose=f"attack {norm}",
        progress=progress(f"{norm}: {', '.join(text for _, text in eps)}"),
    )
    # The literature's eps stands for all in a headline, if it is there.
    usual, texts = {"linf": "8/255", "l2": "0.5"}[norm], [text for _, text in eps]
    pictured = texts.index(usual) if usual in texts else len(texts) // 2
    return {"sweep": rows, "pictured_eps": texts[pictured]}, found["x"][pictured]


def own_attack(run, x, labels, norm, name, attack, progress):
    """Accuracies under a user's attack, of which nothing is taken on trust."""

    def checked(model, key, x, labels, eps):
        eps = eps[:, None, None, None]
        z = attack(key, model.logits, x, labels, norm=norm, eps=eps)
        if z.shape != x.shape:
            raise ValueError(
                f"attack {name!r} returned shape {z.shape}, expected {x.shape}"
            )
        correct = model.logits(x).argmax(axis=-1) == labels
        return {
            "correct": correct & (model.logits(z).argmax(axis=-1) == labels),
            "size": attacks.NORMS[norm].size(z - x).reshape(-1),
            "largest": jnp.abs(z).reshape(len(z), -1).max(axis=1),
        }

    eps = eps_list(run.config.eval.attacks, norm)
    rows, sizes = _curve(
        run,
        checked,
        x,
        labels,
        eps,
        purpose=f"attack {norm} {name}",
        progress=progress(f"{norm}: {name}"),
    )
    allowed = 2 * np.array([value for value, _ in eps])[:, None]
    # Written so that NaN is refused too.
    if not (np.all(sizes["size"] <= 1.001 * allowed + 1e-6)):
        raise ValueError(
            f"attack {name!r} does not stay in the {norm} ball of size eps about x"
        )
    if not np.all(sizes["largest"] <= 1 + 1e-6):
        raise ValueError(f"attack {name!r} leaves [-1, 1], the range of pixels")
    return rows


def distances(run, x, labels, norm, progress):
    """To the nearest mistake found, in units of [0, 1]; inf where none was."""
    c = run.config.eval.attacks

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

    found = run.map(
        search,
        x,
        labels,
        key=key(run, f"distance {norm}"),
        batch_size=c.batch_size,
        progress=progress(f"{norm}: nearest mistakes"),
    )
    return [round(float(d), 5) for d in found / 2]


def foolbox(run, x, labels, norm, rows):
    c = run.config.eval.attacks
    accuracies = crosscheck.foolbox_accuracies(
        run.model,
        x,
        labels,
        norm=norm,
        eps=[2 * row["eps"] for row in rows],
        step_share=c.step_share,
        num_steps=c.num_steps,
        batch_size=c.batch_size,
    )
    gaps = [row["accuracy"] - b for row, b in zip(rows, accuracies, strict=True)]
    # Ours may be one image higher, for the luck of random starts.
    confirmed = bool(round(max(gaps) * len(labels)) <= 1)
    return {"accuracies": accuracies, "confirmed": confirmed}


def refined(run, x, labels, num_steps, progress):
    """JEM-k under attack, by the true gradient of its chain and straight through."""
    c = run.config.eval.attacks
    norms = {}
    for norm in c.norms:
        # The official script has this noise under L-infinity attacks only.
        noise_std = c.refine_noise_std if norm == "linf" else 0.0
        norms[norm] = {"noise_std": noise_std, "gradients": {}}
        for gradient in c.refine_gradients:
            classifier = functools.partial(
                refinement.refined_classifier,
                num_steps=num_steps,
                num_copies=c.refine_copies,
                input_noise_std=noise_std,
                sampler=run.sampler,
                gradient=gradient,
            )
            norms[norm]["gradients"][gradient], _ = _curve(
                run,
                functools.partial(_attack_refined, c, classifier, norm),
                x,
                labels,
                [(0.0, "0"), *eps_list(c, norm)],
                purpose=f"refined {norm} {num_steps}",
                progress=progress(f"JEM-{num_steps}, {norm}, {gradient} gradient"),
            )
    return {"num_images": len(labels), "num_copies": c.refine_copies, "norms": norms}


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
    return {"correct": refined_logits(k_test, worst).argmax(axis=-1) == labels}


def distal(run, progress):
    """One example a class. -> numbers of each, and the images, uint8."""
    c = run.config.eval.attacks
    classes = np.arange(run.num_classes, dtype=np.int32)
    shape = (run.num_classes, *run.image_shape)
    start = np.asarray(ood.uniform_noise(key(run, "distal"), shape))

    def climb(model, key, x, targets):
        found = attacks.distal(
            model.logits,
            x,
            targets,
            step_size=c.distal_step_size,
            num_steps=c.distal_steps,
            confidence=c.distal_confidence,
        )
        log_prob = -attacks.LOSSES["cross_entropy"](model.logits(found.x), targets)
        before, after = model.energy(x), model.energy(found.x)
        return found.x, found.num_steps, jnp.exp(log_prob), -before, -after

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
