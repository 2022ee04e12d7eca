"""Scores over depth, layer / blocks, so that models of different depths can be compared."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mteb_ext.series import Series, shared_tasks

GRID = tuple(range(0, 101, 10))
"""Depths of the curves, percent of the blocks."""


def depth_rows(series: Sequence[Series]) -> list[dict[str, Any]]:
    """One row a series: mean score at 0, 10, ..., 100 % of its blocks, linear between layers; last, their mean.

    On the tasks that all series have. Depths outside the layers that were evaluated have no value.

    Raises:
        ValueError: the series share no task.
    """
    tasks = shared_tasks(series)
    curves = []
    for s in series:
        means = s.scores[:, [s.tasks.index(t) for t in tasks]].mean(axis=1)
        curves.append(depth_curve(s, means, np.array(GRID) / 100))
    rows: list[dict[str, Any]] = [
        {"model": s.label} | {f"depth_{p}": float(v) for p, v in zip(GRID, curve)} for s, curve in zip(series, curves)
    ]
    if len(series) > 1:
        rows.append(
            {"model": f"mean of {len(series)}"} | {f"depth_{p}": float(v) for p, v in zip(GRID, np.mean(curves, 0))}
        )
    return rows


def depth_curve(series: Series, values: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """Values of the layers, (layers,), read at depths in 0..1 by linear interpolation; NaN outside the layers."""
    depth = series.layers / max(series.blocks, 1)
    return np.interp(grid, depth, values, left=np.nan, right=np.nan)
