"""What every statistic returns, and the checks and stated reasons that all of them share."""

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from scipy.special import expit, logit, ndtri

Scale = Literal["logit", "linear"]

MIN_ITEMS = 10
"""Below so many items a result carries a warning."""

MIN_CLASS = 5
"""Below so many items in the smaller class an interval carries a warning."""


@dataclass(frozen=True)
class Estimate:
    """A number, the interval around it, the data behind it, and what is wrong with it in plain words.

    `value` is NaN when the statistic is undefined on these data; `lower`, `upper` and `se` are NaN when no
    interval was asked for or none exists. `n` counts the items used, `n_positive` those with the event (for a
    graded loss: with a loss above 0), None where there are no classes. `reason` is empty when all is well, and
    otherwise says what is missing, weak or left out; several reasons are joined by "; ".
    """

    value: float
    lower: float
    upper: float
    n: int
    n_positive: int | None
    reason: str
    se: float = np.nan

    @classmethod
    def point(cls, value: float, n: int, n_positive: int | None, *reasons: str) -> "Estimate":
        """Make an estimate without an interval."""
        return cls(float(value), np.nan, np.nan, n, n_positive, join(*reasons))


class Items(NamedTuple):
    """The scored items: `score` (n,), `target` (n,), `kept` (mask over the items given), `notes` (what is amiss)."""

    score: np.ndarray
    target: np.ndarray
    kept: np.ndarray
    notes: str

    @property
    def n(self) -> int:
        """Count the scored items."""
        return len(self.score)

    @property
    def n_positive(self) -> int:
        """Count the items with the event."""
        return int(np.count_nonzero(self.target > 0))


def join(*reasons: str) -> str:
    """Join the non-empty reasons by "; "."""
    return "; ".join(reason for reason in reasons if reason)


def as_vector(name: str, values: Any, length: int | None = None) -> np.ndarray:
    """Return `values` as a float64 vector.

    Raises:
        ValueError: it is not one-dimensional, not numeric, or not of `length` items.
    """
    array = np.asarray(values)
    if array.ndim != 1:
        raise ValueError(f"{name} has {array.ndim} dimensions; give a vector with one number per item")
    if array.size and array.dtype.kind not in "biuf":
        raise ValueError(f"{name} has dtype {array.dtype}; give numbers")
    if length is not None and len(array) != length:
        raise ValueError(f"{name} has {len(array)} items where {length} are expected; give one per score")
    return array.astype(np.float64)


def as_labels(label: Any, length: int) -> np.ndarray:
    """Return `label` as a bool vector of `length` items; True marks the event.

    Raises:
        ValueError: wrong length, NaN, or a value other than False, True, 0 and 1.
    """
    array = as_vector("label", label, length)
    odd = array[~np.isin(array, (0.0, 1.0))]
    if odd.size:
        raise ValueError(f"label holds {odd[0]:g}; give False or True (0 or 1) for every item, and drop the rest")
    return array.astype(bool)


def as_losses(loss: Any, length: int) -> np.ndarray:
    """Return `loss` as a finite float64 vector of `length` items; a bool label is a loss of 0 or 1.

    Raises:
        ValueError: wrong length, or a value that is not finite.
    """
    array = as_vector("loss", loss, length)
    odd = array[~np.isfinite(array)]
    if odd.size:
        raise ValueError(f"loss holds {odd[0]:g}; give a finite loss for every item, and drop the rest")
    return array


def scored_items(scores: Any, target: np.ndarray, *, lack: str = "scores are NaN") -> tuple[np.ndarray, Items]:
    """Keep the items that every row of `scores` (K, n) has scored, and say how many were left out.

    Infinite scores stay: they rank first and last. `lack` words what a dropped item lacks. Returns the kept columns
    (K, n_kept), and `Items` of row 0.
    """
    table = np.atleast_2d(scores)
    missing = np.asarray(np.isnan(table).any(axis=0))
    count, total = int(missing.sum()), len(missing)
    notes = ""
    if total == 0:
        notes = "no items"
    elif count == total:
        notes = f"all {total} {lack}"
    elif count:
        notes = f"{count} of {total} {lack} and were left out"
    kept = ~missing
    table, target = table[:, kept], target[kept]
    if 0 < len(target) < MIN_ITEMS:
        notes = join(notes, f"n = {len(target)} is below {MIN_ITEMS}: the result is not reliable")
    return table, Items(table[0] if len(table) else target[:0], target, kept, notes)


def one_class(label: np.ndarray) -> str:
    """Say that only one class is present, or nothing."""
    positive = int(np.count_nonzero(label))
    return f"one class only: {positive} positive of {len(label)}" if len(label) and positive in (0, len(label)) else ""


def few_in_class(n_positive: int, n_negative: int) -> str:
    """Say that the smaller class is too small for a good interval, or nothing."""
    count, name = min((n_positive, "positive"), (n_negative, "negative"))
    return f"only {count} {name}: the interval is not reliable" if 0 < count < MIN_CLASS else ""


def check_level(level: float, name: str = "level") -> float:
    """Return the two-sided normal quantile of a confidence level, 1.96 at 0.95.

    Raises:
        ValueError: the level is not strictly between 0 and 1.
    """
    if not 0 < level < 1:
        raise ValueError(f"{name} is {level}; give a number between 0 and 1, such as 0.95")
    return float(ndtri(0.5 + level / 2))


def normal_interval(value: float, se: float, *, level: float, scale: Scale = "linear") -> tuple[float, float]:
    """Normal interval of a mean, on its own scale or on the log-odds scale.

    linear: value ± z se. logit: expit(logit(value) ± z se / (value (1 - value))), which never leaves (0, 1); for a
    value of 0 or 1, where the log-odds are infinite, it is the linear one cut at 0 and 1.

    Raises:
        ValueError: unknown `scale`, or a value outside [0, 1] with the logit scale.
    """
    z = check_level(level)
    if scale not in ("logit", "linear"):
        raise ValueError(f"scale is {scale!r}; choose 'logit' or 'linear'")
    if scale == "linear" or np.isnan(value):
        return value - z * se, value + z * se
    if not 0 <= value <= 1:
        raise ValueError(f"value is {value:g}, outside [0, 1]; use scale='linear'")
    if value in (0.0, 1.0):
        return max(0.0, value - z * se), min(1.0, value + z * se)
    half = z * se / (value * (1 - value))
    return float(expit(logit(value) - half)), float(expit(logit(value) + half))
