import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from metrics.stats import Estimate, auroc, delong_interval, macro_average, quantile_strata, stratified_auroc

quick = settings(max_examples=60, deadline=None, database=None, derandomize=True)


def slow_stratified(score, label, codes):
    wins = pairs = 0
    for i in np.flatnonzero(label):
        for j in np.flatnonzero(~label):
            if codes[i] == codes[j]:
                pairs += 1
                wins += (score[i] > score[j]) + 0.5 * (score[i] == score[j])
    return wins / pairs


def draw(seed, n=150):
    rng = np.random.default_rng(seed)
    length = rng.integers(3, 40, n).astype(float)
    label = rng.random(n) < length / 50
    return np.round(rng.normal(size=n) + 0.1 * length + 0.5 * label, 1), label, length


def test_strata_by_hand():
    assert quantile_strata([10, 30, 20, 40], count=2).tolist() == [0, 1, 0, 1]
    # the three 5s have midrank 2, so (2 - 1/2) / 5 * 5 = 1.5
    assert quantile_strata([5, 5, 5, 6, 7], count=5).tolist() == [1, 1, 1, 3, 4]
    assert quantile_strata([], count=5).shape == (0,)


@quick
@given(st.lists(st.integers(-5, 5), min_size=1, max_size=50), st.integers(1, 8))
def test_strata_depend_on_ranks_alone(values, count):
    values = np.array(values, float)
    codes = quantile_strata(values, count=count)
    assert codes.min() >= 0 and codes.max() < count
    np.testing.assert_array_equal(quantile_strata(np.exp(values), count=count), codes)
    for i in range(len(values)):
        same = values == values[i]
        assert len(set(codes[same])) == 1
        assert (codes[values > values[i]] >= codes[i]).all()


def test_strata_without_ties_have_equal_sizes():
    codes = quantile_strata(np.random.default_rng(0).permutation(100), count=5)
    assert np.bincount(codes).tolist() == [20] * 5


@pytest.mark.parametrize("seed", range(3))
def test_pooled_value_equals_the_pairs_within_strata(seed):
    score, label, length = draw(seed)
    found = stratified_auroc(score, label, length)
    assert found.pooled.value == pytest.approx(slow_stratified(score, label, quantile_strata(length)), abs=1e-14)
    for code, stratum in enumerate(found.strata):
        inside = quantile_strata(length) == code
        assert (stratum.lowest, stratum.highest) == (length[inside].min(), length[inside].max())
        assert stratum.auroc == delong_interval(score[inside], label[inside])


def test_variance_by_hand():
    score, label, length = draw(1)
    found = stratified_auroc(score, label, length, scale="linear")
    pairs = np.array([s.auroc.n_positive * (s.auroc.n - s.auroc.n_positive) for s in found.strata])
    se = np.sqrt(sum((w / pairs.sum() * s.auroc.se) ** 2 for w, s in zip(pairs, found.strata)))
    assert found.pooled.se == pytest.approx(se, rel=1e-12)
    assert found.pooled.upper == pytest.approx(found.pooled.value + norm.ppf(0.975) * se)


