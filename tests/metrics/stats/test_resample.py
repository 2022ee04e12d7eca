from functools import partial

import numpy as np
import pytest
from scipy.stats import norm

from metrics.stats import (
    aurc,
    auroc,
    bootstrap_difference,
    bootstrap_interval,
    delong_interval,
    delong_test,
    resampled_aurc,
    resampled_auroc,
    resampled_prr,
)
from metrics.stats import resample as module
from metrics.stats.resample import resample_counts


def draw(rng, n=100, share=0.4, shift=1.0):
    label = rng.random(n) < share
    return rng.normal(size=n) + shift * label, label


def mean_target(_score, target, counts):
    return (counts * target).sum(axis=1) / counts.sum(axis=1)


def test_every_resample_has_the_size_of_the_data():
    rng = np.random.default_rng(0)
    strata = np.array([0] * 7 + [1] * 3 + [2])
    rows = np.concatenate(list(resample_counts(rng, 500, strata, np.arange(11))))
    assert rows.shape == (500, 11)
    for code, size in enumerate((7, 3, 1)):
        assert (rows[:, strata == code].sum(axis=1) == size).all()
    # mean 1, and the variance 1 - 1/size of a multinomial count
    np.testing.assert_allclose(rows[:, :7].mean(axis=0), 1, atol=0.2)
    assert rows[:, :7].var() == pytest.approx(1 - 1 / 7, abs=0.08)


def test_groups_are_drawn_whole():
    rng = np.random.default_rng(1)
    group = np.array([0, 1, 0, 2, 1, 2, 2])
    rows = np.concatenate(list(resample_counts(rng, 300, np.zeros(7, int), group)))
    assert (rows[:, 0] == rows[:, 2]).all() and (rows[:, 3] == rows[:, 6]).all()
    assert (rows[:, 0] + rows[:, 1] + rows[:, 3] == 3).all()
    assert len(np.unique(rows.sum(axis=1))) > 1


def test_chunks_change_nothing_but_memory(monkeypatch):
    score, label = draw(np.random.default_rng(2))
    whole = bootstrap_interval(resampled_auroc, score, label, seed=3, replicates=400)
    sizes = []

    def spy(score, target, counts):
        sizes.append(counts.size)
        return resampled_auroc(score, target, counts)

    monkeypatch.setattr(module, "CHUNK", 1000)
    parts = bootstrap_interval(spy, score, label, seed=3, replicates=400)
    assert max(sizes) <= 1000 and sum(sizes[1:]) == 400 * 100
    assert parts == whole


def test_seed_decides():
    score, label = draw(np.random.default_rng(4))
    one, again, other = (bootstrap_interval(resampled_auroc, score, label, seed=s) for s in (5, 5, 6))
    assert one == again and one.lower != other.lower


def test_interval_is_the_quantiles_of_a_slow_loop():
    rng = np.random.default_rng(7)
    score, label = draw(rng, n=60)
    score = np.round(score, 1)
    values = []
    while len(values) < 3000:
        index = rng.integers(0, 60, 60)
        if 0 < label[index].sum() < 60:
            values.append(auroc(score[index], label[index]).value)
    found = bootstrap_interval(resampled_auroc, score, label, seed=8, replicates=3000)
    np.testing.assert_allclose((found.lower, found.upper), np.quantile(values, [0.025, 0.975]), atol=0.015)
    assert found.se == pytest.approx(np.std(values), rel=0.06)
    assert found.value == auroc(score, label).value


def test_agrees_with_delong_on_many_items():
    score, label = draw(np.random.default_rng(9), n=1500)
    found = bootstrap_interval(resampled_auroc, score, label, seed=0, replicates=1000, strata=label)
    exact = delong_interval(score, label)
    assert found.se == pytest.approx(exact.se, rel=0.08)
    np.testing.assert_allclose((found.lower, found.upper), (exact.lower, exact.upper), atol=0.005)


def test_difference_agrees_with_delong_and_uses_the_same_resamples():
    rng = np.random.default_rng(10)
    first, label = draw(rng, n=800)
    second = first + 0.5 * rng.normal(size=800)
    found = bootstrap_difference(resampled_auroc, first, second, label, seed=1, strata=label, replicates=1000)
    exact = delong_test(first, second, label).difference
    assert found.value == pytest.approx(exact.value, abs=1e-12) and found.se == pytest.approx(exact.se, rel=0.1)
    alone = bootstrap_interval(resampled_auroc, first, label, seed=1, strata=label, replicates=1000)
    assert found.se < 0.8 * alone.se  # unpaired, it would be about 1.4 times as large
    same = bootstrap_difference(resampled_auroc, first, first, label, seed=1, replicates=50)
    assert (same.value, same.lower, same.upper) == (0, 0, 0) and "the interval has no width" in same.reason


