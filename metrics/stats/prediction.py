"""Ridge regression judged on what it was not fitted on: one part of the rows left out at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from metrics.stats.estimate import as_vector

PENALTIES = (0.01, 0.1, 1.0, 10.0, 100.0)
"""Tried by the inner loop, the largest of equals taken."""

FEWEST_PARTS = 4
"""Below so many parts nothing is predicted: a line through two points fits them whatever they are."""


@dataclass(frozen=True)
class Predicted:
    """Predictions (n,) of rows that were left out, the mean of the others (n,), and the penalty of each part."""

    values: np.ndarray
    constant: np.ndarray
    penalties: tuple[float, ...]


def leave_out_ridge(x: Any, y: Any, part: Any, *, penalties: Sequence[float] = PENALTIES) -> Predicted:
    """Predict each part's y from x by a ridge regression fitted on the other parts.

    yhat = b + w . (x - m) / s, of least sum (y - yhat)^2 + a |w|^2, with m and s the inputs' means and standard
    deviations in the rows fitted on and b the mean of y; an input that does not vary there has weight 0. The penalty a
    is chosen for each part anew, by leaving out each of the other parts in turn: least mean absolute error.

    Args:
        x: (n, k) finite inputs.
        y: (n,) finite.
        part: (n,) labels of what is left out together.
        penalties: to choose among.

    Raises:
        ValueError: shapes differ, a value is not finite, or there are fewer than four parts.
    """
    inputs, target = np.asarray(x, dtype=np.float64), as_vector("y", y)
    if inputs.ndim != 2 or len(inputs) != len(target):
        raise ValueError(f"x has shape {inputs.shape} and y {target.shape}; give a row of x for each y")
    if not (np.isfinite(inputs).all() and np.isfinite(target).all()):
        raise ValueError("x or y holds a value that is not finite; leave its row out")
    codes = np.unique(np.asarray(part), return_inverse=True)[1]
    count = int(codes.max(initial=-1)) + 1
    if count < FEWEST_PARTS:
        raise ValueError(f"{count} data sets; predicting one from the others needs at least {FEWEST_PARTS}")
    values, constant, chosen = np.empty(len(target)), np.empty(len(target)), []
    for left in range(count):
        out, rest = codes == left, codes != left
        penalty = _penalty(inputs[rest], target[rest], codes[rest], penalties)
        values[out] = _ridge(inputs[rest], target[rest], penalty, inputs[out])
        constant[out] = target[rest].mean()
        chosen.append(penalty)
    return Predicted(values, constant, tuple(chosen))


def _penalty(x: np.ndarray, y: np.ndarray, codes: np.ndarray, penalties: Sequence[float]) -> float:
    errors = {}
    for penalty in sorted(penalties, reverse=True):
        missed = [
            np.abs(_ridge(x[codes != left], y[codes != left], penalty, x[codes == left]) - y[codes == left])
            for left in np.unique(codes)
        ]
        errors[penalty] = float(np.concatenate(missed).mean())
    return min(errors, key=lambda penalty: round(errors[penalty], 12))


def _ridge(x: np.ndarray, y: np.ndarray, penalty: float, new: np.ndarray) -> np.ndarray:
    spread = x.std(axis=0)
    varies = np.ptp(x, axis=0) > 0
    scale = np.where(varies & (spread > 0), spread, np.inf)  # what does not vary counts for nothing
    z = (x - x.mean(axis=0)) / scale
    weight = np.linalg.solve(z.T @ z + penalty * np.eye(x.shape[1]), z.T @ (y - y.mean()))
    return y.mean() + (new - x.mean(axis=0)) / scale @ weight