def test_a_score_that_only_measures_length_loses_its_advantage():
    rng = np.random.default_rng(5)
    length = rng.permutation(np.arange(2000))
    label = rng.random(2000) < length / 2000
    assert auroc(length, label).value > 0.8
    within = stratified_auroc(length, label, length, count=20).pooled
    assert within.value == pytest.approx(0.5, abs=0.06)
    constant = stratified_auroc(length // 100, label, length, count=20).pooled
    assert constant.value == 0.5


def test_one_stratum_is_the_plain_auroc():
    score, label, length = draw(2)
    whole, plain = stratified_auroc(score, label, length, count=1).pooled, delong_interval(score, label)
    np.testing.assert_allclose((whole.value, whole.lower, whole.upper), (plain.value, plain.lower, plain.upper))


def test_coverage_within_strata():
    rng = np.random.default_rng(6)
    runs, covered = 400, 0
    truth = norm.cdf(0.8 / np.sqrt(2))
    for _ in range(runs):
        length = rng.integers(0, 50, 250)
        label = rng.random(250) < 0.2 + 0.01 * length
        score = rng.normal(size=250) + 0.8 * label + 10 * quantile_strata(length)
        pooled = stratified_auroc(score, label, length).pooled
        covered += pooled.lower <= truth <= pooled.upper
    assert 0.92 < covered / runs < 0.98


def test_strata_of_one_class_are_left_out_and_counted():
    length = np.arange(40)
    label = (length >= 8) & (length % 2 == 0)
    found = stratified_auroc(np.sin(length), label, length)
    assert found.pooled.n == 32 and len(found.strata) == 5
    assert "1 of 5 strata have one class and were left out" in found.pooled.reason
    assert "4 of 5 strata carry a warning of their own" in found.pooled.reason
    apart = stratified_auroc(length, length >= 20, length, count=2)
    assert np.isnan([apart.pooled.value, apart.pooled.lower]).all()
    assert apart.pooled.reason == "no stratum has two classes" and apart.pooled.n == 40


def test_stated_results():
    assert stratified_auroc([], [], []).pooled.reason == "no items"
    one = stratified_auroc(np.arange(25), np.zeros(25), np.arange(25)).pooled
    assert np.isnan(one.value) and one.reason.startswith("one class only: 0 positive of 25")
    score, label, length = draw(3, n=50)
    score[0], length[[0, 4]] = np.nan, np.nan
    left = stratified_auroc(score, label, length)
    assert "2 of 50 items lack a score or a covariate and were left out" in left.pooled.reason
    same = stratified_auroc(np.arange(30), np.arange(30) % 2, np.ones(30))
    assert "only 1 of 5 strata are occupied" in same.pooled.reason
    perfect = stratified_auroc(np.where(np.arange(40) % 2, np.inf, -np.inf), np.arange(40) % 2, np.arange(40)).pooled
    assert perfect.value == 1 == perfect.upper and perfect.lower < 1
    single = stratified_auroc([1.0], [1], [3.0]).pooled
    assert np.isnan(single.value) and "n = 1 is below 10" in single.reason


def test_wrong_input_is_refused():
    with pytest.raises(ValueError, match="covariate has 1 items where 2 are expected"):
        stratified_auroc([1, 2], [0, 1], [3])
    with pytest.raises(ValueError, match="count is 0; give at least 1 stratum"):
        stratified_auroc([1, 2], [0, 1], [3, 4], count=0)
    with pytest.raises(ValueError, match="covariate holds 1 NaN; drop those items first"):
        quantile_strata([1, np.nan])


def task(value, se, n=50, n_positive=20):
    return Estimate(value, np.nan, np.nan, n, n_positive, "", se)


def test_macro_average_by_hand():
    found = macro_average([task(0.6, 0.03), task(0.8, 0.04, n=70)], scale="linear")
    assert (found.value, found.n, found.n_positive, found.reason) == (pytest.approx(0.7), 120, 40, "")
    assert found.se == pytest.approx(0.025)
    np.testing.assert_allclose((found.lower, found.upper), (0.7 - 1.959964 * 0.025, 0.7 + 1.959964 * 0.025), atol=1e-7)
    logit = macro_average([task(0.6, 0.03), task(0.8, 0.04)])
    centre = (np.log(logit.lower / (1 - logit.lower)) + np.log(logit.upper / (1 - logit.upper))) / 2
    assert centre == pytest.approx(np.log(0.7 / 0.3))


def test_macro_average_says_what_is_missing():
    part = macro_average([task(0.6, 0.03), task(np.nan, np.nan)])
    assert part.value == 0.6 and part.reason == "1 of 2 tasks have no value and were left out"
    bare = macro_average([task(0.6, 0.03), task(0.7, np.nan)])
    assert bare.value == pytest.approx(0.65) and np.isnan(bare.lower)
    assert bare.reason == "1 of 2 tasks have no standard error: no interval"
    assert macro_average([]).reason == "no tasks" and np.isnan(macro_average([]).value)
    assert np.isnan(macro_average([task(np.nan, np.nan)]).value)
    top = macro_average([task(1.0, 0.02), task(1.0, 0.02)])
    assert (top.value, top.upper) == (1, 1) and top.lower == pytest.approx(1 - 1.959964 * 0.02 / np.sqrt(2))
    assert macro_average([task(-0.2, 0.1, n_positive=None)], scale="linear").n_positive is None
    with pytest.raises(ValueError, match=r"value is -0\.2, outside \[0, 1\]; use scale='linear'"):
        macro_average([task(-0.2, 0.1)])
