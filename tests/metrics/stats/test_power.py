import numpy as np
import pytest
from scipy.stats import norm

from metrics.stats import (
    delong_interval,
    delong_test,
    hanley_mcneil_variance,
    smallest_detectable_auroc,
    smallest_detectable_difference,
)


def test_variance_by_hand():
    # A = 3/4: Q1 = 3/5, Q2 = 9/14, A² = 9/16; m = 2, n = 3
    expected = (3 / 16 + (3 / 5 - 9 / 16) + 2 * (9 / 14 - 9 / 16)) / 6
    assert hanley_mcneil_variance(0.75, 2, 3) == pytest.approx(expected, rel=1e-13)


@pytest.mark.parametrize(("m", "n"), [(1, 1), (5, 40), (300, 20)])
def test_null_variance_is_that_of_the_rank_sum(m, n):
    assert hanley_mcneil_variance(0.5, m, n) == pytest.approx((m + n + 1) / (12 * m * n), rel=1e-12)
    assert hanley_mcneil_variance(1, m, n) == hanley_mcneil_variance(0, m, n) == 0


def test_variance_is_exact_for_exponential_scores():
    rng = np.random.default_rng(0)
    m, n, ratio = 12, 20, 3.0  # AUROC = ratio / (1 + ratio)
    x, y = ratio * rng.exponential(size=(20000, m, 1)), rng.exponential(size=(20000, 1, n))
    values = (x > y).mean(axis=(1, 2))
    assert values.mean() == pytest.approx(0.75, abs=0.003)
    assert values.var() == pytest.approx(hanley_mcneil_variance(0.75, m, n), rel=0.03)


def test_solution_satisfies_its_equation():
    found = smallest_detectable_auroc(30, 90)
    sd0, sd1 = (np.sqrt(hanley_mcneil_variance(a, 30, 90)) for a in (0.5, found.auroc))
    assert found.gap == pytest.approx(norm.ppf(0.975) * sd0 + norm.ppf(0.8) * sd1, abs=1e-10)
    assert found.auroc == found.baseline + found.gap and found.reason == ""
    paired = smallest_detectable_difference(0.7, 30, 90, correlation=0.6, power=0.9)
    v1, v2 = (hanley_mcneil_variance(a, 30, 90) for a in (0.7, paired.auroc))
    expected = norm.ppf(0.975) * np.sqrt(2 * v1 * 0.4) + norm.ppf(0.9) * np.sqrt(v1 + v2 - 1.2 * np.sqrt(v1 * v2))
    assert paired.gap == pytest.approx(expected, abs=1e-10)


def test_gap_shrinks_with_data_correlation_and_lower_power():
    gaps = [smallest_detectable_auroc(n, 3 * n).gap for n in (10, 20, 40, 1000)]
    assert gaps == sorted(gaps, reverse=True)
    gaps = [smallest_detectable_difference(0.7, 50, 100, correlation=r).gap for r in (0, 0.3, 0.6, 0.9)]
    assert gaps == sorted(gaps, reverse=True)
    assert smallest_detectable_auroc(40, 60, power=0.9).gap > smallest_detectable_auroc(40, 60, power=0.5).gap
    assert smallest_detectable_auroc(40, 60) != smallest_detectable_auroc(60, 40)


def test_a_test_at_the_promised_auroc_has_the_promised_power():
    rng = np.random.default_rng(1)
    m, n = 60, 120
    target = smallest_detectable_auroc(m, n).auroc
    label = np.arange(m + n) < m
    shift = np.sqrt(2) * norm.ppf(target)
    found = [delong_interval(rng.normal(size=m + n) + shift * label, label).lower > 0.5 for _ in range(1000)]
    assert np.mean(found) == pytest.approx(0.8, abs=0.05)


def test_paired_power_is_as_promised():
    rng = np.random.default_rng(2)
    m, n, rho = 100, 150, 0.5
    label = np.arange(m + n) < m
    # the correlation of two AUROC estimates is near that of the scores, a little below
    scores_rho = 0.55
    base = 0.7

    def simulate(second):
        shifts = np.sqrt(2) * norm.ppf([base, second])
        noise = rng.multivariate_normal([0, 0], [[1, scores_rho], [scores_rho, 1]], size=m + n)
        return delong_test(*(noise + shifts * label[:, None]).T, label)

    rho = np.mean([simulate(base + 0.08).correlation for _ in range(60)])
    target = smallest_detectable_difference(base, m, n, correlation=rho)
    p = [simulate(target.auroc).p for _ in range(700)]
    assert np.mean(np.array(p) < 0.05) == pytest.approx(0.8, abs=0.06)


def test_undetectable_and_empty_are_stated():
    tiny = smallest_detectable_auroc(1, 2)
    assert np.isnan(tiny.gap) and "no AUROC above 0.5 is detectable at this n" in tiny.reason
    assert "only 1 positive: the approximation is not reliable" in tiny.reason
    high = smallest_detectable_difference(0.97, 10, 10)
    assert np.isnan(high.auroc) and high.reason == "no AUROC above 0.97 is detectable at this n"
    assert smallest_detectable_auroc(0, 25).reason == "one class only: 0 positive of 25"
    assert smallest_detectable_auroc(0, 0).reason == "no items"
    assert np.isnan(smallest_detectable_difference(1.0, 50, 50).gap)
    twins = smallest_detectable_difference(0.7, 50, 50, correlation=1.0)
    assert 0 <= twins.gap < 0.01 or twins.reason


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: hanley_mcneil_variance(1.2, 5, 5), "auroc is 1.2; give a number between 0 and 1"),
        (lambda: hanley_mcneil_variance(0.7, 0, 5), "the classes have 0 and 5 items; give at least 1"),
        (lambda: smallest_detectable_auroc(5, -1), "the classes have 5 and -1 items"),
        (lambda: smallest_detectable_auroc(5, 5, alpha=5), "alpha is 5"),
        (lambda: smallest_detectable_auroc(5, 5, power=80), "power is 80"),
        (lambda: smallest_detectable_difference(0.7, 5, 5, correlation=2), "correlation is 2"),
        (lambda: smallest_detectable_difference(7, 5, 5), "auroc is 7"),
    ],
)
def test_wrong_input_is_refused(call, match):
    with pytest.raises(ValueError, match=match):
        call()
