"""How far probabilities are from frequencies: calibration errors, Brier score and its parts, reliability curve.

`probability` (n,) in [0, 1] is the predicted probability of the event, `label` (n,) is True where it came about. NaN
predictions are left out and counted. Bins: *width*, `bins` intervals of equal width, each closed at its upper end
(0 is in the first); *mass*, `bins` groups of as nearly equal size as ties allow. Equal predictions always share a bin,
so the order of the items never matters: a block of ties that fills the ranks b+1 to e lies in the bin of its middle,
floor(bins (b + e) / 2n). Empty bins count for nothing. `resampled_*`: see `metrics.stats.ranking`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy.special import xlog1py, xlogy

from metrics.stats.binomial import share
from metrics.stats.estimate import Estimate, Items, as_labels, as_vector, check_level, scored_items
from metrics.stats.resample import resample_counts

Bins = Literal["width", "mass"]

CHUNK = 2**21
"""Simulated labels held at a time."""


@dataclass(frozen=True)
class BrierParts:
    """Brier = reliability - resolution + uncertainty + within; `within` is what the bins blur, 0 without bins."""

    reliability: float
    resolution: float
    uncertainty: float
    within: float


@dataclass(frozen=True)
class ReliabilityCurve:
    """Per filled bin: mean prediction, share of events with its exact 95 % interval, and number of items, (K,) each."""

    predicted: np.ndarray
    observed: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    count: np.ndarray


def calibration_error(
    probability: Any,
    label: Any,
    *,
    bins: int = 15,
    by: Bins = "width",
    seed: int = 0,
    replicates: int = 1000,
    level: float = 0.95,
) -> Estimate:
    """Expected calibration error (ECE): mean distance of prediction and frequency over bins, weighted by their size.

    ECE = sum_k (n_k / n) |g_k|, g_k = mean prediction in k - share of events in k. Range [0, 1], 0 is best.
    `by="mass"` is the adaptive ECE. The estimate is biased upwards, more so with more bins and fewer items, see
    `calibrated_errors`; a percentile interval is biased twice and misses the truth. So the upper bound alone is the
    (1 + level)/2 quantile of resampled ECEs, and the lower is ECE - d, or 0 if that is below 0, where d is the same
    quantile of sum_k |resampled w_k g_k - w_k g_k|, w_k = n_k / n: by the triangle inequality no ECE differs from the
    true one by more than the bins do. Both are conservative. The bins stay those of the data, the ECE over which is
    what the interval is for. No interval with `replicates` = 0.

    Raises:
        ValueError: a prediction outside [0, 1], shapes that differ, or fewer than one bin.

    Source: Naeini, Cooper & Hauskrecht 2015, AAAI; Guo et al. 2017 (arXiv:1706.04599), eq. 3; equal mass: Nixon et al.
    2019 (arXiv:1904.01685), here of two classes. The interval is ours.
    """
    check_level(level)
    items = _items(probability, label, bins)
    if items.n == 0:
        return Estimate.point(np.nan, 0, 0, items.notes)
    gaps = (bin_of(items.score, bins, by)[:, None] == np.arange(bins)) * (items.score - items.target)[:, None]
    signed = gaps.mean(axis=0)
    value = float(np.abs(signed).sum())
    if replicates < 1:
        return Estimate.point(value, items.n, items.n_positive, items.notes)
    rng, whole = np.random.default_rng(seed), np.zeros(items.n, dtype=np.int64)
    drawn = resample_counts(rng, replicates, whole, np.arange(items.n))
    resampled = np.concatenate([counts @ gaps for counts in drawn]) / items.n
    errors, away = np.abs(resampled).sum(axis=1), np.abs(resampled - signed).sum(axis=1)
    upper, distance = np.quantile(np.stack([errors, away]), 0.5 + level / 2, axis=1)
    lower = max(0.0, value - float(distance))
    return Estimate(value, lower, float(upper), items.n, items.n_positive, items.notes)


def calibrated_errors(
    probability: Any, *, bins: int = 15, by: Bins = "width", seed: int, replicates: int = 1000
) -> np.ndarray:
    """ECEs (replicates,) that these very predictions would show if each were the true probability of its event.

    Labels are drawn from Bernoulli(probability). Their mean is the ECE to expect of a calibrated predictor at this n
    and these bins, which is above 0; the share of them at or above the ECE found is a p-value of calibration.

    Source: Bröcker & Smith 2007, Weather and Forecasting 22:651 (consistency resampling), with predictions held fixed.
    """
    items = _items(probability, np.zeros(len(np.atleast_1d(probability))), bins)
    if items.n == 0:
        return np.full(replicates, np.nan)
    rng = np.random.default_rng(seed)
    member = bin_of(items.score, bins, by)[:, None] == np.arange(bins)
    predicted = items.score @ member
    found = []
    rows = max(1, CHUNK // items.n)
    for start in range(0, replicates, rows):
        drawn = rng.random((min(rows, replicates - start), items.n)) < items.score
        found.append(np.abs(predicted - drawn.astype(np.float64) @ member).sum(axis=1) / items.n)
    return np.concatenate(found)


def brier(probability: Any, label: Any) -> Estimate:
    """Brier score: mean squared distance of prediction and outcome (0 or 1). Range [0, 1], 0 is best.

    Source: Brier 1950, Monthly Weather Review 78:1.
    """
    items = _items(probability, label)
    if items.n == 0:
        return Estimate.point(np.nan, 0, 0, items.notes)
    value = np.mean((items.score - items.target) ** 2)
    return Estimate.point(float(value), items.n, items.n_positive, items.notes)


def brier_parts(probability: Any, label: Any, *, bins: int | None = None) -> BrierParts:
    """Murphy's decomposition of the Brier score, over distinct predictions, or over `bins` bins of equal mass.

    With p_k and y_k the mean prediction and the share of events of group k, y the share of all:
    reliability = sum n_k/n (p_k - y_k)² (0 is best), resolution = sum n_k/n (y_k - y)² (higher is better),
    uncertainty = y (1 - y). Over distinct predictions, the three give the Brier score. Over bins there remains
    within = mean (p - p_k)² - 2 mean (p - p_k)(o - y_k), outcome o: variance less twice the covariance inside bins.
    NaN in every part without items.

    Source: Murphy 1973, J. Applied Meteorology 12:595; bins: Stephenson, Coelho & Jolliffe 2008, Weather and
    Forecasting 23:752.
    """
    items = _items(probability, label, 1 if bins is None else bins)
    if items.n == 0:
        return BrierParts(*[np.nan] * 4)
    p, y = items.score, items.target.astype(np.float64)
    group = np.unique(p, return_inverse=True)[1] if bins is None else bin_of(p, bins, "mass")
    size = np.bincount(group)
    filled = np.maximum(size, 1)
    mean_p, mean_y = np.bincount(group, p) / filled, np.bincount(group, y) / filled
    weight, rate = size / items.n, y.mean()
    dp, dy = p - mean_p[group], y - mean_y[group]
    return BrierParts(
        float(weight @ (mean_p - mean_y) ** 2),
        float(weight @ (mean_y - rate) ** 2),
        float(rate * (1 - rate)),
        float(np.mean(dp**2) - 2 * np.mean(dp * dy)),
    )


def log_loss(probability: Any, label: Any) -> Estimate:
    """Mean of -ln(probability of what came about), in nats. Infinite when a prediction of 0 or 1 was wrong.

    Source: Good 1952, J. Royal Statistical Society B 14:107.
    """
    items = _items(probability, label)
    if items.n == 0:
        return Estimate.point(np.nan, 0, 0, items.notes)
    y = items.target.astype(np.float64)
    value = -np.mean(xlogy(y, items.score) + xlog1py(1 - y, -items.score))
    return Estimate.point(float(value), items.n, items.n_positive, items.notes)


def reliability_curve(probability: Any, label: Any, *, bins: int = 15, by: Bins = "mass") -> ReliabilityCurve:
    """What a reliability diagram draws: share of events against mean prediction, by bin; empty bins are left out.

    Source: Bröcker & Smith 2007, Weather and Forecasting 22:651; the intervals are Clopper and Pearson's.
    """
    items = _items(probability, label, bins)
    group = bin_of(items.score, bins, by)
    count = np.bincount(group, minlength=bins)
    filled = count > 0
    count = count[filled]
    events = np.bincount(group, items.target, bins)[filled].astype(int)
    shares = [share(int(k), int(n)) for k, n in zip(events, count)]
    return ReliabilityCurve(
        np.bincount(group, items.score, bins)[filled] / count,
        events / count,
        np.array([s.lower for s in shares]),
        np.array([s.upper for s in shares]),
        count,
    )


def bin_of(probability: np.ndarray, bins: int, by: Bins) -> np.ndarray:
    """The bin, from 0, of each prediction (n,)."""
    if by == "width":
        return np.searchsorted(np.linspace(0, 1, bins + 1)[1:-1], probability, side="left")
    _, block, size = np.unique(probability, return_inverse=True, return_counts=True)
    twice_middle = 2 * np.cumsum(size) - size  # b + e, whole numbers: no rounding at the edges of bins
    return (bins * twice_middle // (2 * max(len(probability), 1)))[block]


def resampled_brier(probability: Any, label: Any, counts: np.ndarray) -> np.ndarray:
    """Brier score of each resample: counts (B, n) of NaN-free items to (B,)."""
    loss = (np.asarray(probability, dtype=np.float64) - np.asarray(label, dtype=np.float64)) ** 2
    with np.errstate(invalid="ignore"):
        return counts @ loss / counts.sum(axis=1)


def _items(probability: Any, label: Any, bins: int = 1) -> Items:
    if bins < 1:
        raise ValueError(f"bins is {bins}; give at least 1")
    vector = as_vector("probability", probability)
    odd = vector[(vector < 0) | (vector > 1)]
    if odd.size:
        raise ValueError(f"probability holds {odd[0]:g}; give numbers between 0 and 1")
    return scored_items(vector, as_labels(label, len(vector)), lack="predictions are NaN")[1]
