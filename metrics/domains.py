"""Uncertainty, predicted and true error by cluster of questions."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy.stats import ttest_ind

from metrics import stats
from metrics.core import Choice
from metrics.stats import Estimate, Order
from metrics.stats.recalibration import Curve

Way = Literal["own", "elsewhere", "crossed"]
"""Where a predicted error comes from: the metric is a probability; a curve of another run; of the other clusters."""

ALPHA = 0.05


@dataclass(frozen=True)
class Answers:
    """Answered questions, one item each.

    Attributes:
        task: (n,) names.
        text: n questions.
        score: (n,) of the metric, turned so that high means uncertain; NaN where there is none.
        length: (n,) of the prompt in tokens, the baseline.
        wrong: (n,) 1 wrong, 0 right, NaN without a label.
    """

    task: np.ndarray
    text: Sequence[str]
    score: np.ndarray
    length: np.ndarray
    wrong: np.ndarray

    @property
    def labelled(self) -> bool:
        """Whether any answer has a label."""
        return not bool(np.isnan(self.wrong).all())


@dataclass(frozen=True)
class Prediction:
    """The probability of being wrong (n,), NaN where there is none, how it was made, and why some have none."""

    of: np.ndarray
    way: Way
    reason: str = ""


@dataclass(frozen=True)
class Trust:
    """How far uncertainty tells which clusters are weak, where labels exist.

    Attributes:
        order, length_order: of the clusters by mean uncertainty, and by mean prompt length, against their true error.
        explained: `metrics.stats.between_share` of the predicted errors; NaN without them.
        miss: mean absolute difference of predicted and true error, weighted by size.
        same_p: p of "the true error is the same in all clusters".
    """

    order: Order
    length_order: Order
    explained: float
    miss: float
    same_p: float


def crossed(answers: Answers, labels: np.ndarray, fit: stats.Fit) -> Prediction:
    """Each cluster predicted by a curve that the labelled answers of all other clusters fitted."""
    found = np.full(len(labels), np.nan)
    reasons: Counter[str] = Counter()
    usable = ~np.isnan(answers.score) & ~np.isnan(answers.wrong)
    for k in np.unique(labels):
        fitted = usable & (labels != k)
        curve, why = curve_of(answers.score[fitted], answers.wrong[fitted], fit)
        if curve is None:
            reasons[why] += 1
            continue
        here = (labels == k) & ~np.isnan(answers.score)
        found[here] = curve(answers.score[here]) if here.any() else found[here]
    return Prediction(found, "crossed", "; ".join(f"{n} clusters: {why}" for why, n in reasons.items()))


def curve_of(score: np.ndarray, wrong: np.ndarray, fit: stats.Fit) -> tuple[Curve | None, str]:
    """A curve from scores to probabilities of being wrong; None with the reason where none can be fitted."""
    if not np.isfinite(score).all():
        return None, "scores to fit on are infinite"
    if not wrong.any() or wrong.all():
        return None, f"one class only among {len(wrong)} answers to fit on"
    return fit(score, wrong.astype(bool)), ""


def own(answers: Answers, choice: Choice) -> Prediction | None:
    """A metric whose unit is probability as it is, 1 less its own where it is one of confidence; None for others."""
    if choice.metric.unit != "probability":
        return None
    return Prediction(answers.score if choice.metric.higher == "uncertain" else 1 + answers.score, "own")


def rows_of(
    answers: Answers,
    labels: np.ndarray,
    predicted: Prediction | None,
    *,
    confident: bool,
    seed: int,
    replicates: int = 2000,
    level: float = 0.95,
) -> list[dict[str, Any]]:
    """One row a cluster, the most uncertain first.

    Columns: cluster, n, tasks; uncertainty, the metric's mean in its own sign; `p_weak`, Holm's p over clusters of
    Welch's test that the mean score is that of the other clusters; `weak`, whether the cluster is more uncertain at
    p < `ALPHA`; predicted, the mean probability of being wrong; true, the share wrong; bias, predicted less true over
    the answers with both. Intervals: bootstrap over the cluster's answers with curves held fixed, Wilson's for true.
    """
    rows = []
    for k in np.unique(labels):
        inside = labels == k
        score, wrong = answers.score[inside], answers.wrong[inside]
        known = wrong[~np.isnan(wrong)]
        mean = _mean(-score if confident else score, seed, replicates, level)
        row: dict[str, Any] = {"cluster": int(k), "n": int(inside.sum()), "tasks": _mix(answers.task[inside])}
        row |= _columns("uncertainty", mean) | {"unscored": int(np.isnan(score).sum())}
        row |= {"p_weak": _welch(score, answers.score[~inside]), "score": float(_plain_mean(score))}
        if predicted is not None:
            p = predicted.of[inside]
            row |= _columns("predicted", _mean(p, seed, replicates, level))
        if answers.labelled:
            errors = int(known.sum())
            lower, upper = stats.wilson_interval(errors, len(known), level=level)
            true = errors / len(known) if len(known) else math.nan
            row |= {"true": true, "true_lower": lower, "true_upper": upper}
            row |= {"labelled": len(known), "wrong": errors}
            if predicted is not None:
                row |= _columns("bias", _mean(predicted.of[inside] - wrong, seed, replicates, level))
        rows.append(row)
    _adjust(rows, answers)
    return sorted(rows, key=lambda r: math.inf if math.isnan(r["score"]) else -r["score"])


def _adjust(rows: list[dict[str, Any]], answers: Answers) -> None:
    """Holm's p, and which clusters are weak by it."""
    overall = _plain_mean(answers.score)
    adjusted = stats.holm([row["p_weak"] for row in rows])
    for row, p in zip(rows, adjusted):
        row["p_weak"] = float(p)
        row["weak"] = bool(p < ALPHA and row["score"] > overall)


