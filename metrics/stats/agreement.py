"""Whether two scores order the items alike: rank correlations with intervals."""

from typing import Any

import numpy as np
from scipy.stats import kendalltau, rankdata

from metrics.stats.estimate import Estimate, as_vector, check_level, join, scored_items


def spearman(x: Any, y: Any, *, level: float = 0.95) -> Estimate:
    """Spearman's rank correlation, with the interval on Fisher's z scale.

    rho = Pearson correlation of the midranks; tanh(artanh(rho) ± z sqrt((1 + rho²/2) / (n - 3))). `x`, `y`: (n,), order
    alone matters, inf included. Range [-1, 1]. Items with a NaN are left out and counted. NaN with a reason when either
    is constant or n < 2; NaN interval with a reason when n < 4. At ±1, where z is infinite, the interval follows from
    that of Kendall's tau and rho >= (3 tau - 1)/2 (for tau >= 0, else (tau² + 2 tau - 1)/2; Durbin & Stuart 1951).

    Raises:
        ValueError: shapes differ.

    Source: Spearman 1904; variance: Bonett & Wright 2000, Psychometrika 65:23.
    """

    def bound(tau: float) -> float:
        return (3 * tau - 1) / 2 if tau >= 0 else (tau**2 + 2 * tau - 1) / 2

    def value(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.clip(np.corrcoef(rankdata(a), rankdata(b))[0, 1], -1, 1))

    return _correlate(x, y, level, value, lambda r, n: (1 + r**2 / 2) / (n - 3), 3, bound)


def kendall(x: Any, y: Any, *, level: float = 0.95) -> Estimate:
    """Kendall's tau-b, which corrects for ties, with the interval on Fisher's z scale.

    tau_b = (C - D) / sqrt((C + D + Tx)(C + D + Ty)); tanh(artanh(tau) ± z sqrt(0.437 / (n - 4))); the interval needs
    n > 4. Otherwise as `spearman`. At ±1 the interval is distribution-free: floor(n/2) disjoint pairs of items all
    agreed, so |tau| >= 2 ((1 - level)/2)^(1/floor(n/2)) - 1.

    Raises:
        ValueError: shapes differ.

    Source: Kendall 1945, Biometrika 33:239; variance: Fieller, Hartley & Pearson 1957, Biometrika 44:470.
    """

    def value(a: np.ndarray, b: np.ndarray) -> float:
        # ranks, because scipy's own handling of inf is not documented
        result: Any = kendalltau(rankdata(a), rankdata(b), variant="b")
        return float(result.statistic)

    return _correlate(x, y, level, value, lambda _r, n: 0.437 / (n - 4), 4, lambda tau: tau)


def _correlate(x: Any, y: Any, level: float, value: Any, variance: Any, floor: int, bound: Any) -> Estimate:
    """Evaluate one rank correlation and put Fisher's interval around it; `floor` is the largest n without one."""
    z = check_level(level)
    one = as_vector("x", x)
    two = as_vector("y", y, len(one))
    (one, two), items = scored_items(np.stack([one, two]), np.zeros(len(one)), lack="items lack a value")
    n = items.n
    constant = [name for name, v in (("x", one), ("y", two)) if n > 1 and (v == v[0]).all()]
    if n < 2 or constant:
        tied = f"all values of {' and '.join(constant)} are tied" if constant else ""
        return Estimate.point(np.nan, n, None, items.notes, tied)
    r = value(one, two)
    if n <= floor:
        return Estimate.point(r, n, None, items.notes, f"an interval needs n above {floor}")
    if abs(r) > 1 - 1e-12:
        r = float(np.sign(r))
        least = bound(2 * ((1 - level) / 2) ** (1 / (n // 2)) - 1)
        lower, upper = (least, 1.0) if r > 0 else (-1.0, -least)
        reason = join(items.notes, f"the correlation is {r:g}: interval from {n // 2} disjoint pairs")
        return Estimate(r, lower, upper, n, None, reason, (upper - lower) / (2 * z))
    sd = float(np.sqrt(variance(r, n)))
    lower, upper = np.tanh(np.arctanh(r) - z * sd), np.tanh(np.arctanh(r) + z * sd)
    return Estimate(r, float(lower), float(upper), n, None, items.notes, sd * (1 - r**2))
