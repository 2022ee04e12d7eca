"""AUROCs of thousands of scores of the same items: sorted once, then counted on any part of the items."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.special import ndtr

from metrics.stats.estimate import as_labels

ROWS = 1024
"""Scores handled at a time."""


class Sorted:
    """Scores (K, n) in ascending order, NaN last, with the ends of their ties.

    Raises:
        ValueError: not a numeric (K, n) array.
    """

    def __init__(self, scores: Any) -> None:
        table = np.asarray(scores)
        if table.ndim != 2 or table.dtype.kind not in "biuf":
            raise ValueError(f"scores has shape {table.shape} and dtype {table.dtype}; give a numeric (K, n) array")
        count, n = table.shape
        self.order = np.argsort(table, axis=1, kind="stable")
        ordered = np.take_along_axis(table, self.order, axis=1)
        self.scored = n - np.count_nonzero(np.isnan(table), axis=1)
        new = np.ones((count, n + 1), dtype=bool)
        new[:, 1:n] = ordered[:, 1:] != ordered[:, :-1]
        places = np.arange(n + 1, dtype=np.int32)
        self.start = np.maximum.accumulate(np.where(new[:, :n], places[:n], np.int32(0)), axis=1)
        following = np.where(new[:, 1:], places[1:], np.int32(n))
        self.stop = np.minimum.accumulate(following[:, ::-1], axis=1)[:, ::-1]
        self.plain = (self.scored == n) & new.all(axis=1)

    def row(self, index: int) -> Sorted:
        """One of the scores alone."""
        made = object.__new__(Sorted)
        for name, value in vars(self).items():
            setattr(made, name, value[index : index + 1])
        return made

    def auroc(self, label: Any, part: np.ndarray | None = None) -> np.ndarray:
        """AUROC of each score (K,) among the items of `part` (n,) that it has scored; NaN with one class.

        The probability that a random positive scores above a random negative, ties counting one half, as
        `metrics.stats.auroc`.

        Raises:
            ValueError: the label is not binary, or not of n items.
        """
        above, positives, negatives = self._counts(label, part)
        with np.errstate(invalid="ignore"):
            return above / np.where(positives * negatives > 0, 2.0 * positives * negatives, np.nan)

    def p_of_no_difference(self, label: Any) -> np.ndarray:
        """Two-sided p of each score (K,) for the hypothesis that positives and negatives score alike.

        The Mann-Whitney test, normal approximation with the variance corrected for ties,
        m n / 12 (N + 1 - sum(t^3 - t) / (N (N - 1))); no correction for continuity. It exists when the AUROC is
        0 or 1, where DeLong's variance is 0. 1 when all scores are tied, NaN with one class.

        Raises:
            ValueError: as `auroc`.

        Source: Lehmann 1975, Nonparametrics, sec. 1.2 and 1.4.
        """
        above, m, n = self._counts(label, None)
        total = m + n
        size = (self.stop - self.start).astype(np.float64)
        inside = np.arange(self.order.shape[1]) < self.scored[:, None]
        ties = ((size**2 - 1) * inside).sum(axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            variance = m * n / 12 * (total + 1 - ties / (total * (total - 1)))
            z = (above / 2 - m * n / 2) / np.sqrt(variance)
        tied = ties >= total**3 - total
        p = 2 * ndtr(-np.abs(np.where(tied, 0.0, z)))
        return np.where(m * n > 0, p, np.nan)

    def same_order(self) -> np.ndarray:
        """The first score (K,) that orders the items as each does, ties and missing scores included."""
        first: dict[bytes, int] = {}
        keys = ((row.tobytes(), start.tobytes(), n) for row, start, n in zip(self.order, self.start, self.scored))
        return np.array([first.setdefault(b"".join((a, b, b"%d" % n)), i) for i, (a, b, n) in enumerate(keys)], int)

    def _counts(self, label: Any, part: np.ndarray | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Twice the pairs in which the positive wins, ties once; positives and negatives with a score. (K,) each."""
        count, n = self.order.shape
        truth = as_labels(label, n)
        chosen = np.ones(n, dtype=bool) if part is None else part
        positive, negative = (truth & chosen).astype(np.int32), (~truth & chosen).astype(np.int32)
        found = np.empty((3, count))
        for begin in range(0, count, ROWS):
            rows = slice(begin, begin + ROWS)
            plain = self.plain[rows]
            for kind, at in ((True, begin + np.flatnonzero(plain)), (False, begin + np.flatnonzero(~plain))):
                if len(at):
                    found[:, at] = (_untied if kind else _tied)(self, at, positive, negative)
        return found[0], found[1], found[2]


def _tied(made: Sorted, at: np.ndarray, positive: np.ndarray, negative: np.ndarray) -> np.ndarray:
    order = made.order[at]
    inside = np.arange(order.shape[1]) < made.scored[at][:, None]
    events, others = positive[order] * inside, negative[order] * inside
    below = np.zeros((len(at), order.shape[1] + 1), dtype=np.int64)
    np.cumsum(others, axis=1, out=below[:, 1:])
    wins = np.take_along_axis(below, made.start[at], 1) + np.take_along_axis(below, made.stop[at], 1)
    return np.stack([(events * wins).sum(axis=1), events.sum(axis=1), others.sum(axis=1)])


def _untied(made: Sorted, at: np.ndarray, positive: np.ndarray, negative: np.ndarray) -> np.ndarray:
    order = made.order[at]
    below = np.cumsum(negative[order], axis=1, dtype=np.int32)
    wins = 2.0 * np.einsum("kn,kn->k", positive[order], below, dtype=np.float64)
    return np.stack([wins, np.full(len(at), positive.sum()), np.full(len(at), negative.sum())])
