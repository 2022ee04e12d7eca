"""How sure an AUROC is: DeLong's variance, interval and paired test, in O(n log n).

Every positive has a placement V10 (the share of negatives below it) and every negative a placement V01 (the share of
positives above it), ties counting one half. The AUROC is the mean of either, and its variance is
Var(V10)/m + Var(V01)/n for m positives and n negatives. One sort gives all placements as exact integers.

Source: DeLong, DeLong & Clarke-Pearson 1988, Biometrics 44:837; the sort instead of all pairs: Sun & Xu 2014,
IEEE Signal Process. Lett. 21:1389. Not for fitted, nested models (baseline against baseline plus score on the same
data): there the null distribution is not normal (Demler, Pencina & D'Agostino 2012, Stat. Med. 31:2577).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import ndtr

from metrics.stats.estimate import (
    Estimate,
    Scale,
    as_labels,
    as_vector,
    check_level,
    few_in_class,
    join,
    normal_interval,
    one_class,
    scored_items,
)
from metrics.stats.ranking import all_tied, binary_items, tie_blocks


@dataclass(frozen=True)
class AurocSet:
    """K AUROCs of the same n items, `auroc` (K,), and the covariance of the K estimates, `covariance` (K, K)."""

    auroc: np.ndarray
    covariance: np.ndarray
    n: int
    n_positive: int
    reason: str


@dataclass(frozen=True)
class Comparison:
    """Two AUROCs of the same items. `difference` is first minus second; `z` has its sign; `p` is two-sided.

    `correlation` is that of the two estimates, NaN when one of the variances is 0 or unknown.
    """

    first: float
    second: float
    difference: Estimate
    z: float
    p: float
    correlation: float


def placements(score: np.ndarray, label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Twice the number of negatives below each positive (m,), and of positives above each negative (n,), in item order.

    Integers; a tie counts 1, so V10 = first / (2 n) and V01 = second / (2 m). `score` is free of NaN.
    """
    order, starts = tie_blocks(score)
    negatives = np.concatenate(([0], np.cumsum(~label[order])))
    positives = np.arange(len(score) + 1) - negatives
    ends = np.append(starts[1:], len(score))
    sizes = ends - starts
    below = np.empty(len(score), dtype=np.int64)
    above = np.empty(len(score), dtype=np.int64)
    below[order] = np.repeat(negatives[starts] + negatives[ends], sizes)
    above[order] = np.repeat(2 * positives[-1] - positives[starts] - positives[ends], sizes)
    return below[label], above[~label]


def delong_interval(score: Any, label: Any, *, level: float = 0.95, scale: Scale = "logit") -> Estimate:
    """AUROC with DeLong's interval.

    `scale="logit"` (default): logit(A) ± z se / (A (1 - A)), mapped back. It stays inside (0, 1), is asymmetric near
    the ends as the estimate is, and covers better than the linear one at high AUROC and small n (Qin & Hotilovac 2008,
    Stat. Methods Med. Res. 17:207). `scale="linear"`: A ± z se cut at 0 and 1, as pROC and Stata print it.

    The variance is 0 exactly when A is 0, A is 1, or all scores are tied. A zero-width interval would be a lie, so a
    distribution-free one is used: k = min(m, n) disjoint pairs of a positive and a negative are independent, and all
    k came out alike, so that outcome has probability at least t = ((1 - level)/2)^(1/k) (Clopper & Pearson 1934,
    Biometrika 26:404). The interval is [t, 1] for A = 1, [0, 1 - t] for A = 0, [t/2, 1 - t/2] for all tied, and `se` is
    its half-length over z. With a single item in a class DeLong's variance does not exist; the upper bound
    A (1 - A) / min(m, n) stands in (van Dantzig 1951; Birnbaum & Klose 1957, Ann. Math. Stat. 28:933). Each is stated.

    `score`, `label`: (n,). NaN with a reason when one class is present; NaN scores are left out and counted.

    Raises:
        ValueError: shapes differ, the label is not binary, or `level` or `scale` is unknown.
    """
    z = check_level(level)
    items = binary_items(score, label)
    m, n = items.n_positive, items.n - items.n_positive
    problem = one_class(items.target)
    if items.n == 0 or problem:
        return Estimate.point(np.nan, items.n, m, items.notes, problem)
    below, above = placements(items.score, items.target)
    value = int(below.sum()) / (2 * m * n)
    tied = all_tied(items.score)
    if tied or value in (0.0, 1.0):
        t = ((1 - level) / 2) ** (1 / min(m, n))
        lower, upper = (t / 2, 1 - t / 2) if tied else ((t, 1.0) if value else (0.0, 1 - t))
        why = tied or f"AUROC is {value:g}, where DeLong's variance is 0"
        why += f": interval from {min(m, n)} disjoint pairs"
        reason = join(items.notes, why, few_in_class(m, n))
        return Estimate(value, lower, upper, items.n, m, reason, (upper - lower) / (2 * z))
    single = ""
    if min(m, n) > 1:
        se = float(np.sqrt(np.var(below / (2 * n), ddof=1) / m + np.var(above / (2 * m), ddof=1) / n))
    else:
        se = float(np.sqrt(value * (1 - value)))
        single = "a class has one item: se is an upper bound"
    lower, upper = normal_interval(value, se, level=level, scale=scale)
    reason = join(items.notes, few_in_class(m, n), single)
    return Estimate(value, max(lower, 0.0), min(upper, 1.0), items.n, m, reason, se)