def _mean(values: np.ndarray, seed: int, replicates: int, level: float) -> Estimate:
    nothing = np.zeros(len(values))
    return stats.bootstrap_interval(
        stats.resampled_mean, values, nothing, seed=seed, replicates=replicates, level=level
    )


def _plain_mean(values: np.ndarray) -> float:
    kept = values[~np.isnan(values)]
    return float(kept.mean()) if len(kept) else math.nan


def _columns(name: str, found: Estimate) -> dict[str, float]:
    return {name: found.value, f"{name}_lower": found.lower, f"{name}_upper": found.upper}


def _welch(inside: np.ndarray, outside: np.ndarray) -> float:
    """Two-sided p of Welch's test of two means; NaN where either has fewer than two finite values or none vary."""
    a, b = (v[~np.isnan(v)] for v in (inside, outside))
    if min(len(a), len(b)) < 2 or not np.isfinite(np.concatenate([a, b])).all() or np.ptp(a) + np.ptp(b) == 0:
        return math.nan
    result: Any = ttest_ind(a, b, equal_var=False)
    return float(result.pvalue)


def _mix(tasks: np.ndarray) -> str:
    """Which tasks, the most frequent first, with their shares."""
    counts = Counter(tasks.tolist()).most_common()
    if len(counts) == 1:
        return counts[0][0]
    return ", ".join(f"{name} {100 * count / len(tasks):.0f} %" for name, count in counts)


def trust(
    answers: Answers, labels: np.ndarray, rows: Sequence[dict[str, Any]], *, seed: int, replicates: int = 2000
) -> Trust:
    """How far the clusters' uncertainty, and their predicted error if there is one, agrees with their true error."""
    options: dict[str, Any] = {"seed": seed, "replicates": replicates}
    known = ~np.isnan(answers.wrong)
    of = [row for row in rows if "predicted" in row and not math.isnan(row["predicted"]) and row["labelled"]]
    complete = len(of) == len(rows)
    predicted, true = [row["predicted"] for row in of], [row["true"] for row in of]
    sizes = [row["labelled"] for row in of]
    return Trust(
        stats.group_order(answers.score, answers.wrong, labels, **options),
        stats.group_order(answers.length, answers.wrong, labels, **options),
        stats.between_share(predicted, true, sizes) if complete else math.nan,
        float(np.average(np.abs(np.subtract(predicted, true)), weights=sizes)) if complete else math.nan,
        stats.same_rate_p(answers.wrong[known].astype(bool), labels[known]),
    )
