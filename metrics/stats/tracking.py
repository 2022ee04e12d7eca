"""Whether one mean a data set tracks another: correlations over few data sets, within and across models."""

import math
from dataclasses import dataclass
from itertools import permutations
from typing import Any

import numpy as np
from scipy.stats import rankdata

from metrics.stats.estimate import MIN_ITEMS, Estimate, check_level, join

FEWEST = 4
"""Data sets below which no correlation is given: three are in order by chance once in three."""

EXACT = 8
"""Up to so many data sets every permutation is tried: 8! = 40,320."""

DRAWS = 9999
"""Permutations drawn above that."""

SAME = 12
"""Decimals, relative to the largest value, to which centred values count as tied."""


@dataclass(frozen=True)
class Tracking:
    """A correlation over data sets with its interval, the two-sided p of no relation, and whether p is exact."""

    estimate: Estimate
    p: float
    exact: bool


def tracking(
    x: Any, y: Any, *, rank: bool = False, seed: int = 0, replicates: int = 2000, level: float = 0.95
) -> Tracking:
    """Correlation of two quantities over data sets, pooled over models after each model's mean is taken off.

    r = Pearson correlation of x_md - mean_d x_md and y_md - mean_d y_md, all models m and data sets d together; with
    `rank`, of the midranks of these differences (Spearman). `x`, `y`: (D,) of one model or (M, D). Range [-1, 1].

    Interval: percentile bootstrap over data sets, each drawn with the values of all its models, differences taken anew;
    none below 10 data sets, where it is far too narrow or too wide.
    p: share of the permutations of data sets, the same one for all models, with |r| at least as large; all D! of them
    up to D = 8, else (k + 1) / (9,999 + 1) of random ones. A data set with a value that is not finite is left out for
    all models and counted. NaN with a reason below 4 data sets, or when x or y does not vary.

    Raises:
        ValueError: shapes differ or have more than two dimensions, or replicates < 1.

    Source: Efron & Tibshirani 1993, An Introduction to the Bootstrap, ch. 13 and 15; cluster centring as in the within
    estimator of panel data.
    """
    check_level(level)
    first, second = (np.atleast_2d(np.asarray(v, dtype=np.float64)) for v in (x, y))
    if first.shape != second.shape or first.ndim != 2:
        raise ValueError(f"x has shape {first.shape} and y {second.shape}; give both as (models, data sets)")
    if replicates < 1:
        raise ValueError(f"replicates is {replicates}; give at least 1, and 2000 for a 95 % interval")
    given = first.shape[1]
    kept = np.flatnonzero(np.isfinite(np.concatenate([first, second])).all(axis=0))
    first, second = first[:, kept], second[:, kept]
    n, lost = len(kept), given - len(kept)
    notes = f"{lost} of {given} data sets lack a value and were left out" if lost else ""
    if n < FEWEST:
        few = f"{n} data sets; a correlation over data sets needs at least {FEWEST}"
        return Tracking(Estimate.point(np.nan, n, None, notes, few), np.nan, False)
    value = float(_correlations(first[None], second[None], rank)[0])
    if math.isnan(value):
        return Tracking(Estimate.point(np.nan, n, None, notes, "all values are tied"), np.nan, False)
    rng = np.random.default_rng(seed)
    p, exact = _p(first, second, rank, value, rng)
    if n < MIN_ITEMS:
        few = f"n = {n} is below {MIN_ITEMS}: no interval"
        return Tracking(Estimate.point(value, n, None, notes, few), p, exact)
    drawn = rng.integers(n, size=(replicates, n))
    values = _correlations(_take(first, drawn), _take(second, drawn), rank)
    good = values[~np.isnan(values)]
    if len(good) < replicates:
        notes = join(notes, f"{replicates - len(good)} of {replicates} resamples have no value and were left out")
    if len(good) < 2:
        return Tracking(Estimate.point(value, n, None, notes), p, exact)
    lower, upper = (float(v) for v in np.quantile(good, [(1 - level) / 2, (1 + level) / 2]))
    return Tracking(Estimate(value, lower, upper, n, None, notes, float(np.std(good, ddof=1))), p, exact)


def _p(x: np.ndarray, y: np.ndarray, rank: bool, value: float, rng: np.random.Generator) -> tuple[float, bool]:
    """Two-sided permutation p of a correlation, and whether all permutations were tried."""
    n = x.shape[1]
    exact = n <= EXACT
    orders = (
        np.array(list(permutations(range(n)))) if exact else rng.permuted(np.tile(np.arange(n), (DRAWS, 1)), axis=1)
    )
    found = np.concatenate(
        [_correlations(x[None], _take(y, part), rank) for part in np.array_split(orders, math.ceil(y.size / 16))]
    )
    as_large = int((np.abs(found) >= abs(value) - 1e-9).sum())
    return (as_large / len(found), True) if exact else ((as_large + 1) / (len(found) + 1), False)


def _take(values: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Values (M, D) at indices (B, D) as (B, M, D)."""
    return values[:, index].swapaxes(0, 1)


def _correlations(x: np.ndarray, y: np.ndarray, rank: bool) -> np.ndarray:
    """Correlations (B,) of (B, M, D) after centring by model; NaN where one of the two does not vary."""
    a, b = _prepared(x, rank), _prepared(y, rank)
    size = np.sqrt((a**2).sum(1) * (b**2).sum(1))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(size > 0, np.clip((a * b).sum(1) / size, -1, 1), np.nan)


def _prepared(values: np.ndarray, rank: bool) -> np.ndarray:
    """Differences from each model's mean as (B, M * D), or their midranks about their mean; rounding breaks no tie."""
    flat = (values - values.mean(2, keepdims=True)).reshape(len(values), -1)
    scale = np.abs(values).max(initial=0.0) or 1.0
    flat = np.round(flat / scale, SAME)
    if rank:
        flat = rankdata(flat, axis=1)
    return flat - flat.mean(1, keepdims=True) if rank else flat
