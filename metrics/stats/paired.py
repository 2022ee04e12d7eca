"""Two systems on the same items: accuracy, and AUROCs that each have their own errors.

DeLong's test compares two scores of **one** label. Here each system has its own answers, so its own label and its own
score, and what pairs them is the item. The AUROC of either is, to first order, a mean over items of its influence, so
the variance of the difference is the sum of squared differences of the two influences.
"""

from typing import Any

import numpy as np
from scipy.special import ndtr
from scipy.stats import binomtest

from metrics.stats.delong import Comparison, delong_interval, delong_test, placements
from metrics.stats.estimate import (
    MIN_ITEMS,
    Estimate,
    as_labels,
    as_vector,
    check_level,
    few_in_class,
    join,
    one_class,
    scored_items,
)


def wilson_interval(successes: int, n: int, *, level: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a proportion: where |p - successes/n| <= z sqrt(p (1 - p) / n).

    (2 n p + z² ± z sqrt(z² + 4 n p (1 - p))) / (2 (n + z²)). NaN for n = 0.

    Raises:
        ValueError: not 0 <= successes <= n.

    Source: Wilson 1927, J. Am. Stat. Assoc. 22:209.
    """
    z = check_level(level)
    if not 0 <= successes <= n:
        raise ValueError(f"{successes} successes of {n}; give counts with 0 <= successes <= n")
    if n == 0:
        return np.nan, np.nan
    p = successes / n
    centre, half = 2 * n * p + z * z, z * np.sqrt(z * z + 4 * n * p * (1 - p))
    lower, upper = (centre - half) / (2 * (n + z * z)), (centre + half) / (2 * (n + z * z))
    return float(lower) if successes else 0.0, float(upper) if successes < n else 1.0


def newcombe_interval(both: int, first_only: int, second_only: int, neither: int, *, level: float = 0.95) -> Estimate:
    """Difference of two paired proportions, first minus second, with Newcombe's square-and-add interval (method 10).

    d = (first_only - second_only) / n. With Wilson's limits l, u of each proportion p and phi the correlation of the
    four counts: d - sqrt((p1-l1)² - 2 phi (p1-l1)(u2-p2) + (u2-p2)²) and
    d + sqrt((u1-p1)² - 2 phi (u1-p1)(p2-l2) + (p2-l2)²). phi's numerator both·neither - first_only·second_only, where
    positive, is lessened by n/2, to 0 at most; phi is 0 where a margin is. It has width even when no item differs.

    `n_positive` counts the items that differ. NaN with a reason for n = 0.

    Raises:
        ValueError: a negative count.

    Source: Newcombe 1998, Stat. Med. 17:2635.
    """
    check_level(level)
    cells = (both, first_only, second_only, neither)
    if min(cells) < 0:
        raise ValueError(f"counts {cells}: none may be negative")
    n = sum(cells)
    if n == 0:
        return Estimate.point(np.nan, 0, 0, "no items")
    one, two = both + first_only, both + second_only
    (l1, u1), (l2, u2) = wilson_interval(one, n, level=level), wilson_interval(two, n, level=level)
    p1, p2 = one / n, two / n
    margins = one * (n - one) * two * (n - two)
    apart = both * neither - first_only * second_only
    apart = max(apart - n / 2, 0) if apart > 0 else apart
    phi = apart / np.sqrt(margins) if margins else 0.0
    value = (first_only - second_only) / n
    lower = value - np.sqrt(max(0.0, (p1 - l1) ** 2 - 2 * phi * (p1 - l1) * (u2 - p2) + (u2 - p2) ** 2))
    upper = value + np.sqrt(max(0.0, (u1 - p1) ** 2 - 2 * phi * (u1 - p1) * (p2 - l2) + (p2 - l2) ** 2))
    few = f"n = {n} is below {MIN_ITEMS}: the result is not reliable" if n < MIN_ITEMS else ""
    half = float(upper - lower) / 2
    return Estimate(value, float(lower), float(upper), n, first_only + second_only, few, half / check_level(level))


def mcnemar(first_only: int, second_only: int) -> float:
    """Two-sided p of the exact McNemar test: whether the items that differ fall on either side alike.

    p = min(1, 2 P(X <= min(b, c))), X binomial with b + c trials and 1/2; 1 when no item differs.

    Raises:
        ValueError: a negative count.

    Source: McNemar 1947, Psychometrika 12:153; exact: Liddell 1983, J. Epidemiol. Community Health 37:82.
    """
    if min(first_only, second_only) < 0:
        raise ValueError(f"counts {first_only}, {second_only}: none may be negative")
    total = first_only + second_only
    return float(binomtest(first_only, total).pvalue) if total else 1.0


def resampled_mean(score: np.ndarray, target: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Mean of the score under each row of counts, for `metrics.stats.bootstrap_difference`; the target is not used.

    `score` (n,), `counts` (B, n) -> (B,).
    """
    del target
    return counts @ score / counts.sum(axis=1)


def auroc_influence(score: np.ndarray, label: np.ndarray) -> tuple[float, np.ndarray]:
    """AUROC A and each item's influence on it, (n,); two such vectors give the covariance of the two AUROCs, as a dot.

    (V10_i - A) / sqrt(m (m - 1)) for each of m positives, (V01_j - A) / sqrt(n (n - 1)) for each of n negatives, with
    DeLong's placements V. The squares sum to DeLong's variance var(V10)/m + var(V01)/n. Needs two items a class.
    """
    m, n = int(label.sum()), int((~label).sum())
    below, above = placements(score, label)
    value = int(below.sum()) / (2 * m * n)
    influence = np.empty(len(score))
    influence[label] = (below / (2 * n) - value) / np.sqrt(m * (m - 1))
    influence[~label] = (above / (2 * m) - value) / np.sqrt(n * (n - 1))
    return value, influence


def paired_auroc_difference(
    first: Any, first_label: Any, second: Any, second_label: Any, *, level: float = 0.95
) -> Comparison:
    """Compare two AUROCs of the same items, **each score against its own label**; first minus second.

    se² = sum_i (f_i - s_i)² over the items, f and s the two influences (`auroc_influence`), so that
    cov = sum_i f_i s_i: the first-order (delta-method) variance with the item as the unit. z = difference / se,
    interval difference ± z se, cut at -1 and 1. With one and the same label it **is** DeLong's paired test. Items
    that lack either score (NaN) are left out and counted.

    Where an AUROC has no variance (0, 1, all tied, one item in a class) there is no test (p is NaN), and the interval
    is square-and-add of the two AUROCs' own intervals taken as uncorrelated: d - sqrt((A1-l1)² + (u2-A2)²),
    d + sqrt((u1-A1)² + (A2-l2)²). It is said in the reason. NaN with a reason where either label has one class.

    `n_positive` of the difference counts the first's events. Both scores are oriented by the caller.

    Raises:
        ValueError: shapes differ, or a label is not binary.

    Source: influences of a U-statistic: Hoeffding 1948, Ann. Math. Stat. 19:293; van der Vaart 1998, ch. 12;
    placements: DeLong et al. 1988, Biometrics 44:837; square-and-add: Zou & Donner 2008, Stat. Med. 27:1693.
    """
    z_level = check_level(level)
    one = as_vector("first", first)
    two = as_vector("second", second, len(one))
    truth1, truth2 = as_labels(first_label, len(one)), as_labels(second_label, len(one))
    table, items = scored_items(np.stack([one, two]), truth1, lack="items lack a score")
    truth1, truth2 = truth1[items.kept], truth2[items.kept]
    if np.array_equal(truth1, truth2):
        tested = delong_test(table[0], table[1], truth1, level=level)
        e = tested.difference
        joined = Estimate(e.value, e.lower, e.upper, e.n, e.n_positive, _once(items.notes, e.reason), e.se)
        return Comparison(tested.first, tested.second, joined, tested.z, tested.p, tested.correlation)
    own = [delong_interval(row, truth, level=level) for row, truth in zip(table, (truth1, truth2))]
    a, b = own
    m = int(truth1.sum())
    missing = join(*(f"{w}: {one_class(t)}" for w, t in (("first", truth1), ("second", truth2)) if one_class(t)))
    if missing:
        nothing = Estimate.point(np.nan, items.n, m, items.notes, missing)
        return Comparison(a.value, b.value, nothing, np.nan, np.nan, np.nan)
    weak = join(*(f"{w}: {r}" for w, t in (("first", truth1), ("second", truth2)) if (r := _few(t))))
    difference = a.value - b.value
    notes = join(items.notes, weak)
    if min(np.bincount(np.concatenate([truth1, truth2 + 2]))) > 1:
        f, s = (auroc_influence(row, truth)[1] for row, truth in zip(table, (truth1, truth2)))
        se, scale = float(np.linalg.norm(f - s)), float(np.linalg.norm(f) * np.linalg.norm(s))
        if se > 0 and scale > 0:
            z, half = difference / se, z_level * se
            lower, upper = max(-1.0, difference - half), min(1.0, difference + half)
            e = Estimate(difference, lower, upper, items.n, m, notes, se)
            return Comparison(a.value, b.value, e, z, 2 * float(ndtr(-abs(z))), float(np.clip(f @ s / scale, -1, 1)))
    e = _apart(a, b, items.n, m, notes, z_level)
    return Comparison(a.value, b.value, e, np.nan, np.nan, np.nan)


def _apart(a: Estimate, b: Estimate, n: int, n_positive: int, notes: str, z: float) -> Estimate:
    """Difference of two AUROCs with square-and-add of their own intervals, taken as uncorrelated."""
    value = a.value - b.value
    lower = max(-1.0, value - float(np.hypot(a.value - a.lower, b.upper - b.value)))
    upper = min(1.0, value + float(np.hypot(a.upper - a.value, b.value - b.lower)))
    why = "an AUROC has no variance here: interval from the two AUROCs' own, taken as uncorrelated; no test"
    return Estimate(value, lower, upper, n, n_positive, join(notes, why), (upper - lower) / (2 * z))


def _few(truth: np.ndarray) -> str:
    return few_in_class(int(truth.sum()), int((~truth).sum()))


def _once(notes: str, reason: str) -> str:
    """Notes of items left out before a statistic that warns of few items by itself."""
    return join(*dict.fromkeys(part for part in (*notes.split("; "), *reason.split("; "))))
