"""An OOD score of your own, beside those of the evaluation, in table and report.

    python examples/own_score.py runs/jem_digits

A score maps a batch to one number an example; larger is more in-distribution.
"""

import sys

import jax

import ebmjax
from ebmjax.eval.tasks import ood


def gap(logits_fn, x):
    """The largest logit less the second largest, [B]."""
    largest = jax.lax.top_k(logits_fn(x), 2)[0]
    return largest[:, 0] - largest[:, 1]


def main(workdir):
    scores = ood.SCORES | {"gap": ood.Score(gap, "gap of the two largest logits")}
    results = ebmjax.evaluate(workdir, tasks={"ood": ood.task(scores)})
    return results["ood"]["mean"]["gap"]["auroc"]


if __name__ == "__main__":
    print(f"mean AUROC {main(*sys.argv[1:]):.3f}")
