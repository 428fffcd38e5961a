"""Adversarial robustness: attacks, distances to the nearest mistake, refined
classifiers under attack, distal adversarial examples.

eps and distances are in the units of images in [0, 1], as in the literature; the
networks, and attacks, see images in [-1, 1] and so twice of that.
"""

import functools
from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from ebmjax import augment, processes, runs
from ebmjax.eval import calibration, crosscheck, judge, robustness
from ebmjax.eval.autoattack import driver, evaluation
from ebmjax.eval.report import glossary
from ebmjax.eval.result import (
    COLUMNS,
    Progress,
    Result,
    finite_logits,
    has_images,
    npz,
    picture,
    skipped,
)
from ebmjax.eval.task import Task
from ebmjax.eval.tasks.attack_headline import robustness_verdict
from ebmjax.eval.tasks.attacks_report import compare, measures, section


def task(attacks: Mapping[str, robustness.Attack]) -> Task:
    """The task with more attacks than PGD: their accuracies stand beside its.

    Raises ValueError for a name that the report has for another curve.
    """
    if taken := {"PGD", "AutoAttack", "foolbox", "nearest mistake"} & set(attacks):
        raise ValueError(f"{taken.pop()!r} cannot be the name of an own attack")
    return TASK._replace(compute=functools.partial(compute, more=attacks))


def compute(
    run: runs.Run,
    progress: Progress,
    more: Mapping[str, robustness.Attack] = MappingProxyType({}),
) -> Result:
    """PGD and `more` attacks at each eps, and what the config asks for beside."""
    if not has_images(run):
        return skipped("attacks are bounded in pixels: the data are vectors")
    c, test = run.config.eval.attacks, run.splits().test
    if c.crosscheck:  # what is not installed is missed before anything takes long
        processes.on_every_process(crosscheck.modules)
    if c.judge:
        processes.on_every_process(judge.modules)
    test = test.take(slice(c.num_images))
    x, labels = np.asarray(augment.to_float(test.image)), test.label
    numbers = {
        "num_images": len(labels),
        "clean_accuracy": calibration.accuracy(finite_logits(run, x), labels),
        "losses": list(c.losses),
        "num_steps": c.num_steps,
        "num_restarts": c.num_restarts,
        "step_share": c.step_share,
        "norms": {},
    }
    files, target = {}, robustness.Target(run, x, labels, progress)
    for norm in c.norms:
        of_norm, worst = robustness.pgd(target, norm)
        files[f"attack_{norm}.png"] = _attack_picture(x, worst)
        of_norm["attacks"] = {
            name: robustness.own_attack(target, norm, name, attack)
            for name, attack in more.items()
        }
        if c.distance_rounds:
            of_norm["distances"] = robustness.distances(target, norm)
            of_norm["max_eps"] = robustness.max_eps(c, norm)
        if c.crosscheck:
            of_norm["crosscheck"] = robustness.foolbox(target, norm, of_norm["sweep"])
        numbers["norms"][norm] = of_norm
    num = c.refine_images
    first = robustness.Target(run, x[:num], labels[:num], progress)
    for num_steps in c.refine_steps if num else ():
        refined = robustness.refined(first, num_steps)
        numbers.setdefault("refined", {})[f"{num_steps}"] = refined
    if c.distal_steps:
        numbers["distal"], x = robustness.distal(run, progress)
        files["distal.png"] = picture(x, min(len(x), COLUMNS))
        files["distal.npz"] = npz({"x": x})
    found = _autoattack(target, numbers["norms"])
    if c.autoattack_refined:
        found |= _autoattack_refined(first, numbers.get("refined", {}))
    if found:  # or another call may go on from what an interrupted one has stored
        evaluation.forget(run)
    return Result(numbers | found, files)


def _autoattack_refined(target, refined):
    """AutoAttack for random classifiers on each JEM-k, whose rows it adds to `refined`.
    -> {"autoattack_refined": settings}."""
    num_classes = target.run.num_classes
    try:
        driver.check_classes(num_classes, "rand")
    except ValueError as error:
        return {"autoattack_refined": skipped(str(error)).numbers}
    for num_steps, of_k in refined.items():
        for norm, of_norm in of_k["norms"].items():
            if not target.run.config.eval.attacks[f"autoattack_eps_{norm}"]:
                continue
            of_norm["autoattack"] = {
                gradient: evaluation.autoattack(
                    target,
                    norm,
                    evaluation.refined(target.run, norm, int(num_steps), gradient),
                )
                for gradient in of_norm["gradients"]
            }
    return {"autoattack_refined": evaluation.settings(num_classes, "rand")}


def _autoattack(target, norms):
    """Adds the rows to `norms`. -> {"autoattack": settings} if there are any."""
    c = target.run.config.eval.attacks
    asked = [norm for norm in norms if c[f"autoattack_eps_{norm}"]]
    if not asked:
        return {}
    try:
        driver.check_classes(target.run.num_classes)
    except ValueError as error:
        return {"autoattack": skipped(str(error)).numbers}
    for norm in asked:
        norms[norm]["autoattack"] = evaluation.autoattack(target, norm)
    return {"autoattack": evaluation.settings(target.run.num_classes)}


def _attack_picture(x, worst):
    """Ten columns: images, adversarial examples, and the change, stretched."""
    x, worst = x[:COLUMNS], worst[:COLUMNS]
    change = worst - x
    change = change / max(float(np.abs(change).max()), 1e-6)
    return picture(np.concatenate([x, worst, change]), len(x))


TASK = Task(
    compute,
    title="Adversarial robustness",
    verdict=robustness_verdict,
    measures=measures,
    section=section,
    compare=compare,
    glossary=glossary.ATTACKS,
)
