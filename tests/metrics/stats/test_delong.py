import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from metrics.stats import delong_covariance, delong_interval, delong_test
from metrics.stats.delong import placements

quick = settings(max_examples=60, deadline=None, database=None, derandomize=True)
pairs = st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3), st.booleans()), min_size=4, max_size=30).filter(
    lambda items: 2 <= sum(item[-1] for item in items) <= len(items) - 2
)
Z = norm.ppf(0.975)

# Hanley & McNeil 1982, table I: CT ratings 1 to 5 of 58 normal and 51 abnormal patients
CT_NORMAL, CT_ABNORMAL = [33, 6, 6, 11, 2], [3, 2, 2, 11, 33]


def quadratic(scores, label):
    """AUROCs and covariance from the m x n matrix of pairs, by DeLong's definition."""
    scores, label = np.atleast_2d(np.asarray(scores, float)), np.asarray(label, bool)
    wins = []
    for row in scores:
        x, y = row[label][:, None], row[~label][None]
        wins.append((x > y) + 0.5 * (x == y))
    wins = np.array(wins)
    value = wins.mean(axis=(1, 2))
    v10, v01 = wins.mean(axis=2) - value[:, None], wins.mean(axis=1) - value[:, None]
    m, n = v10.shape[1], v01.shape[1]
    return value, v10 @ v10.T / (m - 1) / m + v01 @ v01.T / (n - 1) / n


def two_scores(seed, n=120, share=0.4):
    rng = np.random.default_rng(seed)
    label = rng.random(n) < share
    common = rng.normal(size=n)
    return np.round(common + label, 1), np.round(0.7 * common + rng.normal(size=n) + 0.5 * label, 1), label


def test_published_rating_data():
    """Stata's roctab prints area 0.8932, DeLong standard error 0.0307, interval 0.83295 to 0.95339 for these."""
    score = np.repeat(np.tile(np.arange(1, 6), 2), CT_NORMAL + CT_ABNORMAL)
    found = delong_interval(score, np.arange(109) >= 58, scale="linear")
    assert round(found.value, 4) == 0.8932
    assert round(found.se, 4) == 0.0307
    assert (round(found.lower, 5), round(found.upper, 5)) == (0.83295, 0.95339)
    assert (found.n, found.n_positive, found.reason) == (109, 51, "")


def test_by_hand():
    # V10: 3 beats 2 of 2, 2 beats 1 and ties 1; V01: 2 loses to 1.5 of 2, 1 loses to 2 of 2
    found = delong_interval([3, 2, 2, 1], [1, 1, 0, 0], scale="linear")
    variance = np.var([1, 0.75], ddof=1) / 2 + np.var([0.75, 1], ddof=1) / 2
    assert found.value == 0.875 and found.se == pytest.approx(np.sqrt(variance), abs=1e-15)
    assert found.upper == 1.0 and found.lower == pytest.approx(0.875 - Z * np.sqrt(variance))


@quick
@given(pairs)
def test_covariance_and_test_equal_all_pairs(items):
    first, second, label = map(np.array, zip(*items))
    value, covariance = quadratic([first, second], label)
    found = delong_covariance(np.stack([first, second]), label)
    np.testing.assert_allclose(found.auroc, value, atol=1e-14)
    np.testing.assert_allclose(found.covariance, covariance, atol=1e-14)
    variance = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
    compared = delong_test(first, second, label)
    assert compared.difference.value == pytest.approx(value[0] - value[1], abs=1e-14)
    if variance > 1e-12:
        assert compared.z == pytest.approx((value[0] - value[1]) / np.sqrt(variance), abs=1e-8)
        assert compared.p == pytest.approx(2 * norm.sf(abs(compared.z)), abs=1e-12)
    else:
        assert np.isnan(compared.z)


@quick
@given(pairs)
def test_variance_is_zero_exactly_for_perfect_or_tied_scores(items):
    first, _, label = map(np.array, zip(*items))
    value, covariance = quadratic(first, label)
    special = value[0] in (0, 1) or len(set(first)) == 1
    assert (covariance[0, 0] < 1e-15) == special
    found = delong_interval(first, label)
    assert ("disjoint pairs" in found.reason) == special
    assert found.lower < found.upper and found.lower <= found.value <= found.upper
    assert found.lower >= 0 and found.upper <= 1