def test_clusters_widen_the_interval_by_the_design_effect():
    """Ten copies of each of 80 items: the interval of 80 items, not of 800."""
    rng = np.random.default_rng(11)
    score, label = draw(rng, n=80)
    copies, group = np.repeat(np.stack([score, label]), 10, axis=1), np.repeat(np.arange(80) * 3 - 7, 10)
    clustered = bootstrap_interval(resampled_auroc, copies[0], copies[1], seed=2, group=group)
    naive = bootstrap_interval(resampled_auroc, copies[0], copies[1], seed=2)
    honest = bootstrap_interval(resampled_auroc, score, label, seed=2)
    assert clustered.se == pytest.approx(honest.se, rel=0.01)
    assert naive.se == pytest.approx(honest.se / np.sqrt(10), rel=0.1)


def test_stratified_sizes_are_fixed():
    label = np.arange(50) < 10
    free = bootstrap_interval(mean_target, np.arange(50), label, seed=0)
    fixed = bootstrap_interval(mean_target, np.arange(50), label, seed=0, strata=np.where(label, "yes", "no"))
    assert free.se == pytest.approx(np.sqrt(0.2 * 0.8 / 50), rel=0.06)
    assert (fixed.lower, fixed.upper) == (0.2, 0.2) and fixed.se < 1e-15


@pytest.mark.parametrize("stratified", [False, True])
def test_coverage(stratified):
    rng = np.random.default_rng(12)
    truth = norm.cdf(1 / np.sqrt(2))
    runs, covered = 300, 0
    for run in range(runs):
        score, label = draw(rng, n=120)
        strata = label if stratified else None
        found = bootstrap_interval(resampled_auroc, score, label, seed=run, replicates=300, strata=strata)
        covered += found.lower <= truth <= found.upper
    assert 0.90 < covered / runs < 0.985


def test_graded_loss_and_options():
    rng = np.random.default_rng(13)
    loss = rng.random(80)
    score = loss + rng.normal(size=80)
    found = bootstrap_interval(resampled_aurc, score, loss, seed=0, replicates=500)
    assert found.value == aurc(score, loss).value and found.lower < found.value < found.upper
    half = bootstrap_interval(partial(resampled_prr, max_rejection=0.5), score, loss, seed=0, replicates=500)
    assert half.lower < half.value < half.upper <= 1 and half.value != found.value


def test_left_out_items_take_strata_and_groups_with_them():
    score, label = draw(np.random.default_rng(14), n=60)
    score[:5] = np.nan
    group = np.arange(60) // 2
    found = bootstrap_interval(resampled_auroc, score, label, seed=0, group=group, replicates=100)
    clean = bootstrap_interval(resampled_auroc, score[5:], label[5:], seed=0, group=group[5:], replicates=100)
    assert found.reason == "5 of 60 scores are NaN and were left out"
    assert (found.lower, found.upper, found.n) == (clean.lower, clean.upper, 55)
    stratified = bootstrap_interval(resampled_auroc, score, label, seed=0, strata=label, replicates=100)
    assert np.isfinite(stratified.lower) and stratified.n == 55


def test_resamples_without_a_value_are_counted():
    label = np.arange(20) == 3
    found = bootstrap_interval(resampled_auroc, np.arange(20) % 7, label, seed=0, replicates=1000)
    count = int(found.reason.split(" of 1000 resamples have no value")[0].split()[-1])
    assert count / 1000 == pytest.approx((1 - 1 / 20) ** 20, abs=0.05)
    assert found.lower < found.upper


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
    found = bootstrap_interval(resampled_auroc, score, label, seed=0)
    assert np.isnan([found.value, found.lower, found.upper]).all() and found.reason == reason
    assert np.isnan(bootstrap_difference(resampled_auroc, score, score, label, seed=0).value)


def test_degenerate_scores():
    label = np.arange(20) < 8
    tied = bootstrap_interval(resampled_auroc, np.zeros(20), label, seed=0, replicates=50, strata=label)
    assert (tied.lower, tied.value, tied.upper) == (0.5, 0.5, 0.5) and "no width" in tied.reason
    perfect = bootstrap_interval(resampled_auroc, np.where(label, np.inf, -np.inf), label, seed=0, strata=label)
    assert perfect.value == perfect.lower == 1 and "no width" in perfect.reason
    few = bootstrap_interval(resampled_auroc, np.arange(20) % 5, label, seed=0, group=np.arange(20) // 5)
    assert "only 4 groups: the interval is not reliable" in few.reason


def test_wrong_input_is_refused():
    with pytest.raises(ValueError, match="1 groups span two strata"):
        bootstrap_interval(resampled_auroc, [1, 2, 3], [0, 1, 1], seed=0, strata=[0, 1, 1], group=[0, 0, 1])
    with pytest.raises(ValueError, match=r"group has shape \(2,\) where \(3,\) is expected"):
        bootstrap_interval(resampled_auroc, [1, 2, 3], [0, 1, 1], seed=0, group=[0, 0])
    with pytest.raises(ValueError, match="replicates is 0"):
        bootstrap_interval(resampled_auroc, [1, 2], [0, 1], seed=0, replicates=0)
    with pytest.raises(ValueError, match="second has 1 items where 2 are expected"):
        bootstrap_difference(resampled_auroc, [1, 2], [1], [0, 1], seed=0)
    with pytest.raises(ValueError, match=r"label holds 0\.5"):
        bootstrap_interval(resampled_auroc, [1, 2, 3], [0, 0.5, 1], seed=0)
