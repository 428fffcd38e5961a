"""What an eval.json says, in a few words and numbers: for screens and reports."""

from typing import NamedTuple

SCORES = {
    "log_density": "log p(x)",
    "max_log_prob": "max p(y | x)",
    "approximate_mass": "approximate mass",
    "negative_entropy": "−entropy of p(y | x)",
    "max_logit": "max logit",
    "refined_log_density": "log p(x) gained in refinement",
    "refined_grad_norm": "gradient lost in refinement",
    "refined_distance": "distance moved in refinement",
}
NORMS = {"linf": "L∞", "l2": "L2"}


class Measure(NamedTuple):
    """One number by which runs can be compared."""

    name: str
    value: float
    kind: str  # "%" (stored as a fraction), "nats" or ""
    better: str  # "more", "less" or "not comparable"

    def text(self, value: float | None = None) -> str:
        value = self.value if value is None else value
        if self.kind == "%":
            return f"{value:.2%}"
        return f"{value:.4g} nats" if self.kind else f"{value:.3f}"


class Verdict(NamedTuple):
    question: str
    answer: str
    detail: str
    failed: bool = False


def whole(results: dict, part: str) -> dict | None:
    """The numbers of a part, None if it is not there or failed."""
    found = results.get(part)
    return None if not found or "error" in found else found


def measures(results: dict) -> list[Measure]:
    """The headline numbers of all parts that are there, in the order of the parts."""
    found = []
    if part := whole(results, "classification"):
        found += _of_classification(part, "")
        if not whole(results, "calibration"):
            name = f"ECE, {part['num_bins']} bins"
            found.append(Measure(name, part["ece"], "%", "less"))
        if noised := part.get("noised"):
            found += _of_classification(noised, f", noise {noised['noise_std']:g}")
    if part := whole(results, "calibration"):
        bins = f"{part['num_bins']} bins"
        before, after = part["as_trained"], part["temperature"]
        found.append(Measure(f"ECE, {bins}", before["ece"], "%", "less"))
        found.append(Measure("class-wise ECE", before["classwise_ece"], "%", "less"))
        if "ece" in after:
            found.append(
                Measure("ECE after temperature", after["ece"], "%", "less"),
            )
    if part := whole(results, "ood"):
        mean = part.get("mean", {})
        for score in (score for score in SCORES if score in mean):
            name = f"mean AUROC, {SCORES[score]}"
            found.append(Measure(name, mean[score]["auroc"], "", "more"))
    if part := whole(results, "attacks"):
        for norm, of_norm in part["norms"].items():
            for row in of_norm["sweep"]:
                name = f"accuracy at {NORMS[norm]} {row['eps_text']}"
                found.append(Measure(name, row["accuracy"], "%", "more"))
        for k, refined in part.get("refined", {}).items():
            for norm, curves in refined["norms"].items():
                eps = part["norms"][norm]["pictured_eps"]
                # What counts is the attack that found more.
                rows = curves["gradients"].values()
                accuracy = min(_at(points, eps) for points in rows)
                name = f"JEM-{k}, accuracy at {NORMS[norm]} {eps}"
                found.append(Measure(name, accuracy, "%", "more"))
    if part := whole(results, "samples"):
        scores = part["scores"]
        # By features of its own each run is measured with another rule.
        better = "less" if scores["extractor"] != "this run" else "not comparable"
        for name, row in scores["sets"].items():
            name = f"Fréchet distance by features of {scores['extractor']}, {name}"
            found.append(Measure(name, row["frechet_distance"], "", better))
    return found


def _of_classification(part, suffix):
    found = [Measure(f"accuracy{suffix}", part["accuracy"], "%", "more")]
    if "top5_accuracy" in part:
        value = part["top5_accuracy"]
        found.append(Measure(f"top-5 accuracy{suffix}", value, "%", "more"))
    found.append(Measure(f"NLL{suffix}", part["nll"], "nats", "less"))
    found.append(Measure(f"Brier{suffix}", part["brier"], "", "less"))
    if suffix:
        found.append(Measure(f"ECE{suffix}", part["ece"], "%", "less"))
    return found


def _at(rows, eps_text):
    return next(row["accuracy"] for row in rows if row["eps_text"] == eps_text)


def verdicts(results: dict) -> list[Verdict]:
    """One answer for each part that is there, failed ones included."""
    found = []
    for part, (question, answer) in _QUESTIONS.items():
        if error := results.get(part, {}).get("error"):
            found.append(Verdict(question, "failed", error, failed=True))
        elif part in results:
            found.append(Verdict(question, *answer(results[part])))
    return found


