"""Nested cross-validation: everything that is fitted or chosen, scaling and layer too, without the documents it judges.

Outer folds judge; inner folds, of the outer fold's training part alone, choose the hyper-parameters by their mean
AUROC. The model that is kept is fitted on all documents with what the same choice says on all of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from scipy.stats import rankdata
from tqdm import tqdm

from metrics import stats
from metrics.fitted.estimators import Estimator, Params
from metrics.fitted.folds import grouped_folds

FEWEST_A_FOLD = 2
"""Documents of each class that every outer fold needs."""


@dataclass(frozen=True)
class Candidate:
    """A choice of columns and of the estimator's options; `layer` is the number of the layer, None without states."""

    columns: np.ndarray
    options: Mapping[str, Any]
    layer: int | None = None

    def words(self) -> str:
        """Layer and options in a few words."""
        named = {"layer": self.layer} if self.layer is not None else {}
        return ", ".join(f"{k}={v}" for k, v in {**named, **self.options}.items()) or "no options"


class Target(Protocol):
    """What is learnt, and what inner folds judge a candidate by."""

    @property
    def classes(self) -> tuple[str, str]:
        """What the codes 0 and 1 of `strata` are called."""
        ...

    def __len__(self) -> int: ...

    def learnt(self, fitted: np.ndarray) -> np.ndarray:
        """Y for the estimator, of these documents and by these alone."""
        ...

    def judged(self, fitted: np.ndarray, judged: np.ndarray) -> np.ndarray:
        """The event (m,) among the documents judged, defined by those fitted on."""
        ...

    def strata(self) -> np.ndarray:
        """Codes (n,) that folds keep even."""
        ...


@dataclass(frozen=True)
class Wrong:
    """The classes themselves: wrong (n,)."""

    wrong: np.ndarray

    classes: tuple[str, str] = ("right", "wrong")

    def __len__(self) -> int:
        return len(self.wrong)

    def learnt(self, fitted: np.ndarray) -> np.ndarray:
        """Whether each is wrong."""
        return self.wrong[fitted]

    def judged(self, fitted: np.ndarray, judged: np.ndarray) -> np.ndarray:  # noqa: ARG002
        """Whether each is wrong."""
        return self.wrong[judged]

    def strata(self) -> np.ndarray:
        """The classes."""
        return self.wrong.astype(int)


@dataclass(frozen=True)
class High:
    """A graded quantity (n,), high or low by the best split of the documents fitted on."""

    values: np.ndarray

    classes: tuple[str, str] = ("low", "high")

    def __len__(self) -> int:
        return len(self.values)

    def learnt(self, fitted: np.ndarray) -> np.ndarray:
        """Whether each is at or above the split."""
        return self.values[fitted] >= best_split(self.values[fitted])

    def judged(self, fitted: np.ndarray, judged: np.ndarray) -> np.ndarray:
        """Whether each is at or above the split of those fitted on."""
        return self.values[judged] >= best_split(self.values[fitted])

    def strata(self) -> np.ndarray:
        """At or above the best split of all or not; what is learnt in a fold is by the split of those fitted on."""
        return (self.values >= best_split(self.values)).astype(int)


@dataclass(frozen=True)
class Embeddings:
    """Embeddings of samples (n, samples, width), judged by wrong (n,)."""

    embeddings: np.ndarray
    wrong: np.ndarray

    classes: tuple[str, str] = ("right", "wrong")

    def __len__(self) -> int:
        return len(self.wrong)

    def learnt(self, fitted: np.ndarray) -> np.ndarray:
        """The embeddings."""
        return self.embeddings[fitted]

    def judged(self, fitted: np.ndarray, judged: np.ndarray) -> np.ndarray:  # noqa: ARG002
        """Whether each is wrong."""
        return self.wrong[judged]

    def strata(self) -> np.ndarray:
        """The classes."""
        return self.wrong.astype(int)


