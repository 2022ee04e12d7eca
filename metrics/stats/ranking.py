"""How well a score ranks the events first: AUROC, average precision, and the ROC curve, with ties handled exactly.

A resample is a row of counts: how often each item is drawn. The `resampled_*` functions sort the data once and
evaluate every row of counts (B, n); the plain functions are the row of ones. `metrics.stats.resample` draws the rows.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from metrics.stats.estimate import Estimate, Items, as_labels, as_vector, join, one_class, scored_items


@dataclass(frozen=True)
class RocCurve:
    """One point per distinct score, from strict to lenient, after the origin (0, 0) at threshold inf.

    `false_positive_rate`, `true_positive_rate`, `threshold`: (points,). An item is flagged when its score is at least
    the threshold; at the origin nothing is flagged, even if a score is inf. A rate whose class is empty is NaN.
    """

    false_positive_rate: np.ndarray
    true_positive_rate: np.ndarray
    threshold: np.ndarray
    n: int
    n_positive: int
    reason: str


def binary_items(score: Any, label: Any) -> Items:
    """Check a score and its label, drop the NaN scores, and return the rest."""
    vector = as_vector("score", score)
    return scored_items(vector, as_labels(label, len(vector)))[1]


def tie_blocks(score: np.ndarray, *, descending: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Return the order that sorts a NaN-free score, and where each block of equal scores starts in it."""
    order = np.argsort(score)
    if descending:
        order = order[::-1]
    ordered = score[order]
    return order, np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1]))[: len(ordered)])


def block_sums(values: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Sum the last axis (B, n) within blocks (B, G)."""
    return values if len(starts) == values.shape[-1] else np.add.reduceat(values, starts, axis=-1)


def class_blocks(
    score: Any, label: Any, counts: np.ndarray, *, descending: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Count positives and negatives per block of equal scores, (B, G) each, for each row of counts (B, n)."""
    vector = as_vector("score", score)
    truth = as_labels(label, len(vector))
    order, starts = tie_blocks(vector, descending=descending)
    drawn = counts[:, order].astype(np.float64)
    positive = block_sums(drawn * truth[order], starts)
    return positive, block_sums(drawn, starts) - positive


def auroc(score: Any, label: Any) -> Estimate:
    """Probability that a random positive scores above a random negative, ties counting one half; no interval.

    AUROC = (#{x > y} + #{x = y} / 2) / (m n) over all m n pairs of a positive x and a negative y, from one sort; the
    numerator is exact. `score`, `label`: (n,). Range [0, 1]; 0.5 when all scores are tied, with a reason; NaN with a
    reason when only one class is present. NaN scores are left out and counted. `delong_interval` adds the interval.

    Raises:
        ValueError: shapes differ, or the label is not binary.

    Source: Bamber 1975, J. Math. Psychol. 12; Hanley & McNeil 1982, Radiology 143:29 (W statistic).
    """
    items = binary_items(score, label)
    problem = one_class(items.target)
    if items.n == 0 or problem:
        return Estimate.point(np.nan, items.n, items.n_positive, items.notes, problem)
    value = resampled_auroc(items.score, items.target, np.ones((1, items.n)))[0]
    return Estimate.point(value, items.n, items.n_positive, items.notes, all_tied(items.score))


def resampled_auroc(score: Any, label: Any, counts: np.ndarray) -> np.ndarray:
    """AUROC of each resample: counts (B, n) of NaN-free items to (B,); NaN where a resample has one class."""
    positive, negative = class_blocks(score, label, counts)
    below = np.cumsum(negative, axis=1) - negative
    pairs = positive.sum(axis=1) * negative.sum(axis=1)
    with np.errstate(invalid="ignore"):
        return (positive * (below + negative / 2)).sum(axis=1) / pairs


def average_precision(score: Any, label: Any) -> Estimate:
    """Precision at each positive, averaged, from the highest score down; no interval.

    AP = sum_g (R_g - R_{g-1}) P_g over the distinct scores g in descending order, P_g and R_g being precision and
    recall when everything scored at least g is flagged: tied items enter together, so file order cannot matter (as
    scikit-learn does). Range (0, 1]; a score that knows nothing gives about the share of positives, exactly so when
    all scores are tied. NaN with a reason when only one class is present.

    Raises:
        ValueError: shapes differ, or the label is not binary.

    Source: the estimator without interpolation, Boyd, Eng & Page 2013, ECML PKDD.
    """
    items = binary_items(score, label)
    problem = one_class(items.target)
    if items.n == 0 or problem:
        return Estimate.point(np.nan, items.n, items.n_positive, items.notes, problem)
    value = resampled_average_precision(items.score, items.target, np.ones((1, items.n)))[0]
    return Estimate.point(value, items.n, items.n_positive, items.notes, all_tied(items.score))


def resampled_average_precision(score: Any, label: Any, counts: np.ndarray) -> np.ndarray:
    """Average precision of each resample: counts (B, n) of NaN-free items to (B,); NaN without both classes."""
    positive, negative = class_blocks(score, label, counts, descending=True)
    found = np.cumsum(positive, axis=1)
    flagged = found + np.cumsum(negative, axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        precision = np.where(flagged > 0, found / flagged, 0.0)
        value = (positive * precision).sum(axis=1) / positive.sum(axis=1)
    return np.where(negative.sum(axis=1) > 0, value, np.nan)


def roc_curve(score: Any, label: Any) -> RocCurve:
    """Share of positives against share of negatives flagged, at every threshold.

    The trapezoids under the points are the AUROC. See `RocCurve` for shapes and edge cases.

    Raises:
        ValueError: shapes differ, or the label is not binary.

    Source: Fawcett 2006, Pattern Recognit. Lett. 27:861, algorithm 1.
    """
    items = binary_items(score, label)
    order, starts = tie_blocks(items.score, descending=True)
    positive = block_sums(items.target[order].astype(np.float64), starts)
    size = np.diff(np.append(starts, items.n))
    true_rate = np.append(0.0, np.cumsum(positive)) / (items.n_positive or np.nan)
    false_rate = np.append(0.0, np.cumsum(size - positive)) / (items.n - items.n_positive or np.nan)
    threshold = np.concatenate(([np.inf], items.score[order][starts]))
    reason = join(items.notes, one_class(items.target), all_tied(items.score))
    return RocCurve(false_rate, true_rate, threshold, items.n, items.n_positive, reason)


def all_tied(score: np.ndarray) -> str:
    """Say that a NaN-free score is constant, or nothing."""
    return "all scores are tied" if len(score) > 1 and (score == score[0]).all() else ""
