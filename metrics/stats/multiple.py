"""Adjusting p-values when many scores are tested at once."""

from typing import Any

import numpy as np

from metrics.stats.estimate import as_vector


def benjamini_hochberg(p: Any) -> np.ndarray:
    """Adjust p-values so that rejecting those at most q keeps the expected share of false rejections at most q.

    adjusted_(i) = min over j >= i of min(1, p_(j) m / j), p sorted ascending, m tests. `p`: (m,), returned in the same
    order. A NaN stays NaN and is not counted as a test. Valid for independent or positively dependent tests.

    Raises:
        ValueError: not a vector of numbers in [0, 1] or NaN.

    Source: Benjamini & Hochberg 1995, J. R. Stat. Soc. B 57:289.
    """
    return _adjust(p, lambda ordered, m: np.minimum.accumulate((ordered * m / np.arange(1, m + 1))[::-1])[::-1])


def holm(p: Any) -> np.ndarray:
    """Adjust p-values so that rejecting those at most q errs anywhere with probability at most q.

    adjusted_(i) = max over j <= i of min(1, (m - j + 1) p_(j)). Valid under any dependence. Shapes, NaN and errors as
    `benjamini_hochberg`.

    Source: Holm 1979, Scand. J. Stat. 6:65.
    """
    return _adjust(p, lambda ordered, m: np.maximum.accumulate(ordered * np.arange(m, 0, -1)))


def _adjust(p: Any, step: Any) -> np.ndarray:
    """Apply a step procedure to the p-values that exist, in ascending order."""
    values = as_vector("p", p)
    known = np.flatnonzero(~np.isnan(values))
    odd = values[known][(values[known] < 0) | (values[known] > 1)]
    if odd.size:
        raise ValueError(f"p holds {odd[0]:g}; give p-values between 0 and 1, NaN where there is none")
    order = known[np.argsort(values[known], kind="stable")]
    adjusted = np.full(len(values), np.nan)
    if len(order):
        adjusted[order] = np.minimum(step(values[order], len(order)), 1.0)
    return adjusted
