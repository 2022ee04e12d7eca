import importlib.util
import math
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binom

from metrics.stats import answers, expected_threshold, items_needed, selective_threshold
from metrics.stats.conformal import fewest, tried_ranks

FILE = Path(__file__).parents[3] / "benchmarks" / "conformal.py"
SPEC = importlib.util.spec_from_file_location("benchmark_of_conformal", FILE)
simulation = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(simulation)
ERRORS, LEVELS, RISK, simulate = simulation.ERRORS, simulation.LEVELS, simulation.RISK, simulation.simulate


def slow_selective(score, wrong, risk, confidence):
    """Every rank tried on its own, the number answered counted item by item."""
    n = len(score)
    ranks = tried_ranks(n, risk, confidence)
    key = [math.inf if math.isnan(s) else s for s in score]
    best = (0, math.nan)
    for k in ranks:
        t = sorted(key)[k] if k < n else math.inf
        inside = [w for s, w in zip(key, wrong) if s < t]
        if inside and binom.cdf(sum(inside), len(inside), risk) <= (1 - confidence) / len(ranks):
            best = max(best, (len(inside), t))
    return best


@pytest.mark.parametrize("levels", [0, 5])
@pytest.mark.parametrize("seed", range(4))
def test_selective_equals_a_slow_loop(levels, seed):
    rng = np.random.default_rng(seed)
    score = rng.random(400)
    wrong = rng.random(400) < 0.4 * score
    score = np.floor(levels * score) if levels else score
    score[:9] = np.nan
    found = selective_threshold(score, wrong, risk=0.2)
    answered, value = slow_selective(score, wrong, 0.2, 0.9)
    assert answered > 0 and (found.answered, found.value) == (answered, value)
    below = answers(score, found.value)
    assert below.sum() == answered and wrong[below].sum() == found.wrong and not below[:9].any()


def test_expected_equals_a_search_of_all_thresholds():
    rng = np.random.default_rng(0)
    for n, levels in ((30, 0), (57, 4), (200, 0)):
        score = rng.random(n) if not levels else rng.integers(0, levels, n).astype(float)
        wrong = rng.random(n) < 0.4
        good = [t for t in (*score, math.inf) if (wrong[score < t].sum() + 1) / (n + 1) <= 0.1]
        found = expected_threshold(score, wrong, risk=0.1)
        assert found.value == (max(good) if good else pytest.approx(math.nan, nan_ok=True))
        assert found.wrong == wrong[score < found.value].sum()


def test_by_hand():
    found = expected_threshold([1.0, 2.0, 3.0, 4.0], [False, True, False, True], risk=0.4)
    assert (found.value, found.answered, found.wrong) == (4.0, 3, 1)  # (1 + 1) / 5 = .4
    assert expected_threshold([1.0, 2.0, 3.0, 4.0], [0, 1, 0, 0], risk=0.4).value == math.inf
    assert fewest(0.1, 0.1) == 22 and 0.9**22 <= 0.1 < 0.9**21
    assert fewest(0.5, 0.25) == 2
    assert tried_ranks(21, 0.1, 0.9) == [] and tried_ranks(22, 0.1, 0.9) == [22]
    found = selective_threshold(np.arange(22), np.zeros(22), risk=0.1)
    assert (found.value, found.answered, found.reason) == (math.inf, 22, "")


def test_the_ranks_depend_on_nothing_but_the_settings():
    for n in (22, 30, 44, 45, 60, 300, 5000):
        ranks = tried_ranks(n, 0.1, 0.9)
        assert ranks == sorted(set(ranks)) and len(ranks) <= 10 and ranks[-1] == n
        assert 0.9 ** ranks[0] <= 0.1 / len(ranks)
    with pytest.raises(ValueError, match="tests is 0"):
        tried_ranks(10, 0.1, 0.9, 0)