def test_logit_interval_by_hand_and_inside_the_unit_interval():
    first, _, label = two_scores(1)
    value, covariance = quadratic(first, label)
    found = delong_interval(first, label, level=0.9)
    a, se = value[0], np.sqrt(covariance[0, 0])
    for bound, sign in ((found.lower, -1), (found.upper, 1)):
        assert np.log(bound / (1 - bound)) == pytest.approx(
            np.log(a / (1 - a)) + sign * norm.ppf(0.95) * se / (a * (1 - a))
        )
    near = delong_interval([*range(12), 10.5], [0] * 8 + [1, 1, 1, 1, 0])
    assert near.upper < 1 and near.lower < near.value


@pytest.mark.parametrize("flip", [False, True])
def test_perfect_score_has_the_clopper_pearson_bound(flip):
    score, label = np.arange(30), np.arange(30) >= 18
    found = delong_interval(-score if flip else score, label)
    bound = 0.025 ** (1 / 12)  # binomial: 12 of 12 pairs won
    assert found.value == (0 if flip else 1)
    np.testing.assert_allclose((found.lower, found.upper), (0, 1 - bound) if flip else (bound, 1))
    assert found.se == pytest.approx((1 - bound) / (2 * Z))
    assert found.reason.endswith("where DeLong's variance is 0: interval from 12 disjoint pairs")


def test_all_tied_and_one_item_in_a_class():
    tied = delong_interval(np.zeros(40), np.arange(40) < 20)
    t = 0.025 ** (1 / 20)
    np.testing.assert_allclose((tied.value, tied.lower, tied.upper), (0.5, t / 2, 1 - t / 2))
    assert tied.reason == "all scores are tied: interval from 20 disjoint pairs"
    single = delong_interval(np.arange(21), np.arange(21) == 15)
    assert single.value == 0.75 and single.se == pytest.approx(np.sqrt(0.75 * 0.25))
    assert single.reason == "only 1 positive: the interval is not reliable; a class has one item: se is an upper bound"


def test_bound_for_a_perfect_score_covers():
    """True AUROC 0.95 with 6 + 6 items is perfect in many samples; no such interval may miss it."""
    rng = np.random.default_rng(0)
    label = np.arange(12) < 6
    shift = np.sqrt(2) * norm.ppf(0.95)
    perfect = missed = 0
    for _ in range(400):
        found = delong_interval(rng.normal(size=12) + shift * label, label)
        if found.value == 1:
            perfect += 1
            missed += not found.lower <= 0.95
    assert perfect > 50 and missed == 0


@pytest.mark.parametrize(("auroc", "m", "n"), [(0.7, 40, 80), (0.9, 25, 60), (0.6, 200, 200)])
def test_coverage_of_the_interval(auroc, m, n):
    rng = np.random.default_rng(7)
    label = np.arange(m + n) < m
    shift = np.sqrt(2) * norm.ppf(auroc)
    runs, covered = 1500, 0
    for _ in range(runs):
        found = delong_interval(rng.normal(size=m + n) + shift * label, label)
        covered += found.lower <= auroc <= found.upper
    assert 0.932 < covered / runs < 0.972


def test_size_and_sign_of_the_paired_test():
    rng = np.random.default_rng(11)
    label = np.arange(100) < 40
    p_values = []
    for _ in range(800):
        common = rng.normal(size=100)
        scores = common + rng.normal(size=(2, 100)) + 0.8 * label
        p_values.append(delong_test(*scores, label).p)
    assert 0.03 < np.mean(np.array(p_values) < 0.05) < 0.075
    assert np.mean(p_values) == pytest.approx(0.5, abs=0.04)
    better = delong_test(rng.normal(size=100) + 3 * label, rng.normal(size=100), label)
    assert better.z > 3 and better.difference.lower > 0 and better.first > better.second


def test_paired_test_is_antisymmetric():
    first, second, label = two_scores(2)
    one, two = delong_test(first, second, label), delong_test(second, first, label)
    assert (one.first, one.second, one.z, one.p) == (two.second, two.first, -two.z, two.p)
    assert (one.difference.lower, one.difference.upper) == (-two.difference.upper, -two.difference.lower)
    flipped = delong_test(-first, -second, ~label)
    assert flipped.z == pytest.approx(one.z, abs=1e-12)


def test_correlation_is_that_of_the_covariance_matrix():
    first, second, label = two_scores(3)
    _, s = quadratic([first, second], label)
    assert delong_test(first, second, label).correlation == pytest.approx(s[0, 1] / np.sqrt(s[0, 0] * s[1, 1]))


