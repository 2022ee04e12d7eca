"""Exact intervals and tests of a share, from the binomial distribution."""

from __future__ import annotations

import numpy as np
from scipy.special import bdtr, betaincinv

from metrics.stats.estimate import Estimate, check_level


def share(events: int, n: int, *, level: float = 0.95) -> Estimate:
    """A share with Clopper and Pearson's exact interval: at least `level` coverage at every true share and every n.

    The bounds are the shares at which as few, or as many, events have probability (1 - level)/2:
    lower = Beta quantile((1 - level)/2; k, n - k + 1), 0 at k = 0; upper = Beta quantile((1 + level)/2; k + 1, n - k),
    1 at k = n. NaN with a reason at n = 0.

    Raises:
        ValueError: `events` is not between 0 and n.

    Source: Clopper & Pearson 1934, Biometrika 26:404.
    """
    check_level(level)
    if not 0 <= events <= n:
        raise ValueError(f"events is {events} of n = {n}; give a count between 0 and n")
    if n == 0:
        return Estimate.point(np.nan, 0, 0, "no items")
    tail = (1 - level) / 2
    lower = float(betaincinv(events, n - events + 1, tail)) if events else 0.0
    upper = float(betaincinv(events + 1, n - events, 1 - tail)) if events < n else 1.0
    return Estimate(events / n, lower, upper, n, events, "")


def p_at_most(events: int, n: int, risk: float) -> float:
    """How likely so few events are when their probability is `risk`: P(Bin(n, risk) <= events), 1 at n = 0.

    A p-value of "the probability is above `risk`": at every such probability, P(p-value <= u) <= u.
    """
    return float(bdtr(events, n, risk))
