"""Selective classification: the risk of a classifier that may abstain.

NumPy in float64, on N examples: confidence [N], of which only the order matters, and
correct [N] bool. A classifier of coverage n/N answers the n examples of which it is
most confident; its risk is the share of mistakes among these. Among equally confident
examples the order is random, and all numbers are expectations over it.
"""

from typing import NamedTuple

import numpy as np


class RiskCoverage(NamedTuple):
    """One row for each number n = 1, ..., N of answered examples."""

    coverage: np.ndarray  # [N], n / N
    risk: np.ndarray  # [N], expected share of mistakes among the n


def risk_coverage(confidence, correct) -> RiskCoverage:
    """The risk at each coverage (El-Yaniv & Wiener, 2010).  [N], [N].

    Of m equally confident examples with e mistakes, j taken at random have e j/m.
    Confidences may be infinite. Raises ValueError for NaN and for other shapes.
    """
    confidence, correct = _check(confidence, correct)
    values, group = np.unique(-confidence, return_inverse=True)
    size = np.bincount(group, minlength=len(values))
    mistakes = np.bincount(group, weights=~correct, minlength=len(values))
    errors = np.cumsum(np.repeat(mistakes / size, size))
    count = np.arange(1, len(confidence) + 1)
    return RiskCoverage(count / len(count), errors / count)


def aurc(confidence, correct) -> float:
    """Area under the risk-coverage curve, its mean risk.  [N], [N].

    Geifman, Uziel & El-Yaniv (2019), equation 2; from 0 to 1, smaller is better.
    """
    return float(np.mean(risk_coverage(confidence, correct).risk))


def excess_aurc(confidence, correct) -> float:
    """AURC less that of the best order, with all mistakes last.  [N], [N].

    Geifman, Uziel & El-Yaniv (2019), whose r + (1 - r) log(1 - r), r being the risk
    at full coverage, is the limit of the second for many examples; here it is exact.
    """
    correct = _check(confidence, correct)[1]
    return aurc(confidence, correct) - aurc(correct.astype(float), correct)


def accuracy_at_coverage(confidence, correct, coverage: float) -> float:
    """Expected accuracy on the ceil(coverage N) most confident examples."""
    if not 0 < coverage <= 1:
        raise ValueError(f"coverage is {coverage}, expected a fraction in (0, 1]")
    risk = risk_coverage(confidence, correct).risk
    count = int(np.ceil(round(coverage * len(risk), 9)))  # 0.07 * 100 is above 7
    return float(1 - risk[count - 1])


def _check(confidence, correct):
    confidence, correct = np.asarray(confidence, np.float64), np.asarray(correct)
    if confidence.ndim != 1 or confidence.shape != correct.shape or not len(correct):
        raise ValueError(
            "expected confidence [N] and correct [N], N > 0, got shapes"
            f" {confidence.shape} and {correct.shape}"
        )
    if correct.dtype != bool:
        raise ValueError(f"correct is {correct.dtype}, expected bool")
    if bad := int(np.isnan(confidence).sum()):
        raise ValueError(
            f"confidence has {bad} NaN of {len(confidence)}, expected numbers"
        )
    return confidence, correct