def test_same_order_differs_by_nothing():
    first, _, label = two_scores(4)
    same = delong_test(first, np.exp(first), label)
    bound = 1 - 0.025 ** (1 / min(label.sum(), (~label).sum()))
    assert (same.difference.value, same.p) == (0, 1) and np.isnan(same.z)
    np.testing.assert_allclose((same.difference.lower, same.difference.upper), (-bound, bound))
    assert "both scores order every pair alike" in same.difference.reason


def test_perfect_against_tied_uses_hoeffding():
    label = np.arange(60) < 30
    found = delong_test(label.astype(float), np.zeros(60), label)
    assert found.difference.value == 0.5 and np.isnan(found.z)
    assert found.p == pytest.approx(2 * np.exp(-30 * 0.25 / 2))
    half = np.sqrt(2 * np.log(40) / 30)
    np.testing.assert_allclose((found.difference.lower, found.difference.upper), (0.5 - half, min(1, 0.5 + half)))
    assert "Hoeffding's bound over 30 disjoint pairs" in found.difference.reason
    assert np.isnan(found.correlation)


def test_paired_test_uses_items_scored_by_both():
    first, second, label = two_scores(5, n=50)
    first[[0, 1]], second[[1, 2]] = np.nan, np.nan
    keep = np.arange(50) > 2
    found, clean = delong_test(first, second, label), delong_test(first[keep], second[keep], label[keep])
    assert found.difference.reason == "3 of 50 items lack a score and were left out"
    assert (found.z, found.p, found.difference.n) == (clean.z, clean.p, 47)
    together = delong_covariance(np.stack([first, second]), label)
    assert (together.n, together.reason) == (47, "3 of 50 items lack a score and were left out")


def test_scores_at_the_ends_of_the_line():
    first, second, label = two_scores(6)
    order = np.argsort(first)
    infinite = first.copy()
    infinite[first == first[order[-1]]], infinite[first == first[order[0]]] = np.inf, -np.inf
    assert delong_interval(infinite, label) == delong_interval(first, label)
    assert delong_test(infinite, second, label) == delong_test(first, second, label)


@pytest.mark.parametrize(
    ("score", "label", "reason"),
    [
        ([], [], "no items"),
        ([1.0], [1], "n = 1 is below 10: the result is not reliable; one class only: 1 positive of 1"),
        (np.arange(25), np.zeros(25), "one class only: 0 positive of 25"),
        (np.full(11, np.nan), np.arange(11) < 5, "all 11 scores are NaN"),
    ],
)
def test_undefined_is_stated(score, label, reason):
    found = delong_interval(score, label)
    assert np.isnan([found.value, found.lower, found.upper, found.se]).all() and found.reason == reason
    compared = delong_test(score, score, label)
    assert np.isnan([compared.difference.value, compared.z, compared.p]).all() and compared.difference.reason
    many = delong_covariance(np.stack([score, score]), label)
    assert np.isnan(many.auroc).all() and np.isnan(many.covariance).all() and many.reason


def test_covariance_edge_shapes():
    first, _, label = two_scores(7)
    assert delong_covariance(first[None], label).covariance[0, 0] == pytest.approx(
        delong_interval(first, label).se ** 2
    )
    assert delong_covariance(np.zeros((0, 5)), [1, 0, 1, 0, 1]).auroc.shape == (0,)
    lone = delong_covariance(np.arange(12.0)[None], np.arange(12) == 3)
    assert lone.auroc[0] == 3 / 11 and np.isnan(lone.covariance).all() and "only 1 positive" in lone.reason


def test_wrong_input_is_refused():
    with pytest.raises(ValueError, match="level is 95; give a number between 0 and 1"):
        delong_interval([1, 2], [0, 1], level=95)
    with pytest.raises(ValueError, match="scale is 'log'; choose 'logit' or 'linear'"):
        delong_interval([1, 2, 3, 4], [0, 1, 0, 1], scale="log")
    with pytest.raises(ValueError, match="second has 3 items where 2 are expected"):
        delong_test([1, 2], [1, 2, 3], [0, 1])
    with pytest.raises(ValueError, match=r"scores has shape \(2,\)"):
        delong_covariance([1, 2], [0, 1])


def test_placements_are_counts_in_item_order():
    below, above = placements(np.array([5.0, 1, 3, 3, 0]), np.array([True, False, True, False, True]))
    assert below.tolist() == [4, 3, 0] and above.tolist() == [4, 3]
