"""What picking the best of many scores is worth: chosen on one part of the items, judged on the other, repeatedly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from metrics.stats.columns import Sorted
from metrics.stats.estimate import as_labels


@dataclass(frozen=True)
class Selected:
    """Of R random splits: which score won on the part that chooses, its AUROC there and on the part that judges.

    `winner`, `inside`, `outside` (R,); `judged` (R, n) marks the items that judged.
    """

    winner: np.ndarray
    inside: np.ndarray
    outside: np.ndarray
    judged: np.ndarray


def nested_selection(
    ordered: Sorted, label: Any, eligible: np.ndarray, *, repeats: int, share: float, seed: int
) -> Selected:
    """Split the items at random, take the score of largest AUROC on one part, and judge it on the other.

    The splits are stratified by the label: of each class `share`, rounded, chooses, at least one item, and the rest, at
    least one, judges. Of equal AUROCs the first score wins. Directions are the caller's and the same in both parts.

    Args:
        ordered: the scores (K, n).
        label: (n,), True marks the event.
        eligible: (K,) which scores may win.
        repeats: number of splits.
        share: of each class that chooses.
        seed: of the splits.

    Raises:
        ValueError: fewer than two items in a class, nothing is eligible, or `share` or `repeats` out of range.
    """
    n = ordered.order.shape[1]
    truth = as_labels(label, n)
    if min(truth.sum(), (~truth).sum()) < 2:
        raise ValueError(f"{int(truth.sum())} positive of {n}: a split needs two items of each class")
    if not eligible.any():
        raise ValueError("no score is eligible")
    if not 0 < share < 1 or repeats < 1:
        raise ValueError(f"share={share}, repeats={repeats}: give a share between 0 and 1 and at least one repeat")
    rng = np.random.default_rng(seed)
    parts = np.stack([_choosing(rng, truth, share) for _ in range(repeats)])
    winner, inside, outside = np.empty(repeats, dtype=int), np.empty(repeats), np.empty(repeats)
    for r, part in enumerate(parts):
        values = np.where(eligible, ordered.auroc(truth, part), -np.inf)
        winner[r] = np.argmax(np.nan_to_num(values, nan=-np.inf))
        inside[r] = values[winner[r]]
        outside[r] = ordered.row(winner[r]).auroc(truth, ~part)[0]
    return Selected(winner, inside, outside, ~parts)


def _choosing(rng: np.random.Generator, truth: np.ndarray, share: float) -> np.ndarray:
    part = np.zeros(len(truth), dtype=bool)
    for of in (truth, ~truth):
        items = np.flatnonzero(of)
        part[rng.permutation(items)[: choosing_count(len(items), share)]] = True
    return part


def choosing_count(count: int, share: float) -> int:
    """How many of a class's `count` items, at least two, choose: `share`, rounded, at least one and not all."""
    return min(max(1, round(share * count)), count - 1)


def doubled_median(p: np.ndarray) -> float:
    """One p-value of the p-values of repeated splits (R,): min(1, 2 median p), valid under any dependence.

    NaN when none is a number.

    Source: Meinshausen, Meier & Buehlmann 2009, J. Am. Stat. Assoc. 104:1671, eq. 2.2 with gamma = 1/2.
    """
    known = p[~np.isnan(p)]
    return min(1.0, 2 * float(np.median(known))) if len(known) else np.nan