def _is_it_right(part):
    return f"{part['accuracy']:.1%}", (
        f"of {part['num_images']:,} test images; NLL {part['nll']:.3f} nats,"
        f" Brier score {part['brier']:.3f}"
    )


def _does_it_know(part):
    bins, after = part["as_trained"]["reliability"], part["temperature"]
    pairs = zip(bins["counts"], bins["confidence"], bins["accuracy"], strict=True)
    pairs = [(n, c, a) for n, c, a in pairs if n]
    total = sum(n for n, _, _ in pairs)
    says = sum(n * c for n, c, _ in pairs) / total
    is_right = sum(n * a for n, _, a in pairs) / total
    manner = "over-confident" if says > is_right else "under-confident"
    detail = f"{manner}: {says:.1%} sure, {is_right:.1%} right"
    if "value" in after:
        detail += f"; a temperature of {after['value']:.2f} leaves {after['ece']:.1%}"
    return f"ECE {part['as_trained']['ece']:.1%}", f"{detail}; {part['num_bins']} bins"


def _does_it_notice(part):
    good = {name: s["scores"] for name, s in part["sets"].items() if "scores" in s}
    bad = [short(name) for name, s in part["sets"].items() if "error" in s]
    unread = f"not read: {', '.join(bad)}" if bad else ""
    if not good:
        return "no set", unread or "config.eval.ood.sets is empty"
    score = "log_density"
    hardest = min(good, key=lambda name: good[name][score]["auroc"])
    detail = (
        f"by log p(x), mean of {len(good)} sets; hardest is {short(hardest)} with"
        f" {good[hardest][score]['auroc']:.3f}"
    )
    others = (
        f"{SCORES[s]} {part['mean'][s]['auroc']:.3f}"
        for s in ("max_log_prob", "approximate_mass")
    )
    detail = "; ".join(x for x in (detail, *others, unread) if x)
    return f"AUROC {part['mean'][score]['auroc']:.3f}", detail


def _does_it_withstand(part):
    answers, at = [], []
    for norm, of_norm in part["norms"].items():
        eps = of_norm["pictured_eps"]
        answers.append(f"{_at(of_norm['sweep'], eps):.1%}")
        at.append(f"{NORMS[norm]} {eps}")
    detail = (
        f"right at {' and at '.join(at)} of {part['num_images']} images, clean"
        f" {part['clean_accuracy']:.1%}; PGD, {part['num_steps']} steps,"
        f" {' and '.join(part['losses']).replace('_', ' ')} loss"
    )
    judges = {n: v["judge"] for n, v in part["norms"].items() if "judge" in v}
    if judges:
        agree = all(judge["confirmed"] for judge in judges.values())
        detail += f"; foolbox {'finds no more' if agree else 'finds MORE'}"
    return " / ".join(answers), detail


def _can_it_make(part):
    scores = part["scores"]
    rows = scores["sets"]
    name = part["neighbours_of"]
    return f"FD {rows[name]['frechet_distance']:.3g}", (
        f"Fréchet distance of {scores['num_samples']} images of its"
        f" {'replay buffer' if name == 'buffer' else 'chains'} to training images, by"
        f" features of {scores['extractor']}; test images have"
        f" {rows['test']['frechet_distance']:.3g}"
    )


_QUESTIONS = {
    "classification": ("Is it right?", _is_it_right),
    "calibration": ("Does it know how sure to be?", _does_it_know),
    "ood": ("Does it notice other data?", _does_it_notice),
    "attacks": ("Does it withstand attacks?", _does_it_withstand),
    "samples": ("Can it make data?", _can_it_make),
}


def table(results: dict) -> str:
    """All measures and failures, for the screen."""
    rows = [(v.question, f"failed: {v.detail}") for v in verdicts(results) if v.failed]
    sets = (whole(results, "ood") or {}).get("sets", {})
    rows += [
        (f"ood: {n}", f"failed: {s['error']}") for n, s in sets.items() if "error" in s
    ]
    rows = [(m.name, m.text()) for m in measures(results)] + rows
    width = max((len(name) for name, _ in rows), default=0)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def short(name: str) -> str:
    """The name of a set, or the last part of a path."""
    return name.rstrip("/").split("/")[-1] if name[:1] in "/.~" else name
