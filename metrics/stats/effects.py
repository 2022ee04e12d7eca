"""Which factor of a complete grid moves its values: main effects, and their shares of the variance."""

from __future__ import annotations

import numpy as np


def main_effects(values: np.ndarray) -> tuple[list[np.ndarray], np.ndarray, float]:
    """Main effects of a balanced design with one value a cell.

    `values`: one axis a factor, without NaN. Returns the mean value of each level of each factor, over all levels of
    the others; each factor's share of the variance, SS_f / SS_total with SS_f = sum over cells of
    (level mean - grand mean)^2; and the rest, which the factors' interactions have. The shares sum to 1 with the rest;
    all are NaN where the values do not vary.

    Raises:
        ValueError: a value is NaN.

    Source: Fisher's decomposition; Montgomery 2017, Design and Analysis of Experiments, sec. 5.3.
    """
    if np.isnan(values).any():
        raise ValueError("values hold NaN; the design is not complete, so leave levels out until it is")
    grand, axes = values.mean(), range(values.ndim)
    levels = [values.mean(axis=tuple(other for other in axes if other != axis)) for axis in axes]
    total = ((values - grand) ** 2).sum()
    with np.errstate(invalid="ignore", divide="ignore"):
        shares = np.array([((m - grand) ** 2).sum() * values.size / len(m) for m in levels]) / total
    if total <= 1e-24 * values.size:
        shares = np.full(values.ndim, np.nan)
    return levels, shares, float(1 - shares.sum())