def best_split(values: np.ndarray) -> float:
    """The threshold of least squared error within the two groups: low below it, high at or above it.

    min over t of sum_{v<t} (v - mean_low)^2 + sum_{v>=t} (v - mean_high)^2, t midway between neighbours; the lowest of
    equals. SEP's code tries 100 evenly spaced thresholds instead.

    Raises:
        ValueError: all values are equal.

    Source: Kossen et al. 2024, arXiv:2406.15927, section 4.
    """
    ordered = np.sort(values)
    cut = np.flatnonzero(ordered[1:] > ordered[:-1]) + 1
    if not len(cut):
        raise ValueError(f"all {len(values)} values of the target are equal, so none is high")
    centred = ordered - ordered.mean()
    low, n = np.cumsum(centred)[cut - 1], len(ordered)
    between = low**2 * (1 / cut + 1 / (n - cut))  # of centred values, what the two means explain
    best = cut[np.argmax(between)]
    return float((ordered[best - 1] + ordered[best]) / 2)


@dataclass(frozen=True)
class Scheme:
    """Outer and inner folds, and the seed of both and of the estimators."""

    folds: int = 5
    inner: int = 3
    seed: int = 0


@dataclass(frozen=True)
class Fitted:
    """The kept model and what judges it.

    `out_of_fold` and `in_sample` are scores (n,), `fold` (n,) the outer fold of each document; `chosen` what each outer
    fold chose, `candidate` what was chosen on all documents. `in_sample` are the
    kept model's scores; `out_of_fold` are shares of the document's own fold that are below it, ties half, for the
    folds' models differ in scale and level. `skipped` were not tried: their inputs do not vary, or an inner fold has
    fewer documents than they need.
    """

    params: Params
    candidate: Candidate
    out_of_fold: np.ndarray
    in_sample: np.ndarray
    fold: np.ndarray
    chosen: Sequence[Candidate]
    skipped: Sequence[Candidate] = ()


def fit_nested(
    estimator: Estimator,
    candidates: Sequence[Candidate],
    x: np.ndarray,
    target: Target,
    groups: np.ndarray,
    scheme: Scheme,
) -> Fitted:
    """Fit, choose and judge.

    Args:
        estimator: what learns.
        candidates: from the simplest on; of equal inner AUROC the first is taken.
        x: (n, d), finite.
        target: of the n documents.
        groups: (n,) codes; a group is in one fold.
        scheme: folds and seed.

    Raises:
        ValueError: too few documents of a class or too few groups for the folds, or what the estimator refuses.
    """
    strata = target.strata()
    _enough(target, groups, scheme.folds)
    fold = grouped_folds(strata, groups, scheme.folds, seed=scheme.seed)
    tried, skipped = _fit_for_use(estimator, candidates, x, target, groups, fold, scheme)
    out = np.full(len(target), np.nan)
    chosen = []
    for k in tqdm(range(scheme.folds), "folds", leave=False, disable=None):
        fitted, judged = np.flatnonzero(fold != k), np.flatnonzero(fold == k)
        candidate = choose(estimator, tried, x, target, groups, fitted, scheme)
        params = _fit(estimator, candidate, x, target, fitted, scheme.seed)
        out[judged] = estimator.apply(params, x[np.ix_(judged, candidate.columns)])
        chosen.append(candidate)
    everything = np.arange(len(target))
    candidate = choose(estimator, tried, x, target, groups, everything, scheme)
    params = _fit(estimator, candidate, x, target, everything, scheme.seed)
    inside = estimator.apply(params, x[:, candidate.columns])
    return Fitted(params, candidate, _ranks(out, fold), inside, fold, chosen, skipped)


