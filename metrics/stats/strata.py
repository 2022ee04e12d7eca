"""AUROC among items of like length, so that a score cannot win by measuring length; and averages over tasks."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import rankdata

from metrics.stats.delong import delong_interval
from metrics.stats.estimate import (
    Estimate,
    Scale,
    as_labels,
    as_vector,
    check_level,
    join,
    normal_interval,
    one_class,
    scored_items,
)


@dataclass(frozen=True)
class Stratum:
    """Items whose covariate lies between `lowest` and `highest`, both included, and their AUROC."""

    lowest: float
    highest: float
    auroc: Estimate


@dataclass(frozen=True)
class StratifiedAuroc:
    """The pooled AUROC within strata, and each stratum in ascending order of the covariate."""

    pooled: Estimate
    strata: tuple[Stratum, ...]


def quantile_strata(covariate: Any, *, count: int = 5) -> np.ndarray:
    """Number the items 0..count-1 by quantile of a covariate, equal values always together.

    stratum = floor(count (midrank - 1/2) / n). `covariate`: (n,), free of NaN. Depends on ranks alone and on nothing
    random; with many ties some strata are empty and their numbers unused.

    Raises:
        ValueError: a NaN, or count < 1.
    """
    values = as_vector("covariate", covariate)
    if count < 1:
        raise ValueError(f"count is {count}; give at least 1 stratum, usually 5")
    if np.isnan(values).any():
        raise ValueError(f"covariate holds {int(np.isnan(values).sum())} NaN; drop those items first")
    if not len(values):
        return np.zeros(0, dtype=np.int64)
    # twice the midrank is an integer, so the quotient is exact
    return (count * (2 * rankdata(values).astype(np.float64) - 1).astype(np.int64)) // (2 * len(values))


def stratified_auroc(
    score: Any, label: Any, covariate: Any, *, count: int = 5, level: float = 0.95, scale: Scale = "logit"
) -> StratifiedAuroc:
    """AUROC over pairs of like length only: a positive is compared with the negatives of its own stratum.

    A = sum_s m_s n_s A_s / sum_s m_s n_s over strata with both classes; Var A = sum_s w_s² se_s², w_s = m_s n_s / sum,
    the weights taken as given and se_s from `delong_interval`, including its stand-ins. `score`, `label`, `covariate`
    (length, say): (n,). Items without a score or covariate are left out and counted; so are strata with one class, and
    if none has two, the result is NaN with a reason. The pooled `n` counts the items of the strata used.

    Raises:
        ValueError: shapes differ, the label is not binary, count < 1, or `level` or `scale` is unknown.

    Source: the covariate-adjusted AUROC with discrete covariate, Janes & Pepe 2009, Biometrika 96:371, but weighted by
    pairs, not by positives, as the plain AUROC weights its pairs.
    """
    check_level(level)
    vector = as_vector("score", score)
    length = as_vector("covariate", covariate, len(vector))
    truth = as_labels(label, len(vector))
    table, items = scored_items(np.stack([vector, length]), truth, lack="items lack a score or a covariate")
    codes = quantile_strata(table[1], count=count)
    strata = []
    for code in np.unique(codes):
        inside = codes == code
        estimate = delong_interval(table[0][inside], items.target[inside], level=level, scale=scale)
        strata.append(Stratum(table[1][inside].min(), table[1][inside].max(), estimate))
    pooled = _pool([stratum.auroc for stratum in strata], items.n, items.n_positive, level, scale)
    missing = f"only {len(strata)} of {count} strata are occupied" if 0 < len(strata) < count else ""
    reason = join(items.notes, one_class(items.target), missing, pooled.reason)
    return StratifiedAuroc(
        Estimate(pooled.value, pooled.lower, pooled.upper, pooled.n, pooled.n_positive, reason, pooled.se),
        tuple(strata),
    )


def _pool(strata: Sequence[Estimate], n: int, n_positive: int, level: float, scale: Scale) -> Estimate:
    """Average the AUROCs of the strata that have one, weighted by their pairs."""
    used = [s for s in strata if not np.isnan(s.value)]
    if not used:
        return Estimate.point(np.nan, n, n_positive, "no stratum has two classes" if n else "")
    positive = np.array([s.n_positive or 0 for s in used])
    total = np.array([s.n for s in used])
    weight = positive * (total - positive) / (positive * (total - positive)).sum()
    value = float(np.clip(weight @ np.array([s.value for s in used]), 0, 1))
    se = float(np.sqrt(weight**2 @ np.array([s.se for s in used]) ** 2))
    lower, upper = normal_interval(value, se, level=level, scale=scale)
    lower, upper = max(lower, 0.0), min(upper, 1.0)
    left = len(strata) - len(used)
    weak = sum(bool(s.reason) for s in used)
    reason = join(
        f"{left} of {len(strata)} strata have one class and were left out" if left else "",
        f"{weak} of {len(strata)} strata carry a warning of their own" if weak else "",
    )
    return Estimate(value, lower, upper, int(total.sum()), int(positive.sum()), reason, se)


def macro_average(estimates: Sequence[Estimate], *, level: float = 0.95, scale: Scale = "logit") -> Estimate:
    """Plain mean of one statistic over independent tasks, each task counting the same.

    value = mean of the K values, se = sqrt(sum se²) / K, interval by `scale`: "logit" for numbers in [0, 1] such as
    AUROC, "linear" for differences and PRR. Estimates whose value is NaN are left out and counted; if one that is used
    has no `se`, the interval is NaN with a reason. `n` and `n_positive` are sums over the tasks used.

    Raises:
        ValueError: a mean outside [0, 1] with the logit scale, or an unknown `level` or `scale`.
    """
    check_level(level)
    used = [e for e in estimates if not np.isnan(e.value)]
    left = len(estimates) - len(used)
    note = f"{left} of {len(estimates)} tasks have no value and were left out" if left else ""
    if not used:
        return Estimate.point(np.nan, 0, None, note or "no tasks")
    value = float(np.mean([e.value for e in used]))
    se = float(np.sqrt(np.sum([e.se**2 for e in used])) / len(used))
    without = sum(bool(np.isnan(e.se)) for e in used)
    missing = f"{without} of {len(used)} tasks have no standard error: no interval" if without else ""
    lower, upper = normal_interval(value, se, level=level, scale=scale)
    positive = [e.n_positive for e in used if e.n_positive is not None]
    known = sum(positive) if len(positive) == len(used) else None
    return Estimate(value, lower, upper, sum(e.n for e in used), known, join(note, missing), se)
