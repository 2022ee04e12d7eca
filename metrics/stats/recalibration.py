"""From scores to probabilities of the event: isotonic regression and Platt scaling, judged on items not fitted on.

A higher score means the event is more likely: both curves may rise or be flat but never fall, so the direction of a
score is not fitted. Scores are finite.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit, logit
from sklearn.isotonic import IsotonicRegression

Curve = Callable[[np.ndarray], np.ndarray]
"""Scores (n,) to probabilities (n,)."""

Fit = Callable[[np.ndarray, np.ndarray], Curve]
"""Scores (n,) and labels (n,) to a curve."""


class Split(NamedTuple):
    """Items to fit on and items to judge, two disjoint masks (n,)."""

    fitted: np.ndarray
    judged: np.ndarray


@dataclass(frozen=True)
class Rising:
    """Linear between the knots x (k,), scores over `largest`, with values y (k,); flat beyond them."""

    x: np.ndarray
    y: np.ndarray
    largest: float

    def __call__(self, scores: np.ndarray) -> np.ndarray:
        """Probabilities of scores (n,); NaN of NaN."""
        return np.interp(scores / self.largest, self.x, self.y)


@dataclass(frozen=True)
class Sigmoid:
    """expit(slope (score / largest - centre) / spread + intercept)."""

    slope: float
    intercept: float
    largest: float
    centre: float
    spread: float

    def __call__(self, scores: np.ndarray) -> np.ndarray:
        """Probabilities of scores (n,); NaN of NaN."""
        return expit(self.slope * (scores / self.largest - self.centre) / self.spread + self.intercept)


def fit_isotonic(score: np.ndarray, label: np.ndarray) -> Rising:
    """The rising curve of least squared error; linear between scores that were seen, flat beyond them.

    Source: Zadrozny & Elkan 2002, KDD; fitted by scikit-learn.
    """
    model = IsotonicRegression(y_min=0, y_max=1, increasing=True, out_of_bounds="clip")
    largest = float(np.abs(score).max() or 1.0)  # scikit-learn takes scores that differ by less than 1e-15 for ties
    model.fit(score / largest, label.astype(np.float64))
    return Rising(model.X_thresholds_, model.y_thresholds_, largest)


def fit_platt(score: np.ndarray, label: np.ndarray) -> Sigmoid:
    """The logistic curve expit(a score + b), a >= 0, of largest likelihood with smoothed targets.

    Targets are (N+ + 1)/(N+ + 2) for the N+ events and 1/(N- + 2) for the others, so a and b are finite even when the
    score tells the classes apart. Where the best slope is negative, a is 0 and b the log-odds of the mean target.

    Source: Platt 1999, Advances in Large Margin Classifiers, ch. 5, eqs. 2.1 and 2.2; a >= 0 is ours.
    """
    positive = int(np.count_nonzero(label))
    target = np.where(label, (positive + 1) / (positive + 2), 1 / (len(label) - positive + 2))
    largest = float(np.abs(score).max() or 1.0)  # first, lest the variance of huge scores overflow
    unit = score / largest
    centre, spread = unit.mean(), unit.std()
    flat = np.array([0.0, logit(target.mean())])
    slope, intercept = flat
    if np.ptp(unit) > 0:
        design = np.stack([(unit - centre) / spread, np.ones(len(score))], axis=1)
        slope, intercept = _logistic(design, target, flat)
        if slope < 0:
            slope, intercept = flat
    return Sigmoid(float(slope), float(intercept), largest, float(centre), float(spread or 1.0))


def _logistic(design: np.ndarray, target: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Coefficients of least mean cross-entropy with targets in (0, 1): smooth and convex, so by Newton's method."""

    def loss(w: np.ndarray) -> float:
        z = design @ w
        return float(np.mean(np.logaddexp(0, z) - target * z))

    def gradient(w: np.ndarray) -> np.ndarray:
        return design.T @ (expit(design @ w) - target) / len(target)

    def hessian(w: np.ndarray) -> np.ndarray:
        p = expit(design @ w)
        return (design.T * (p * (1 - p))) @ design / len(target)

    return minimize(loss, start, jac=gradient, hess=hessian, method="trust-exact", options={"gtol": 1e-9}).x


FITS: dict[str, Fit] = {"isotonic": fit_isotonic, "platt": fit_platt}


def fold_splits(label: np.ndarray, folds: int, *, seed: int) -> list[Split]:
    """Disjoint folds, each judged once by what the others fitted; both classes are spread evenly over them.

    Raises:
        ValueError: fewer than two folds, or more than items.
    """
    if not 2 <= folds <= len(label):
        raise ValueError(f"folds is {folds}; give a number between 2 and the {len(label)} items")
    rng = np.random.default_rng(seed)
    order = np.concatenate([rng.permutation(np.flatnonzero(label == c)) for c in (False, True)])
    fold = np.empty(len(label), dtype=np.int64)
    fold[order] = np.arange(len(label)) % folds
    return [Split(fold != k, fold == k) for k in range(folds)]


def share_split(label: np.ndarray, share: float, *, seed: int) -> list[Split]:
    """One split: `share` of each class, rounded, to fit on, the rest judged.

    Raises:
        ValueError: `share` is not between 0 and 1.
    """
    if not 0 < share < 1:
        raise ValueError(f"split is {share}; give the share to fit on, between 0 and 1")
    rng = np.random.default_rng(seed)
    fitted = np.zeros(len(label), dtype=bool)
    for c in (False, True):
        members = rng.permutation(np.flatnonzero(label == c))
        fitted[members[: round(share * len(members))]] = True
    return [Split(fitted, ~fitted)]


def cross_fit(score: np.ndarray, label: np.ndarray, splits: Sequence[Split], fit: Fit) -> np.ndarray:
    """Probabilities (n,) of the judged items, each by a curve that did not see it; NaN for the others and NaN scores.

    Raises:
        ValueError: `why_not` gives a reason.
    """
    reason = why_not(score, label, splits)
    if reason:
        raise ValueError(f"the scores cannot be calibrated: {reason}")
    found = np.full(len(score), np.nan)
    scored = ~np.isnan(score)
    for fitted, judged in splits:
        here = judged & scored
        if here.any():
            found[here] = fit(score[fitted & scored], label[fitted & scored])(score[here])
    return found


def constant(label: np.ndarray, splits: Sequence[Split], scored: np.ndarray | None = None) -> np.ndarray:
    """The predictor without a score (n,): the event rate of the items fitted on; NaN for what is not judged.

    With `scored` (n,), of those items alone, as the fair comparison for a score that some items lack: where these are
    more often events than the others, knowing the rate of all would look like skill.
    """
    found = np.full(len(label), np.nan)
    for fitted, judged in splits:
        part = label[fitted if scored is None else fitted & scored]
        found[judged] = part.mean() if len(part) else np.nan
    return found


def why_not(score: np.ndarray, label: np.ndarray, splits: Sequence[Split]) -> str:
    """Why scores cannot be turned into probabilities by these splits; empty when they can."""
    infinite = int(np.count_nonzero(np.isinf(score)))
    if infinite:
        return f"{infinite} of {len(score)} scores are infinite"
    scored = ~np.isnan(score)
    for fitted, judged in splits:
        part = label[fitted & scored]
        if not part.any() or part.all():
            return f"one class only among {len(part)} items to fit on"
        if not (judged & scored).any() and len(splits) == 1:
            return "no scored item to judge"
    return ""