def cross_scores(
    estimator: Estimator, candidate: Candidate, x: np.ndarray, target: Target, fold: np.ndarray, seed: int
) -> np.ndarray:
    """Scores (n,) of one candidate, each document's by the model fitted on the other folds."""
    out = np.full(len(target), np.nan)
    for k in np.unique(fold):
        fitted, judged = np.flatnonzero(fold != k), np.flatnonzero(fold == k)
        params = _fit(estimator, candidate, x, target, fitted, seed)
        out[judged] = estimator.apply(params, x[np.ix_(judged, candidate.columns)])
    return out


def _ranks(scores: np.ndarray, fold: np.ndarray) -> np.ndarray:
    """Share of the own fold's scores that are below each, ties half; the order within a fold is kept."""
    found = np.empty(len(scores))
    for k in np.unique(fold):
        own = fold == k
        found[own] = (rankdata(scores[own]) - 0.5) / own.sum()
    return found


def _fit_for_use(
    estimator: Estimator,
    candidates: Sequence[Candidate],
    x: np.ndarray,
    target: Target,
    groups: np.ndarray,
    fold: np.ndarray,
    scheme: Scheme,
) -> tuple[list[Candidate], list[Candidate]]:
    """The candidates whose inputs vary, with documents enough in the smallest inner fold's part; and the others.

    Raises:
        ValueError: there is none.
    """
    if len(candidates) == 1:
        return list(candidates), []
    sizes = []
    for k in range(scheme.folds):
        among = np.flatnonzero(fold != k)
        inner = grouped_folds(target.strata()[among], groups[among], scheme.inner, seed=scheme.seed)
        sizes.append(len(among) - int(np.bincount(inner).max()))
    held = min(sizes)
    varies = np.ptp(x, axis=0) > 0
    usable = [estimator.fewest(one.options) <= held and bool(varies[one.columns].any()) for one in candidates]
    if not any(usable):
        raise ValueError(
            f"none of {len(candidates)} choices can be tried: inputs do not vary, or the {held} documents that an "
            "inner fold fits on are too few"
        )
    return [c for c, u in zip(candidates, usable) if u], [c for c, u in zip(candidates, usable) if not u]


def choose(
    estimator: Estimator,
    candidates: Sequence[Candidate],
    x: np.ndarray,
    target: Target,
    groups: np.ndarray,
    among: np.ndarray,
    scheme: Scheme,
) -> Candidate:
    """The candidate of largest mean AUROC over inner folds of the documents `among`; the first where there is one."""
    if len(candidates) == 1:
        return candidates[0]
    fold = grouped_folds(target.strata()[among], groups[among], scheme.inner, seed=scheme.seed)
    best, most = candidates[0], -math.inf
    for candidate in candidates:
        values = []
        for k in range(scheme.inner):
            fitted, judged = among[fold != k], among[fold == k]
            params = _fit(estimator, candidate, x, target, fitted, scheme.seed)
            scores = estimator.apply(params, x[np.ix_(judged, candidate.columns)])
            values.append(stats.auroc(scores, target.judged(fitted, judged)).value)
        known = [v for v in values if not math.isnan(v)]
        mean = float(np.mean(known)) if known else -math.inf
        if mean > most + 1e-12:
            best, most = candidate, mean
    return best


def _fit(
    estimator: Estimator, candidate: Candidate, x: np.ndarray, target: Target, fitted: np.ndarray, seed: int
) -> Params:
    return estimator.fit(x[np.ix_(fitted, candidate.columns)], target.learnt(fitted), candidate.options, seed)


def _enough(target: Target, groups: np.ndarray, folds: int) -> None:
    """Raise a ValueError where the folds cannot all hold both classes."""
    strata = target.strata()
    for code, name in enumerate(target.classes):
        count = len(np.unique(groups[strata == code]))
        alone = len(np.unique(groups)) == len(groups)
        held = f"{count} {name} answers" if alone else f"{count} groups with {name} answers"
        if count < FEWEST_A_FOLD * folds:
            raise ValueError(
                f"{held} among {len(strata)} documents; {folds} folds need {FEWEST_A_FOLD * folds} of each "
                "class: record more documents, or use fewer folds"
            )
