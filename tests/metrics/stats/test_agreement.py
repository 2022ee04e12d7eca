import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm, spearmanr

from metrics.stats import kendall, spearman

quick = settings(max_examples=60, deadline=None, database=None, derandomize=True)
points = st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3)), min_size=5, max_size=25).filter(
    lambda p: len({a for a, _ in p}) > 1 and len({b for _, b in p}) > 1
)


def slow_tau_b(x, y):
    signs = [(np.sign(x[i] - x[j]), np.sign(y[i] - y[j])) for i in range(len(x)) for j in range(i)]
    product = sum(a * b for a, b in signs)
    return product / np.sqrt(sum(a * a for a, _ in signs) * sum(b * b for _, b in signs))


def test_by_hand():
    # ranks 1 2 3 4 5 against 2 1 4 3 5: sum of squared differences 4; 8 of 10 pairs agree
    x, y = [1, 2, 3, 4, 5], [20, 10, 40, 30, 50]
    assert spearman(x, y).value == pytest.approx(1 - 6 * 4 / (5 * 24))
    assert kendall(x, y).value == pytest.approx((8 - 2) / 10)
    half = norm.ppf(0.975) * np.sqrt((1 + 0.8**2 / 2) / 2)
    np.testing.assert_allclose(spearman(x, y).upper, np.tanh(np.arctanh(0.8) + half))
    half = norm.ppf(0.975) * np.sqrt(0.437 / 1)
    np.testing.assert_allclose(kendall(x, y).lower, np.tanh(np.arctanh(0.6) - half))


@quick
@given(points)
def test_equal_to_pairs_and_to_scipy_with_ties(items):
    x, y = map(np.array, zip(*items))
    assert spearman(x, y).value == pytest.approx(spearmanr(x, y).statistic, abs=1e-12)
    assert kendall(x, y).value == pytest.approx(slow_tau_b(x, y), abs=1e-12)


@quick
@given(points)
def test_symmetry(items):
    x, y = map(np.array, zip(*items))
    for statistic in (spearman, kendall):
        one, turned, swapped = statistic(x, y), statistic(x, -y), statistic(y, x)
        assert swapped.value == pytest.approx(one.value, abs=1e-12)
        assert turned.value == pytest.approx(-one.value, abs=1e-12)
        assert turned.lower == pytest.approx(-one.upper, abs=1e-9)
        assert statistic(np.exp(x / 2), y).value == pytest.approx(one.value, abs=1e-12)
        assert -1 <= one.lower <= one.value <= one.upper <= 1 and one.lower < one.upper


@pytest.mark.parametrize("rho", [0.0, 0.6])
def test_coverage(rho):
    rng = np.random.default_rng(0)
    truths = {spearman: 6 / np.pi * np.arcsin(rho / 2), kendall: 2 / np.pi * np.arcsin(rho)}
    for statistic, truth in truths.items():
        covered = 0
        for _ in range(600):
            x, y = rng.multivariate_normal([0, 0], [[1, rho], [rho, 1]], size=60).T
            found = statistic(x, y)
            covered += found.lower <= truth <= found.upper
        assert 0.92 < covered / 600 < 0.985


def test_perfect_agreement_has_an_interval_with_width():
    x = np.arange(20)
    tau = 2 * 0.025 ** (1 / 10) - 1
    found, rank = kendall(x, x**3), spearman(x, x**3)
    np.testing.assert_allclose((found.value, found.lower, found.upper), (1, tau, 1))
    np.testing.assert_allclose((rank.value, rank.lower, rank.upper), (1, (3 * tau - 1) / 2, 1))
    assert rank.reason == "the correlation is 1: interval from 10 disjoint pairs"
    assert (kendall(x, -x).lower, kendall(x, -x).upper) == (-1, -found.lower)
    short = spearman([1, 2, 3, 4], [1, 2, 3, 4])
    tau = 2 * 0.025**0.5 - 1
    assert short.lower == pytest.approx((tau**2 + 2 * tau - 1) / 2) and short.lower >= -1


@pytest.mark.parametrize("statistic", [spearman, kendall])
def test_stated_results(statistic):
    assert statistic([], []).reason == "no items" and np.isnan(statistic([], []).value)
    assert np.isnan(statistic([1], [2]).value)
    tied = statistic(np.ones(12), np.arange(12))
    assert np.isnan(tied.value) and tied.reason == "all values of x are tied"
    assert statistic(np.ones(12), np.ones(12)).reason == "all values of x and y are tied"
    few = statistic([1, 2, 3], [1, 3, 2])
    assert np.isfinite(few.value) and np.isnan(few.lower) and "an interval needs n above" in few.reason
    assert "n = 3 is below 10" in few.reason
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(2, 50))
    clean = statistic(x[3:], y[3:])
    x[0], y[[1, 2]] = np.nan, np.nan
    left = statistic(x, y)
    assert (left.value, left.n, left.n_positive) == (clean.value, 47, None)
    assert left.reason == "3 of 50 items lack a value and were left out"
    x, y = np.arange(12.0), np.arange(12) % 5
    infinite = np.where(x == 11, np.inf, np.where(x == 0, -np.inf, x))
    assert statistic(infinite, y) == statistic(x, y)


def test_wrong_input_is_refused():
    with pytest.raises(ValueError, match="y has 3 items where 2 are expected"):
        spearman([1, 2], [1, 2, 3])
    with pytest.raises(ValueError, match="level is 2"):
        kendall([1, 2], [1, 2], level=2)
