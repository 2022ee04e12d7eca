"""Intervals for any statistic by resampling: bootstrap, stratified, clustered, paired. The seed is an argument.

A statistic is a function `(score, target, counts) -> values` such as `resampled_auroc`: counts (B, n) says how often
each resample drew each item, and values is (B,). Options go in with `functools.partial`. The data are sorted once per
chunk of resamples, never per resample, and a chunk holds about 2 million counts, so memory does not grow with B.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from metrics.stats.estimate import Estimate, Items, as_losses, as_vector, check_level, join, one_class, scored_items

Statistic = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]

CHUNK = 2**21
"""Counts held at a time."""


def bootstrap_interval(
    statistic: Statistic,
    score: Any,
    target: Any,
    *,
    seed: int,
    replicates: int = 2000,
    level: float = 0.95,
    strata: Any = None,
    group: Any = None,
) -> Estimate:
    """Percentile bootstrap interval of a statistic; `se` is the standard deviation of the resamples.

    `score`, `target` (n,): a label or a loss. `strata` (n,): resample within each stratum, so that its size is fixed;
    pass the label for AUROC, the task for a pooled number. `group` (n,): draw whole groups instead of items, when one
    question has several samples; a group may not span strata. Items without a score are dropped first and counted.

    The interval is between the (1 ∓ level)/2 quantiles of the resamples that have a value; those without (one class,
    say) are counted in the reason. If all are equal the interval has no width, and the reason says so: see
    `delong_interval` for a perfect AUROC. The same seed gives the same result.

    Raises:
        ValueError: shapes differ, a target is not finite, a group spans strata, or replicates < 1.

    Source: Efron & Tibshirani 1993, An Introduction to the Bootstrap, ch. 13; groups: Davison & Hinkley 1997, sec. 3.8.
    """
    vector = as_vector("score", score)
    return _bootstrap(statistic, vector[None], target, "scores are NaN", seed, replicates, level, strata, group)


def bootstrap_difference(
    statistic: Statistic,
    first: Any,
    second: Any,
    target: Any,
    *,
    seed: int,
    replicates: int = 2000,
    level: float = 0.95,
    strata: Any = None,
    group: Any = None,
) -> Estimate:
    """Percentile bootstrap interval of statistic(first) - statistic(second), both on the same resamples.

    Only items with both scores are used. Otherwise as `bootstrap_interval`.
    """
    one = as_vector("first", first)
    both = np.stack([one, as_vector("second", second, len(one))])
    return _bootstrap(statistic, both, target, "items lack a score", seed, replicates, level, strata, group)


def _bootstrap(
    statistic: Statistic,
    scores: np.ndarray,
    target: Any,
    lack: str,
    seed: int,
    replicates: int,
    level: float,
    strata: Any,
    group: Any,
) -> Estimate:
    """Bootstrap one score (1, n), or the difference of two (2, n)."""
    check_level(level)
    if replicates < 1:
        raise ValueError(f"replicates is {replicates}; give at least 1, and 2000 for a 95 % interval")
    table, items = scored_items(scores, as_losses(target, scores.shape[1]), lack=lack)
    layers = _codes("strata", strata, items)
    groups = _codes("group", group, items) if group is not None else np.arange(items.n)
    if items.n == 0:
        return Estimate.point(np.nan, 0, 0, items.notes)

    def evaluate(counts: np.ndarray) -> np.ndarray:
        values = [statistic(row, items.target, counts) for row in table]
        return values[0] if len(values) == 1 else values[0] - values[1]

    value = float(evaluate(np.ones((1, items.n)))[0])
    if np.isnan(value):
        why = "the statistic has no value on these data"
        if np.isin(items.target, (0, 1)).all():
            why = one_class(items.target) or why
        return Estimate.point(np.nan, items.n, items.n_positive, items.notes, why)
    rng = np.random.default_rng(seed)
    values = np.concatenate([evaluate(counts) for counts in resample_counts(rng, replicates, layers, groups)])
    good = values[~np.isnan(values)]
    reasons = [items.notes]
    if group is not None and groups.max() + 1 < 10:
        reasons.append(f"only {groups.max() + 1} groups: the interval is not reliable")
    if len(good) < replicates:
        reasons.append(f"{replicates - len(good)} of {replicates} resamples have no value and were left out")
    if len(good) == 0:
        return Estimate.point(value, items.n, items.n_positive, *reasons)
    if np.ptp(good) == 0:
        reasons.append("all resamples give the same value: the interval has no width")
    lower, upper = np.quantile(good, [(1 - level) / 2, (1 + level) / 2])
    spread = float(np.std(good, ddof=1)) if len(good) > 1 else np.nan
    return Estimate(value, float(lower), float(upper), items.n, items.n_positive, join(*reasons), spread)


def resample_counts(
    rng: np.random.Generator, replicates: int, strata: np.ndarray, group: np.ndarray
) -> Iterator[np.ndarray]:
    """Draw resamples as chunks of counts (b, n), `replicates` rows in all.

    `strata` and `group` are integer codes from 0, (n,). Within each stratum as many groups are drawn with replacement
    as it has, and an item is counted as often as its group.

    Raises:
        ValueError: a group spans two strata.
    """
    count = int(group.max()) + 1
    stratum_of = np.full(count, -1)
    stratum_of[group] = strata
    if (stratum_of[group] != strata).any():
        bad = int(np.count_nonzero(np.bincount(group[stratum_of[group] != strata])))
        raise ValueError(f"{bad} groups span two strata; drop `strata`, or stratify by something constant in a group")
    pools = [np.flatnonzero(stratum_of == code) for code in np.unique(strata)]
    rows = max(1, CHUNK // len(group))
    single = np.array_equal(group, np.arange(count))
    for start in range(0, replicates, rows):
        size = min(rows, replicates - start)
        offset = np.arange(size)[:, None] * count
        drawn = [(pool[rng.integers(len(pool), size=(size, len(pool)))] + offset).ravel() for pool in pools]
        counts = np.bincount(np.concatenate(drawn), minlength=size * count).reshape(size, count)
        yield counts if single else counts[:, group]


def _codes(name: str, values: Any, items: Items) -> np.ndarray:
    """Number the distinct values of the kept items from 0; None is one stratum."""
    if values is None:
        return np.zeros(items.n, dtype=np.int64)
    array = np.asarray(values)
    if array.shape != items.kept.shape:
        raise ValueError(f"{name} has shape {array.shape} where {items.kept.shape} is expected; give one per score")
    return np.unique(array[items.kept], return_inverse=True)[1]
