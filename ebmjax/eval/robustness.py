"""Robustness of a run: attacks, distances, refined classifiers, distal examples.

eps and distances are in the units of images in [0, 1], as in the literature; the
networks, and `attacks`, see images in [-1, 1] and so twice of that.
"""

import jax
import jax.numpy as jnp
import numpy as np

from ebmjax import processes, runs
from ebmjax.eval import attacks, calibration, judge, ood, refinement
from ebmjax.eval.found import COLUMNS, Found, Watch, bytes_of, floats, key, npz, picture


def attacked(run: runs.Run, watch: Watch) -> Found:
    """Accuracy under attack, distances to the nearest mistake, refined classifiers
    under attack, and distal adversarial examples."""
    c, test = run.config.eval.attacks, run.splits().test
    if c.crosscheck:
        # Missing ones are missed before anything that takes long.
        processes.on_every_process(judge.modules)
    test = test.take(slice(c.num_images))
    x, labels = floats(test.image), test.label
    numbers = {
        "num_images": len(labels),
        "clean_accuracy": calibration.accuracy(run.logits(x), labels),
        "losses": list(c.losses),
        "num_steps": c.num_steps,
        "num_restarts": c.num_restarts,
        "step_share": c.step_share,
        "norms": {},
    }
    files = {}
    for norm in c.norms:
        eps = eps_list(c, norm)
        rows, worst = _sweep(run, x, labels, norm, eps, watch)
        numbers["norms"][norm] = {"sweep": rows}
        shown = _reference(norm, [text for _, text in eps])
        numbers["norms"][norm]["pictured_eps"] = rows[shown]["eps_text"]
        files[f"attack_{norm}.png"] = _attack_picture(x, worst[shown])
        if c.distance_rounds:
            distances = _distances(run, x, labels, norm, watch)
            numbers["norms"][norm]["distances"] = distances
            numbers["norms"][norm]["max_eps"] = _max_eps(c, norm)
        if c.crosscheck:
            watch(f"{norm}: foolbox on the same images")
            numbers["norms"][norm]["judge"] = _judged(run, x, labels, norm, rows)
    refined = x[: c.refine_images], labels[: c.refine_images]
    for num_steps in c.refine_steps if c.refine_images else ():
        found = _refined(run, *refined, num_steps, watch)
        numbers.setdefault("refined", {})[f"{num_steps}"] = found
    if c.distal_steps:
        numbers["distal"], x = _distal(run, watch)
        files["distal.png"] = picture(x, min(len(x), COLUMNS))
        files["distal.npz"] = npz({"x": x})
    return Found(numbers, files)


def eps_list(c, norm: str) -> list[tuple[float, str]]:
    """[(eps in units of [0, 1], how one writes it)] of `eval.attacks`."""
    if norm == "linf":
        return [(eps / 255, f"{eps:g}/255") for eps in c.eps_linf]
    return [(eps, f"{eps:g}") for eps in c.eps_l2]


def _reference(norm, texts):
    """Which eps stands for all in a headline: the literature's, if it is there."""
    usual = {"linf": "8/255", "l2": "0.5"}[norm]
    return texts.index(usual) if usual in texts else len(texts) // 2


def _max_eps(c, norm):
    return c.max_eps_linf / 255 if norm == "linf" else c.max_eps_l2


def _sweep(run, x, labels, norm, eps, watch):
    """Accuracy at each eps -> rows of numbers, and x_adv [E, N, H, W, C]."""
    c = run.config.eval.attacks

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
        return worst, model.logits(worst).argmax(axis=-1) == labels

    # Every eps in one call: one program, in which each image has its own eps.
    num = len(labels)
    worst, correct = run.map(
        attack,
        np.tile(x, (len(eps), 1, 1, 1)),
        np.tile(labels, len(eps)),
        np.repeat(np.float32([2 * value for value, _ in eps]), num),
        key=key(run, f"attack {norm}"),
        batch_size=c.batch_size,
        progress=watch(f"{norm}: {', '.join(text for _, text in eps)}"),
    )
    rows = [
        {"eps": value, "eps_text": text, "accuracy": float(np.mean(part))}
        for (value, text), part in zip(eps, correct.reshape(-1, num), strict=True)
    ]
    return rows, worst.reshape(-1, *x.shape)


