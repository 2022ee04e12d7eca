"""How small a difference in AUROC these data could show: the number to print under a table."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import brentq
from scipy.special import ndtri

from metrics.stats.estimate import few_in_class, join


@dataclass(frozen=True)
class Detectable:
    """The smallest gap that a two-sided test at `alpha` finds with probability `power`.

    `gap` is `auroc` minus `baseline`; both are NaN when even an AUROC of 1 would be missed, and `reason` says so.
    """

    gap: float
    auroc: float
    baseline: float
    n_positive: int
    n_negative: int
    alpha: float
    power: float
    reason: str


def hanley_mcneil_variance(auroc: float, n_positive: int, n_negative: int) -> float:
    """Variance of an AUROC estimate when only the AUROC and the class sizes are known.

    Var = (A(1-A) + (m-1)(Q1 - A²) + (n-1)(Q2 - A²)) / (m n), Q1 = A/(2-A), Q2 = 2A²/(1+A), for m positives and n
    negatives with exponentially distributed scores. At A = 0.5 it is the rank-sum test's (m+n+1)/(12 m n); at 0 and 1
    it is 0.

    Raises:
        ValueError: A outside [0, 1], or a class without items.

    Source: Hanley & McNeil 1982, Radiology 143:29, eqs. 1 and 2.
    """
    if not 0 <= auroc <= 1:
        raise ValueError(f"auroc is {auroc}; give a number between 0 and 1")
    if min(n_positive, n_negative) < 1:
        raise ValueError(f"the classes have {n_positive} and {n_negative} items; give at least 1 of each")
    square = auroc**2
    q1, q2 = auroc / (2 - auroc), 2 * square / (1 + auroc)
    pairs = n_positive * n_negative
    return max(
        0.0,
        (auroc * (1 - auroc) + (n_positive - 1) * (q1 - square) + (n_negative - 1) * (q2 - square)) / pairs,
    )


def smallest_detectable_auroc(
    n_positive: int, n_negative: int, *, alpha: float = 0.05, power: float = 0.8
) -> Detectable:
    """Smallest AUROC above 0.5 that the data can tell from 0.5.

    Solves A - 1/2 = z_{1-alpha/2} sd(1/2) + z_power sd(A) with `hanley_mcneil_variance`. By symmetry the same gap holds
    below 0.5. NaN with a reason when a class is empty or no AUROC up to 1 is detectable.

    Raises:
        ValueError: a negative size, or alpha or power not in (0, 1).

    Source: the sample-size reasoning of Hanley & McNeil 1982, solved for A at given sizes.
    """
    return _smallest(0.5, n_positive, n_negative, lambda _null, variance: variance, alpha, power)


def smallest_detectable_difference(
    auroc: float,
    n_positive: int,
    n_negative: int,
    *,
    correlation: float = 0.0,
    alpha: float = 0.05,
    power: float = 0.8,
) -> Detectable:
    """Smallest gain over a baseline AUROC that a paired test on the same items can find.

    Solves A2 - A1 = z_{1-alpha/2} sd0 + z_power sd1, sd1² = V1 + V2 - 2 rho sqrt(V1 V2), sd0² = 2 V1 (1 - rho), with
    `hanley_mcneil_variance`. `correlation` rho is that of the two AUROC estimates (`Comparison.correlation`), 0 for two
    unpaired sets of this size, and conservative at 0 for paired ones, whose correlation is rarely negative.

    Raises:
        ValueError: an AUROC outside [0, 1], a correlation outside [-1, 1], a negative size, or alpha or power outside
            (0, 1).

    Source: Hanley & McNeil 1983, Radiology 148:839 (variance of a paired difference); the sample-size
    reasoning of their 1982 paper.
    """
    if not 0 <= auroc <= 1:
        raise ValueError(f"auroc is {auroc}; give a number between 0 and 1")
    if not -1 <= correlation <= 1:
        raise ValueError(f"correlation is {correlation}; give a number between -1 and 1")

    def spread(null: float, variance: float) -> float:
        return null + variance - 2 * correlation * float(np.sqrt(null * variance))

    return _smallest(auroc, n_positive, n_negative, spread, alpha, power)


def _smallest(
    baseline: float,
    n_positive: int,
    n_negative: int,
    spread: Callable[[float, float], float],
    alpha: float,
    power: float,
) -> Detectable:
    """Find the AUROC whose distance to the baseline is exactly what the test needs."""
    for name, value in (("alpha", alpha), ("power", power)):
        if not 0 < value < 1:
            raise ValueError(f"{name} is {value}; give a number between 0 and 1")
    if min(n_positive, n_negative) < 0:
        raise ValueError(f"the classes have {n_positive} and {n_negative} items; give counts from 0 up")

    def result(auroc: float, *reasons: str) -> Detectable:
        return Detectable(auroc - baseline, auroc, baseline, n_positive, n_negative, alpha, power, join(*reasons))

    if min(n_positive, n_negative) == 0:
        total = n_positive + n_negative
        return result(np.nan, f"one class only: {n_positive} positive of {total}" if total else "no items")
    null = hanley_mcneil_variance(baseline, n_positive, n_negative)
    threshold = float(ndtri(1 - alpha / 2)) * np.sqrt(spread(null, null))

    def lack(auroc: float) -> float:
        variance = hanley_mcneil_variance(auroc, n_positive, n_negative)
        return threshold + float(ndtri(power)) * np.sqrt(max(0.0, spread(null, variance))) - (auroc - baseline)

    weak = few_in_class(n_positive, n_negative).replace("the interval", "the approximation")
    if baseline == 1 or lack(1.0) > 0:
        return result(np.nan, f"no AUROC above {baseline:g} is detectable at this n", weak)
    if lack(baseline) <= 0:
        return result(baseline, "the two estimates never differ: any gap is detectable", weak)
    root: Any = brentq(lack, baseline, 1.0, xtol=1e-12)
    return result(float(root), weak)