def delong_covariance(scores: Any, label: Any) -> AurocSet:
    """AUROC of K scores on the same items, and the covariance matrix of the K estimates.

    S = cov(V10)/m + cov(V01)/n. `scores`: (K, n), `label`: (n,). Only items that all K rows have scored are used, and
    the rest counted. NaN AUROCs with one class; NaN covariance with fewer than 2 items in a class. Zero rows where an
    AUROC is 0 or 1 or its scores are all tied; see `delong_interval`.

    Raises:
        ValueError: `scores` is not (K, n) with the label's n, or the label is not binary.
    """
    table = np.asarray(scores)
    if table.ndim != 2 or table.dtype.kind not in "biuf":
        raise ValueError(f"scores has shape {table.shape} and dtype {table.dtype}; give a numeric (K, n) array")
    truth = as_labels(label, table.shape[1])
    table, items = scored_items(table.astype(np.float64), truth, lack="items lack a score")
    count, truth = len(table), items.target
    m, n = items.n_positive, items.n - items.n_positive
    values, covariance = np.full(count, np.nan), np.full((count, count), np.nan)
    reason = join(items.notes, one_class(truth), few_in_class(m, n))
    if m == 0 or n == 0:
        return AurocSet(values, covariance, items.n, m, reason)
    pairs = [placements(row, truth) for row in table]
    values = np.array([int(below.sum()) / (2 * m * n) for below, _ in pairs])
    if count and min(m, n) > 1:
        v10 = np.array([below for below, _ in pairs]) / (2 * n)
        v01 = np.array([above for _, above in pairs]) / (2 * m)
        covariance = np.atleast_2d(np.cov(v10) / m + np.cov(v01) / n)
    return AurocSet(values, covariance, items.n, m, reason)


def delong_test(first: Any, second: Any, label: Any, *, level: float = 0.95) -> Comparison:
    """Test whether two scores of the same items have the same AUROC; interval of first minus second.

    z = (A1 - A2) / se, se² = S11 + S22 - 2 S12, computed as the variance of the differences of placements, so that two
    scores that order the items alike give exactly 0. Interval: difference ± z se, cut at -1 and 1. Both scores are
    oriented by the caller: higher means positive.

    When se is 0 or a class has one item, z is NaN and distribution-free bounds over k = min(m, n) disjoint pairs are
    used, and stated: if no pair is ordered differently, difference 0 ± (1 - ((1 - level)/2)^(1/k)) and p = 1; otherwise
    Hoeffding's inequality, ± sqrt(2 ln(2/(1 - level)) / k) and p = min(1, 2 exp(-k d²/2)) (Hoeffding 1963, J. Am.
    Stat. Assoc. 58:13, sec. 5a).

    `first`, `second`, `label`: (n,). Items that either score lacks (NaN) are left out and counted.

    Raises:
        ValueError: shapes differ, or the label is not binary.
    """
    z_level = check_level(level)
    one = as_vector("first", first)
    two = as_vector("second", second, len(one))
    table, items = scored_items(np.stack([one, two]), as_labels(label, len(one)), lack="items lack a score")
    truth = items.target
    m, n = items.n_positive, items.n - items.n_positive
    if m == 0 or n == 0:
        nothing = Estimate.point(np.nan, items.n, m, items.notes, one_class(truth))
        return Comparison(np.nan, np.nan, nothing, np.nan, np.nan, np.nan)
    (below1, above1), (below2, above2) = placements(table[0], truth), placements(table[1], truth)
    values = int(below1.sum()) / (2 * m * n), int(below2.sum()) / (2 * m * n)
    apart10, apart01 = below1 - below2, above1 - above2
    difference = int(apart10.sum()) / (2 * m * n)
    reason = join(items.notes, few_in_class(m, n))
    if min(m, n) > 1 and (np.ptp(apart10) or np.ptp(apart01)):
        se = float(np.sqrt(np.var(apart10 / (2 * n), ddof=1) / m + np.var(apart01 / (2 * m), ddof=1) / n))
        z = difference / se
        p, half = 2 * float(ndtr(-abs(z))), z_level * se
    else:
        z, k = np.nan, min(m, n)
        if apart10.any() or apart01.any():
            half = float(np.sqrt(2 * np.log(2 / (1 - level)) / k))
            p = min(1.0, 2 * float(np.exp(-k * difference**2 / 2)))
            reason = join(reason, f"the variance is 0 or unknown: Hoeffding's bound over {k} disjoint pairs")
        else:
            half, p = 1 - ((1 - level) / 2) ** (1 / k), 1.0
            reason = join(reason, f"both scores order every pair alike: interval from {k} disjoint pairs")
        se = half / z_level
    lower, upper = max(-1.0, difference - half), min(1.0, difference + half)
    estimate = Estimate(difference, lower, upper, items.n, m, reason, se)
    return Comparison(*values, estimate, z, p, _correlation(below1, below2, above1, above2))


def _correlation(below1: np.ndarray, below2: np.ndarray, above1: np.ndarray, above2: np.ndarray) -> float:
    """Correlate two AUROC estimates from their doubled placements."""
    m, n = len(below1), len(above1)
    if min(m, n) < 2:
        return np.nan
    covariance = np.cov(below1 / n, below2 / n) / m + np.cov(above1 / m, above2 / m) / n
    scale = np.sqrt(covariance[0, 0] * covariance[1, 1])
    return float(np.clip(covariance[0, 1] / scale, -1, 1)) if scale > 0 else np.nan
