"""Ranks of runs by one number, and which differences exceed the noise of their seeds.

A spread is {"mean", "std", "num_runs"} of the runs of one config: `std` is the sample
standard deviation, None for one run; `mean` is None if it is not finite.
"""

from collections.abc import Mapping

from scipy import stats

SIGNIFICANCE = 0.05


def ranks(spreads: Mapping[str, dict], better: str) -> dict[str, int]:
    """{label: 1 + how many others are better}, of finite means.

    `better` is "higher" or "lower"; {} for "", which is not ranked.
    """
    sign = {"higher": -1, "lower": 1}.get(better)
    if sign is None:
        return {}
    values = {k: sign * x["mean"] for k, x in spreads.items() if x["mean"] is not None}
    return {k: 1 + sum(x < mine for x in values.values()) for k, mine in values.items()}


def p_value(a: dict, b: dict) -> float | None:
    """Of Welch's t-test of equal means, the runs being independent.

    None if one of the two has a single run, whose noise is unknown.
    """
    if None in (a["mean"], b["mean"], a["std"], b["std"]):
        return None
    if not a["std"] and not b["std"]:  # where the test divides by 0
        return float(a["mean"] == b["mean"])
    of = [x[name] for x in (a, b) for name in ("mean", "std", "num_runs")]
    return float(stats.ttest_ind_from_stats(*of, equal_var=False).pvalue)


def judged(spreads: Mapping[str, dict], better: str) -> dict[str, dict]:
    """The spreads with their "rank" and the "p_value" of the difference from the best.

    Both are None where they are unknown; the best has no p-value. Of several with
    the best mean the first is compared with.
    """
    rank = ranks(spreads, better)
    best = next((k for k, number in rank.items() if number == 1), None)
    return {
        label: spread
        | {
            "rank": rank.get(label),
            "p_value": p_value(spread, spreads[best])
            if best not in (None, label)
            else None,
        }
        for label, spread in spreads.items()
    }
