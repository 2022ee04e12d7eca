"""When to answer: thresholds on a score whose error rate is guaranteed at finite n, whatever the score is.

An item is answered when its score is **below** the threshold; a NaN or plus-infinite score is never answered. `wrong`
(n,) is True where the answer would be wrong. The items are drawn independently from one population, as is what will be
answered later; nothing is assumed of the score, not even that it knows anything. Ties are allowed.

`selective_threshold` holds P(wrong | answered) with high probability, `expected_threshold` holds P(wrong and answered)
on average.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import bdtr

from metrics.stats.binomial import p_at_most
from metrics.stats.estimate import as_labels, as_vector

TESTS = 10
"""Thresholds that `selective_threshold` tests at most."""

MOST = 10**6
"""No more items than this are ever said to be needed."""


@dataclass(frozen=True)
class Threshold:
    """Answer below `value`; NaN when none keeps the guarantee, and `reason` says why.

    `answered` and `wrong` count those of the `n` items it was found on.
    """

    value: float
    n: int
    answered: int
    wrong: int
    reason: str = ""


def answers(score: Any, value: float) -> np.ndarray:
    """Which items (n,) are answered: score < value; none when the value is NaN."""
    return as_vector("score", score) < value


def selective_threshold(
    score: Any, wrong: Any, *, risk: float, confidence: float = 0.9, tests: int = TESTS
) -> Threshold:
    """The threshold that answers most of those shown to be wrong on at most `risk` of what they answer.

    With probability at least `confidence` over the n items, either none is found or P(wrong | score < T) <= risk.

    Candidates are T_k, the (k+1)-th smallest score (plus infinity for k = n), at no more than `tests` ranks k that
    depend on n, risk and confidence alone. At rank k, N items lie strictly below T_k and K of them are wrong. Given
    T_k and N those N are independent draws of an item below T_k, also with ties, so K ~ Bin(N, P(wrong | score < T_k))
    and P(Bin(N, risk) <= K) is a p-value of "above `risk`" for a threshold that is itself read off the scores. Each
    is tested at (1 - confidence) / (number of ranks), so that all rejections are right at once (Bonferroni), and the
    rejected rank with most answers is returned. The ranks are spread evenly from the first that could be rejected
    with no error, to n. (A fixed sequence of tests, from few answers to many, would need thresholds that are not read
    off the same scores: the threshold at which it first errs depends on the others.)

    Raises:
        ValueError: risk or confidence not between 0 and 1, tests < 1, or shapes differ.

    Source: Angelopoulos et al. 2021 (arXiv:2110.01052), sec. 2; exact binomial bounds at order statistics: Geifman &
    El-Yaniv 2017 (arXiv:1705.08500), whose binary search is replaced by ranks fixed beforehand.
    """
    vector, label = _checked(score, wrong, risk)
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}; give a number between 0 and 1, such as 0.9")
    n = len(vector)
    tried = _tried(vector, label, risk, confidence, tests)
    if not tried:
        return Threshold(math.nan, n, 0, 0, "too few even without an error")
    level = (1 - confidence) / len(tried)
    passed = [t for t in tried if p_at_most(t.wrong, t.answered, risk) <= level]
    if passed:
        return max(passed, key=lambda t: t.answered)
    lowest = min((t.wrong / t.answered for t in tried if t.answered), default=math.nan)
    if math.isnan(lowest):
        return Threshold(math.nan, n, 0, 0, "nothing can be answered")
    few = "too few to show it, " if lowest < risk else ""
    return Threshold(math.nan, n, 0, 0, f"{few}where fewest are wrong, {lowest:.3g} of the answers are")


def items_needed(score: Any, wrong: Any, *, risk: float, confidence: float = 0.9, tests: int = TESTS) -> int | None:
    """About how many items `selective_threshold` needs to find a threshold, if the error rates seen here hold.

    The least over its ranks of the number at which a test of the rank's share answered and error rate passes, rounded
    up to two digits; the fewest that can do, when these are fewer than that. None when every error rate seen is at or
    above `risk`, or more than `MOST` are needed. The best of several noisy rates is too good: take it as a lower limit.
    """
    vector, label = _checked(score, wrong, risk)
    tried = _tried(vector, label, risk, confidence, tests)
    if not tried:
        return fewest(risk, 1 - confidence)
    sizes = np.unique(np.geomspace(fewest(risk, (1 - confidence) / tests), MOST, 1000).astype(int))
    found = []
    for t in tried:
        if t.answered and t.wrong / t.answered < risk:
            enough = bdtr(np.ceil(t.wrong / t.answered * sizes - 1e-9), sizes, risk) <= (1 - confidence) / tests
            found += [int(sizes[enough.argmax()]) * t.n / t.answered] if enough.any() else []
    least = min(found, default=math.inf)
    if least > MOST:
        return None
    digit = 10 ** max(0, math.floor(math.log10(least)) - 1)
    return max(math.ceil(least / digit) * digit, len(vector) + 1)


def _tried(vector: np.ndarray, label: np.ndarray, risk: float, confidence: float, tests: int) -> list[Threshold]:
    """The candidate at each rank, with what it answers."""
    n = len(vector)
    placed = np.append(np.sort(np.where(np.isnan(vector), np.inf, vector)), np.inf)
    found = []
    for value in placed[tried_ranks(n, risk, confidence, tests)]:
        below = answers(vector, value)
        found.append(Threshold(float(value), n, int(below.sum()), int(label[below].sum())))
    return found


def expected_threshold(score: Any, wrong: Any, *, risk: float) -> Threshold:
    """The largest threshold with P(answered and wrong) <= `risk` for the next item, on average over the n items too.

    Conformal risk control of the loss 1[score < T and wrong], which grows with T and is at most 1: the largest T with
    (wrong below T + 1) / (n + 1) <= risk, which is the (m + 1)-th smallest score of a wrong item,
    m = floor(risk (n + 1) - 1), or plus infinity when no more than m are wrong. It bounds errors among **all** items,
    answered or not; the share of the answered that is wrong can be larger. Exchangeable items suffice. Without ties
    the expectation is at least risk - 2/(n + 1), unless all may be answered.

    Raises:
        ValueError: risk not between 0 and 1, or shapes differ.

    Source: Angelopoulos et al. 2022 (arXiv:2208.02814), theorems 1 and 2.
    """
    vector, label = _checked(score, wrong, risk)
    n = len(vector)
    allowed = math.floor(risk * (n + 1) - 1 + 1e-9)  # a product that only rounding keeps below a whole number
    if allowed < 0:
        return Threshold(math.nan, n, 0, 0, f"too few, at least {math.ceil(1 / risk - 1 - 1e-9)} are needed")
    errors = np.sort(vector[label & (vector < np.inf)])
    value = float(errors[allowed]) if allowed < len(errors) else math.inf
    below = answers(vector, value)
    return Threshold(value, n, int(below.sum()), int(label[below].sum()))


def tried_ranks(n: int, risk: float, confidence: float, tests: int = TESTS) -> list[int]:
    """The ranks, rising, at which `selective_threshold` tests: a function of its settings and n alone.

    Raises:
        ValueError: tests < 1.
    """
    if tests < 1:
        raise ValueError(f"tests is {tests}; give at least 1")
    for count in range(tests, 0, -1):  # with few items, fewer tests leave each of them enough
        first = fewest(risk, (1 - confidence) / count)
        if first <= n and (count == 1 or n - first >= count - 1):
            return sorted({round(k) for k in np.linspace(first, n, count)}) if count > 1 else [n]
    return []


def fewest(risk: float, level: float) -> int:
    """The smallest number of answers, none of them wrong, that shows `risk` at `level`: (1 - risk)^k <= level."""
    return math.ceil(math.log(level) / math.log1p(-risk) - 1e-9)


def _checked(score: Any, wrong: Any, risk: float) -> tuple[np.ndarray, np.ndarray]:
    if not 0 < risk < 1:
        raise ValueError(f"risk is {risk}; give a share between 0 and 1, such as 0.1")
    vector = as_vector("score", score)
    return vector, as_labels(wrong, len(vector))
