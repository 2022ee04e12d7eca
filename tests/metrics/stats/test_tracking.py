"""Correlations over data sets against scipy, slow loops and values by hand."""

from itertools import permutations

import numpy as np
import pytest
from scipy.stats import pearsonr, spearmanr

from metrics.stats import tracking

X = [0.1, 0.4, 0.35, 0.8, 0.9]
Y = [0.9, 0.7, 0.75, 0.2, 0.3]


@pytest.mark.parametrize(("rank", "peer"), [(False, pearsonr), (True, spearmanr)])
def test_one_model_is_the_plain_correlation_and_its_permutation_test(rank, peer):
    found = tracking(X, Y, rank=rank)
    assert found.estimate.value == pytest.approx(peer(X, Y).statistic, abs=1e-10)
    as_large = [abs(peer(X, [Y[i] for i in order]).statistic) >= abs(found.estimate.value) - 1e-9
                for order in permutations(range(5))]  # fmt: skip
    assert found.exact and found.p == pytest.approx(np.mean(as_large))
    assert found.estimate.n == 5 and "n = 5 is below 10: no interval" in found.estimate.reason
    assert np.isnan([found.estimate.lower, found.estimate.upper, found.estimate.se]).all()


def test_by_hand():
    found = tracking([1, 2, 3, 4], [4, 3, 2, 1], rank=True)
    assert found.estimate.value == -1
    assert found.p == pytest.approx(2 / 24)  # that order and its reverse
    assert tracking([1, 2, 3, 4], [1, 3, 2, 4], rank=True).estimate.value == pytest.approx(0.8)  # 1 - 6 * 2 / (4 * 15)


def test_the_smallest_p_of_four_data_sets():
    """Spearman's of one model: 2/24, since the reverse of an order is one too. Else 1/24: no other need be as large."""
    rng = np.random.default_rng(0)
    one = {rank: [tracking(rng.random(4), rng.random(4), rank=rank).p for _ in range(100)] for rank in (True, False)}
    assert min(one[True]) == pytest.approx(2 / 24) and min(one[False]) == pytest.approx(1 / 24)
    shared = rng.random((100, 2, 4))
    pooled = [tracking(x, x + 0.3 * rng.random((2, 4)), rank=True).p for x in shared]
    assert min(pooled) == pytest.approx(1 / 24)


def test_ties_have_midranks():
    x, y = [1, 1, 2, 3, 3, 3], [2, 1, 2, 4, 4, 3]
    assert tracking(x, y, rank=True).estimate.value == pytest.approx(spearmanr(x, y).statistic)


def test_models_are_centred():
    """Two models whose means differ: within each the relation falls, and over all it rises."""
    x = np.array([[1.0, 2, 3, 4], [11, 12, 13, 14]])
    y = np.array([[4.0, 3, 2, 1], [24, 23, 22, 21]])
    assert np.corrcoef(x.ravel(), y.ravel())[0, 1] > 0.9
    for rank in (False, True):
        found = tracking(x, y, rank=rank)
        assert found.estimate.value == pytest.approx(-1)
        assert found.estimate.n == 4
        assert found.p == pytest.approx(2 / 24)


def test_pooled_correlation_and_p_by_a_slow_loop():
    rng = np.random.default_rng(0)
    x, y = rng.random((3, 5)), rng.random((3, 5))

    def slow(a, b, rank):
        one = np.concatenate([row - row.mean() for row in a])
        two = np.concatenate([row - row.mean() for row in b])
        return (spearmanr if rank else pearsonr)(one, two).statistic

    for rank in (False, True):
        found = tracking(x, y, rank=rank)
        assert found.estimate.value == pytest.approx(slow(x, y, rank))
        moved = [abs(slow(x, y[:, list(order)], rank)) for order in permutations(range(5))]
        assert found.p == pytest.approx(np.mean(np.array(moved) >= abs(found.estimate.value) - 1e-9))


def test_the_interval_draws_data_sets_with_all_their_models():
    """Copies of one model add nothing: estimate and interval stay what they were; and a bootstrap by a slow loop."""
    rng = np.random.default_rng(4)
    x = rng.random(20)
    y = -x + 0.3 * rng.random(20)
    one, twice = tracking(x, y).estimate, tracking([x, x + 5], [y, y - 3]).estimate
    assert (twice.value, twice.lower, twice.upper) == pytest.approx((one.value, one.lower, one.upper))
    slow = [np.corrcoef(x[i], y[i])[0, 1] for i in rng.integers(20, size=(2000, 20))]
    assert (one.lower, one.upper) == pytest.approx(tuple(np.quantile(slow, [0.025, 0.975])), abs=0.02)
    assert one.se == pytest.approx(np.std(slow), rel=0.15)
    assert one.lower < one.value < one.upper and one.reason == ""
    assert tracking(X, Y).p == tracking([X, X], [Y, Y]).p


def test_resamples_without_a_value_are_counted():
    """One data set of ten stands out; resamples without it do not vary: (9/10)^10, about a third."""
    found = tracking([1] + [0] * 9, np.arange(10)).estimate
    share = int(found.reason.split(" of 2000 resamples have no value")[0]) / 2000
    assert share == pytest.approx(0.9**10, abs=0.04)


def test_many_data_sets_are_permuted_at_random_and_the_same_for_a_seed():
    rng = np.random.default_rng(1)
    x = rng.random(14)
    unrelated, related = tracking(x, rng.random(14)), tracking(x, x + 0.1 * rng.random(14))
    assert not unrelated.exact and unrelated.p > 0.05
    assert related.p == pytest.approx(1e-4)  # none of 9,999 is as large
    assert tracking(x, x[::-1], seed=3) == tracking(x, x[::-1], seed=3)


def test_p_is_right_under_no_relation():
    rng = np.random.default_rng(2)
    p = np.array([tracking(rng.random(6), rng.random(6), replicates=1).p for _ in range(200)])
    assert 0.01 <= (p <= 0.05).mean() <= 0.1


@pytest.mark.parametrize(
    ("x", "y", "says"),
    [
        ([1, 2, 3], [1, 2, 3], "3 data sets; a correlation over data sets needs at least 4"),
        ([], [], "0 data sets"),
        ([1, 2, 3, np.nan], [1, 2, 3, 4], "1 of 4 data sets lack a value and were left out; 3 data sets"),
        ([0.1 + 0.2, 0.3, 0.3, 0.3], [1, 2, 3, 4], "all values are tied"),
    ],
)
def test_undefined(x, y, says):
    found = tracking(x, y)
    assert np.isnan([found.estimate.value, found.estimate.lower, found.p]).all()
    assert says in found.estimate.reason


def test_a_missing_value_leaves_the_data_set_out_for_all_models():
    x, y = np.array([X, X]), np.array([Y, Y])
    x[1, 2] = np.nan
    found = tracking(x, y)
    assert found.estimate.n == 4
    assert found.estimate.value == pytest.approx(pearsonr(np.delete(X, 2), np.delete(Y, 2)).statistic)


@pytest.mark.parametrize(
    ("x", "y", "more", "says"),
    [
        ([1, 2], [1, 2, 3], {}, "x has shape (1, 2) and y (1, 3)"),
        (np.zeros((1, 2, 3)), np.zeros((1, 2, 3)), {}, "give both as (models, data sets)"),
        (X, Y, {"replicates": 0}, "replicates is 0"),
        (X, Y, {"level": 2}, "level is 2"),
    ],
)
def test_refused(x, y, more, says):
    with pytest.raises(ValueError) as problem:
        tracking(x, y, **more)
    assert says in str(problem.value)
