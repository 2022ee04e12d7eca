"""Cohen's kappa against a hand value, scikit-learn, and a numerical delta method."""

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from metrics.stats import cohen_kappa


def kappa_of(p):
    """Of shares (both, first only, second only, neither) that need not sum to one."""
    p = np.asarray(p, dtype=float) / np.sum(p)
    observed = p[0] + p[3]
    first, second = p[0] + p[1], p[0] + p[2]
    expected = first * second + (1 - first) * (1 - second)
    return (observed - expected) / (1 - expected)


def test_by_hand():
    # 20 yes-yes, 5 and 10 apart, 15 no-no: p_o = .7, p_e = .5 * .6 + .5 * .4 = .5
    found = cohen_kappa(20, 5, 10, 15)
    assert found.value == pytest.approx(0.4)
    assert (found.n, found.n_positive, found.reason) == (50, 15, "")


@pytest.mark.parametrize("counts", [(20, 5, 10, 15), (3, 4, 9, 1), (90, 1, 2, 7), (0, 6, 7, 0), (12, 0, 3, 0)])
def test_against_scikit_learn_and_the_delta_method(counts):
    first = np.repeat([1, 1, 0, 0], counts)
    second = np.repeat([1, 0, 1, 0], counts)
    found = cohen_kappa(*counts)
    assert found.value == pytest.approx(cohen_kappa_score(first, second), abs=1e-12)
    n, p, step = sum(counts), np.array(counts) / sum(counts), 1e-6
    slopes = np.array([(kappa_of(p + step * e) - kappa_of(p - step * e)) / (2 * step) for e in np.eye(4)])
    variance = (p @ slopes**2 - (p @ slopes) ** 2) / n  # of a multinomial
    if not np.isnan(found.se):
        assert found.se == pytest.approx(np.sqrt(variance), abs=1e-6)


def test_turning_answers_round_changes_nothing():
    assert cohen_kappa(20, 5, 10, 15).value == pytest.approx(cohen_kappa(15, 10, 5, 20).value)


def test_where_it_ends():
    perfect = cohen_kappa(6, 0, 0, 6)
    assert (perfect.value, np.isnan(perfect.lower)) == (1.0, True)
    assert perfect.reason == "kappa is 1: no interval"
    assert np.isnan(cohen_kappa(12, 0, 0, 0).value)
    assert cohen_kappa(12, 0, 0, 0).reason == "both raters say the same of all items"
    assert cohen_kappa(0, 0, 0, 0).reason == "no items"
    for counts in [(0, 7, 0, 5), (0, 0, 7, 5), (7, 5, 0, 0), (7, 0, 5, 0)]:
        constant = cohen_kappa(*counts)
        assert (constant.value, np.isnan(constant.lower), np.isnan(constant.upper)) == (0.0, True, True)
        assert not np.signbit(constant.value)
        assert constant.reason == "one rater says the same of all items, which makes kappa 0: no interval"
    assert "below 10" in cohen_kappa(2, 1, 1, 1).reason
    assert cohen_kappa(1, 9, 9, 1).lower >= -1
    with pytest.raises(ValueError, match="none may be negative"):
        cohen_kappa(1, -1, 0, 0)


def test_coverage():
    rng = np.random.default_rng(0)
    truth = np.array([0.4, 0.1, 0.15, 0.35])
    inside = 0
    for counts in rng.multinomial(150, truth, size=500):
        found = cohen_kappa(*map(int, counts))
        inside += found.lower <= kappa_of(truth) <= found.upper
    assert 0.92 < inside / 500 < 0.98