def _distances(run, x, labels, norm, watch):
    """To the nearest mistake found, in units of [0, 1]; inf where none was."""
    c = run.config.eval.attacks

    def search(model, k_search, x, labels):
        return attacks.minimal_distance(
            k_search,
            model.logits,
            x,
            labels,
            norm=norm,
            max_eps=2 * _max_eps(c, norm),
            relative_step_size=c.step_share,
            num_steps=c.num_steps,
            num_rounds=c.distance_rounds,
            num_restarts=len(c.losses),
            loss=tuple(c.losses),
            early_stop=True,
        ).distance

    distances = run.map(
        search,
        x,
        labels,
        key=key(run, f"distance {norm}"),
        batch_size=c.batch_size,
        progress=watch(f"{norm}: nearest mistakes"),
    )
    return [round(float(d), 5) for d in distances / 2]


def _judged(run, x, labels, norm, rows):
    c = run.config.eval.attacks
    accuracies = judge.foolbox_accuracies(
        run.model,
        x,
        labels,
        norm=norm,
        eps=[2 * row["eps"] for row in rows],
        step_share=c.step_share,
        num_steps=c.num_steps,
        batch_size=c.batch_size,
    )
    worst = max(
        row["accuracy"] - theirs for row, theirs in zip(rows, accuracies, strict=True)
    )
    return {
        "accuracies": accuracies,
        # Ours may be one image higher, for the luck of random starts.
        "confirmed": round(worst * len(labels)) <= 1,
    }


def _refined(run, x, labels, num_steps, watch):
    """JEM-k under attack, by the true gradient of its chain and straight through."""
    c = run.config.eval.attacks
    found = {"num_images": len(labels), "num_copies": c.refine_copies, "norms": {}}
    for norm in c.norms:
        # The official script has this noise under L-infinity attacks only.
        noise = c.refine_noise_std if norm == "linf" else 0.0
        eps = [(0.0, "0"), *eps_list(c, norm)]
        curves = {}
        for gradient in c.refine_gradients:

            def attack(
                model, key, x, labels, eps, norm=norm, noise=noise, gradient=gradient
            ):
                classifier = refinement.refined_classifier(
                    model.logits,
                    num_steps=num_steps,
                    num_copies=c.refine_copies,
                    input_noise_std=noise,
                    sampler=run.sampler,
                    gradient=gradient,
                )
                k_attack, k_judge = jax.random.split(key)
                found = attacks.pgd(
                    k_attack,
                    classifier,
                    x,
                    labels,
                    norm=norm,
                    eps=eps,
                    step_size=c.step_share * eps,
                    num_steps=c.num_steps,
                    loss=c.losses[-1],
                    random=True,
                )
                return classifier(k_judge, found).argmax(axis=-1) == labels

            correct = run.map(
                attack,
                np.tile(x, (len(eps), 1, 1, 1)),
                np.tile(labels, len(eps)),
                np.repeat(np.float32([2 * value for value, _ in eps]), len(labels)),
                key=key(run, f"refined {norm} {num_steps}"),
                batch_size=c.batch_size,
                progress=watch(f"JEM-{num_steps}, {norm}, {gradient} gradient"),
            )
            correct = correct.reshape(len(eps), -1).mean(axis=1)
            curves[gradient] = [
                {"eps": value, "eps_text": text, "accuracy": float(accuracy)}
                for (value, text), accuracy in zip(eps, correct, strict=True)
            ]
        found["norms"][norm] = {"noise_std": noise, "gradients": curves}
    return found


def _attack_picture(x, worst):
    """Ten columns: images, what was found, and the change, stretched to be seen."""
    x, worst = x[:COLUMNS], worst[:COLUMNS]
    change = worst - x
    change = change / max(float(np.abs(change).max()), 1e-6)
    return picture(np.concatenate([x, worst, change]), len(x))


def _distal(run, watch):
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

    found, num_steps, confidence, before, after = run.map(
        climb, start, classes, progress=watch("distal adversarial examples")
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
    return rows, bytes_of(found)
