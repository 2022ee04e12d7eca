"""Orders of groups against scipy, exact cases and simulation; shares of spread by hand."""

import numpy as np
import pytest
from scipy.stats import chisquare, kendalltau, spearmanr

from metrics.stats import between_share, group_order, same_rate_p
from metrics.stats.groups import resampled_kendall, resampled_spearman


def test_resampled_orders_against_scipy_with_ties():
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 4, size=(2, 40, 6)).astype(float)
    for row in range(40):
        expected = spearmanr(x[row], y[row]).statistic, kendalltau(x[row], y[row]).statistic
        np.testing.assert_allclose((resampled_spearman(x, y)[row], resampled_kendall(x, y)[row]), expected, atol=1e-12)
    assert np.isnan(resampled_spearman(np.ones((1, 3)), y[:1, :3])).all()
    assert np.isnan(resampled_kendall(np.ones((1, 3)), y[:1, :3])).all()


def items(means_x, means_y, size=40, noise=0.0, seed=0):
    rng = np.random.default_rng(seed)
    group = np.repeat(np.arange(len(means_x)), size)
    x = np.asarray(means_x, float)[group] + noise * rng.standard_normal(len(group))
    return x, np.asarray(means_y, float)[group], group


def test_group_order_without_noise():
    x, y, group = items([1, 2, 3, 4, 5], [10, 20, 40, 30, 50])
    found = group_order(x, y, group, seed=0)
    assert found.spearman.value == pytest.approx(1 - 6 * 2 / (5 * 24))
    assert found.kendall.value == pytest.approx((9 - 1) / 10)
    assert found.spearman.lower == pytest.approx(found.spearman.upper)
    # of the 120 orders those at least as strong: 1 + 4 of rho >= .9, and their mirror images
    assert found.p == pytest.approx(10 / 120)


def test_groups_are_named_by_any_code_and_nan_items_are_left_out():
    x, y, group = items([1, 2, 3, 4, 5], [10, 20, 40, 30, 50])
    x[::7] = np.nan
    found = group_order(x, y, group * 3 + 1, seed=0)
    assert found.spearman.value == pytest.approx(0.9)
    assert found.spearman.reason == "29 of 200 items lack a value and were left out"


def test_noise_widens_the_interval_and_the_seed_decides():
    x, y, group = items([1, 2, 3, 4, 5], [1, 2, 3, 4, 5], noise=3.0)
    one, again = group_order(x, y, group, seed=3), group_order(x, y, group, seed=3)
    assert one == again
    assert one.spearman.lower < one.spearman.value <= one.spearman.upper
    assert group_order(x, y, group, seed=4) != one


def test_where_no_order_is_given():
    x, y, group = items([1, 2, 3], [1, 2, 3])
    few = group_order(x, y, group, seed=0)
    assert np.isnan([few.spearman.value, few.kendall.value, few.p]).all()
    assert few.spearman.reason == "3 groups; an order needs at least 4"
    tied = group_order(*items([1, 1, 1, 1], [1, 2, 3, 4]), seed=0)
    assert tied.kendall.reason == "all groups are tied"
    assert group_order([np.nan] * 4, [1.0] * 4, [0, 1, 2, 3], seed=0).spearman.n == 0
    with pytest.raises(ValueError, match="replicates is 0"):
        group_order(x, y, group, seed=0, replicates=0)


def test_one_item_a_group():
    found = group_order([1.0, 2, 3, 4], [1.0, 2, 3, 4], [0, 1, 2, 3], seed=0)
    assert (found.spearman.value, found.spearman.lower) == (1.0, 1.0)
    assert found.p == pytest.approx(2 / 24)


def test_between_share_by_hand():
    # mean (10 * .2 + 30 * .6) / 40 = .5; total 10 * .09 + 30 * .01 = 1.2; left 10 * .01 + 30 * .04 = 1.3
    assert between_share([0.3, 0.4], [0.2, 0.6], [10, 30]) == pytest.approx(1 - 1.3 / 1.2)
    assert between_share([0.2, 0.6], [0.2, 0.6], [10, 30]) == 1
    assert between_share([0.5, 0.5], [0.2, 0.6], [10, 30]) == pytest.approx(0)
    assert np.isnan(between_share([0.1, 0.2], [0.5, 0.5], [10, 30]))
    assert np.isnan(between_share([], [], []))
    assert np.isnan(between_share([np.nan, 0.2], [0.4, 0.5], [10, 30]))


def test_same_rate_against_its_definition():
    rng = np.random.default_rng(1)
    group = rng.integers(0, 4, 300)
    event = rng.random(300) < 0.2 + 0.1 * group
    sizes, counts = np.bincount(group), np.bincount(group, event)
    observed = np.concatenate([counts, sizes - counts])
    expected = np.concatenate([sizes * event.mean(), sizes * (1 - event.mean())])
    assert same_rate_p(event, group) == pytest.approx(chisquare(observed, expected, ddof=len(observed) - 4).pvalue)
    assert np.isnan(same_rate_p(np.ones(5, bool), [0, 1, 0, 1, 1]))
    assert np.isnan(same_rate_p([True, False], [0, 0]))
