"""Whether groups of items are ordered alike by two quantities, and what of their spread is foretold."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import chi2_contingency, rankdata

from metrics.stats.agreement import kendall, spearman
from metrics.stats.estimate import Estimate, as_labels, as_vector, check_level, join
from metrics.stats.tracking import tracking

FEWEST = 4
"""Groups below which no correlation is given: three are in order by chance once in three."""


class Order(NamedTuple):
    """How alike two orders of groups are.

    Attributes:
        spearman, kendall: rho and tau-b of the groups' means; intervals by resampling the items within each group.
        p: of rho, two-sided, over permutations of the groups; NaN where there is no rho.
    """

    spearman: Estimate
    kendall: Estimate
    p: float


def group_order(x: Any, y: Any, group: Any, *, seed: int, replicates: int = 2000, level: float = 0.95) -> Order:
    """Rank correlations between the means of `x` and the means of `y` over groups of items.

    Intervals are percentiles of `replicates` resamples of the items within each group, the groups held fixed: how much
    the correlation of these groups owes to the items drawn. Resampling adds noise to both means, so where groups hardly
    differ the interval lies nearer to 0 than the value. p is of the groups: how often so strong an order comes about by
    chance. `x`, `y` (n,): items where either is NaN are left out; `group` (n,): codes. NaN with a reason below 4 groups
    or where either mean does not vary.

    Raises:
        ValueError: shapes differ, or replicates < 1.

    Source: Spearman 1904; Kendall 1945; Davison & Hinkley 1997, sec. 3.2 (stratified bootstrap).
    """
    check_level(level)
    if replicates < 1:
        raise ValueError(f"replicates is {replicates}; give at least 1, and 2000 for a 95 % interval")
    one = as_vector("x", x)
    two = as_vector("y", y, len(one))
    codes = as_vector("group", group, len(one))
    kept = ~np.isnan(one) & ~np.isnan(two)
    parts = [np.flatnonzero(kept & (codes == code)) for code in np.unique(codes[kept])]
    lost = int(np.count_nonzero(~kept))
    notes = f"{lost} of {len(one)} items lack a value and were left out" if lost else ""
    if len(parts) < FEWEST:
        few = Estimate.point(np.nan, len(parts), None, notes, f"{len(parts)} groups; an order needs at least {FEWEST}")
        return Order(few, few, np.nan)
    means = np.array([[v[part].mean() for part in parts] for v in (one, two)])
    values = spearman(*means).value, kendall(*means).value
    if np.isnan(values).any():
        tied = Estimate.point(np.nan, len(parts), None, notes, "all groups are tied")
        return Order(tied, tied, np.nan)
    rng = np.random.default_rng(seed)
    drawn = np.empty((2, replicates, len(parts)))
    for k, part in enumerate(parts):
        at = part[rng.integers(len(part), size=(replicates, len(part)))]
        drawn[0, :, k], drawn[1, :, k] = one[at].mean(1), two[at].mean(1)
    spread = resampled_spearman(*drawn), resampled_kendall(*drawn)
    p = tracking(*means, rank=True, seed=seed, replicates=1).p
    rho, tau = (_interval(v, s, len(parts), notes, level) for v, s in zip(values, spread))
    return Order(rho, tau, p)


def resampled_spearman(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Spearman's rho (B,) of each row of x and y (B, K); NaN where a row does not vary."""
    a, b = (rankdata(v, axis=1) for v in (x, y))
    return _cosine(a - a.mean(1, keepdims=True), b - b.mean(1, keepdims=True))


def resampled_kendall(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Kendall's tau-b (B,) of each row of x and y (B, K); NaN where a row does not vary."""
    first, second = np.triu_indices(x.shape[1], 1)
    return _cosine(np.sign(x[:, first] - x[:, second]), np.sign(y[:, first] - y[:, second]))


def _cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    size = np.sqrt((a**2).sum(1) * (b**2).sum(1))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(size > 0, np.clip((a * b).sum(1) / size, -1, 1), np.nan)


def _interval(value: float, drawn: np.ndarray, groups: int, notes: str, level: float) -> Estimate:
    good = drawn[~np.isnan(drawn)]
    if len(good) < len(drawn):
        notes = join(notes, f"{len(drawn) - len(good)} of {len(drawn)} resamples have no value and were left out")
    if len(good) < 2:
        return Estimate.point(value, groups, None, notes)
    lower, upper = np.quantile(good, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(value, float(lower), float(upper), groups, None, notes, float(np.std(good, ddof=1)))


def between_share(predicted: Sequence[float], true: Sequence[float], sizes: Sequence[int]) -> float:
    """The share of the spread between groups that predictions explain: 1 - SS(true - predicted) / SS(true - mean).

    Sums are weighted by the groups' sizes, the mean is of all items. 1 is perfect, 0 no better than one number for all,
    below 0 worse. NaN when the groups do not differ or a value is missing.
    """
    p, t, n = (np.asarray(v, dtype=np.float64) for v in (predicted, true, sizes))
    total = float(n @ (t - n @ t / n.sum()) ** 2) if len(n) else 0.0
    return float(1 - n @ (t - p) ** 2 / total) if total > 0 else float("nan")


def same_rate_p(event: Any, group: Any) -> float:
    """The p-value of "the event is as frequent in every group": Pearson's chi-square of the 2 x K table of counts.

    `event` (n,) bool, `group` (n,) codes. NaN with one group or one class. As the chi-square law is a limit, it is only
    good where every group expects about 5 events and 5 others.

    Source: Pearson 1900, Phil. Mag. 50:157.
    """
    codes = as_vector("group", group)
    label = as_labels(event, len(codes))
    names = np.unique(codes)
    if len(names) < 2 or label.all() or not label.any():
        return float("nan")
    counts = [[int((label & (codes == g)).sum()) for g in names], [int((~label & (codes == g)).sum()) for g in names]]
    result: Any = chi2_contingency(counts, correction=False)
    return float(result.pvalue)