def test_a_threshold_that_is_out_of_reach_says_what_would_do():
    few = selective_threshold(np.arange(20), np.zeros(20), risk=0.1)
    assert math.isnan(few.value) and "too few even without an error" in few.reason
    assert items_needed(np.arange(20), np.zeros(20), risk=0.1) == 22
    assert not answers(np.arange(20), few.value).any()
    label = np.arange(200) % 2
    bad = selective_threshold(np.ones(200), label, risk=0.1)
    assert math.isnan(bad.value) and bad.reason == "where fewest are wrong, 0.5 of the answers are"
    assert items_needed(np.ones(200), label, risk=0.1) is None
    assert math.isnan(expected_threshold(np.arange(8), np.zeros(8), risk=0.1).value)
    assert "at least 9 are needed" in expected_threshold(np.arange(8), np.zeros(8), risk=0.1).reason
    assert expected_threshold(np.arange(9), np.zeros(9), risk=0.1).value == math.inf


def test_as_many_as_are_said_to_be_needed_do():
    """6 % wrong and all tied: nothing can be shown of 120, and of the number said, 6 % wrong, it can."""
    label = np.arange(120) % 17 == 0
    found = selective_threshold(np.ones(120), label, risk=0.1)
    assert math.isnan(found.value) and "too few to show it" in found.reason
    needed = items_needed(np.ones(120), label, risk=0.1)
    assert 120 < needed < 1000
    grown = np.arange(needed) < math.ceil(label.mean() * needed)
    assert selective_threshold(np.ones(needed), grown, risk=0.1).answered == needed
    less = np.arange(needed // 2) < math.ceil(label.mean() * (needed // 2))
    assert math.isnan(selective_threshold(np.ones(needed // 2), less, risk=0.1).value)


def test_missing_and_infinite_scores_are_never_answered():
    score = np.array([math.nan, math.inf, -math.inf, 0.0] * 30)
    wrong = np.tile([True, True, False, False], 30)
    for found in (selective_threshold(score, wrong, risk=0.1), expected_threshold(score, wrong, risk=0.1)):
        assert found.n == 120 and found.answered == 60 and found.wrong == 0
        assert (answers(score, found.value) == np.tile([False, False, True, True], 30)).all()
    gone = selective_threshold(np.full(50, math.nan), np.zeros(50), risk=0.1)
    assert math.isnan(gone.value) and gone.reason == "nothing can be answered"


def test_all_tied_is_all_or_nothing():
    assert selective_threshold(np.ones(100), np.zeros(100), risk=0.1).answered == 100
    assert math.isnan(selective_threshold(np.ones(100), np.arange(100) < 30, risk=0.1).value)
    assert expected_threshold(np.ones(100), np.arange(100) < 30, risk=0.1).answered == 0


def test_nonsense_is_refused():
    for risk in (0.0, 1.0, math.nan):
        with pytest.raises(ValueError, match="risk is"):
            expected_threshold([1.0], [True], risk=risk)
    with pytest.raises(ValueError, match="confidence is 1"):
        selective_threshold([1.0], [True], risk=0.1, confidence=1)
    with pytest.raises(ValueError, match="label"):
        selective_threshold([1.0, 2.0], [True], risk=0.1)


@pytest.mark.parametrize("levels", LEVELS.values(), ids=LEVELS)
@pytest.mark.parametrize("error", ERRORS.values(), ids=ERRORS)
def test_both_guarantees_hold_when_documents_are_drawn_again(error, levels):
    """Three standard errors over the bound at most; the bound itself is the worst case."""
    runs, delta = 400, 0.2
    broken, _, expected = simulate(error, levels, 150, 1 - delta, runs, seed=levels)
    assert broken.mean() <= delta + 3 * math.sqrt(delta * (1 - delta) / runs)
    assert expected.mean() <= RISK + 3 * expected.std() / math.sqrt(runs)


def test_the_bounds_are_not_idle():
    """A score that knows nothing, just above the risk: without the correction for many tests the bound would break."""
    found = [selective_threshold(*cell(seed), risk=0.1, confidence=0.8, tests=1).answered > 0 for seed in range(600)]
    assert 0.03 < np.mean(found) <= 0.2 + 3 * math.sqrt(0.16 / 600)
    _, _, expected = simulate(ERRORS["informative"], 0, 150, 0.9, 600, seed=0)
    assert RISK - 2 / 151 - 3 * expected.std() / math.sqrt(600) <= expected.mean()


def cell(seed):
    rng = np.random.default_rng(seed)
    return rng.random(150), rng.random(150) < 0.101
