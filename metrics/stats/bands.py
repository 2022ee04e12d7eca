"""How sure a whole ROC curve is, point by point."""

from typing import Any

import numpy as np

from metrics.stats.estimate import check_level
from metrics.stats.ranking import binary_items, block_sums, tie_blocks

CHUNK = 2**21
"""Counts held at a time."""


def roc_band(
    score: Any, label: Any, rates: Any, *, seed: int, replicates: int = 1000, level: float = 0.95
) -> tuple[np.ndarray, np.ndarray]:
    """Pointwise band of the true positive rate at given false positive rates, by a stratified bootstrap.

    Positives and negatives are drawn with replacement, each class at its own size. A resample's curve runs straight
    between its points, ties being one point; where it rises vertically, its upper end counts. The band lies between
    the (1 ∓ level)/2 quantiles of the resamples' heights at each rate: it holds each point of the true curve with
    about that probability, not the whole curve at once, and has no width where every resample agrees, as for a perfect
    score. The same seed gives the same band.

    Args:
        score: (n,); items without a score (NaN) are left out.
        label: (n,), binary; True is positive.
        rates: (k,) false positive rates in [0, 1].
        seed: of the resamples.
        replicates: number of resamples.
        level: of the interval at each rate.

    Returns:
        Lower and upper heights, (k,) each; NaN when a class is absent.

    Raises:
        ValueError: shapes differ, the label is not binary, a rate lies outside [0, 1], or replicates < 1.

    Source: Macskassy & Provost 2004, "Confidence Bands for ROC Curves" (vertical averaging), ROCAI workshop at ECAI.
    """
    check_level(level)
    if replicates < 1:
        raise ValueError(f"replicates is {replicates}; give at least 1, and 1000 for a 95 % band")
    at = np.asarray(rates, dtype=np.float64)
    if not ((at >= 0) & (at <= 1)).all():
        raise ValueError("a false positive rate lies outside [0, 1]")
    items = binary_items(score, label)
    m, n = items.n_positive, items.n - items.n_positive
    if m == 0 or n == 0:
        return np.full(len(at), np.nan), np.full(len(at), np.nan)
    order, starts = tie_blocks(items.score, descending=True)
    positive = items.target[order]
    rng = np.random.default_rng(seed)
    heights = np.empty((replicates, len(at)))
    rows = max(1, CHUNK // items.n)
    for first in range(0, replicates, rows):
        some = heights[first : first + rows]
        drawn = np.zeros((len(some), items.n))
        drawn[:, positive] = rng.multinomial(m, np.full(m, 1 / m), size=len(some))
        drawn[:, ~positive] = rng.multinomial(n, np.full(n, 1 / n), size=len(some))
        found = np.cumsum(block_sums(drawn * positive, starts), axis=1) / m
        false = np.cumsum(block_sums(drawn * ~positive, starts), axis=1) / n
        for height, x, y in zip(some, false, found):
            height[:] = np.interp(at, np.append(0.0, x), np.append(0.0, y))
    tail = (1 - level) / 2
    lower, upper = np.quantile(heights, [tail, 1 - tail], axis=0)
    return lower, upper
