import numpy as np
import pytest

from metrics.stats import roc_band, roc_curve

RATES = np.array([0.0, 0.1, 0.25, 0.5, 0.9, 1.0])


def slow_height(positive, negative, rate):
    """The curve's height at a rate, from every threshold, straight between points, the upper end of a vertical rise."""
    points = [(0.0, 0.0)]
    for threshold in sorted({*positive, *negative}, reverse=True):
        points.append((np.mean(negative >= threshold), np.mean(positive >= threshold)))
    at = [y for x, y in points if np.isclose(x, rate)]
    if at:
        return max(at)
    (x0, y0), (x1, y1) = max(p for p in points if p[0] < rate), min(p for p in points if p[0] > rate)
    return y0 + (rate - x0) / (x1 - x0) * (y1 - y0)


@pytest.mark.parametrize("decimals", [6, 0])
def test_the_band_is_what_slow_resampling_gives(decimals):
    rng = np.random.default_rng(1)
    label = np.arange(40) % 3 == 0
    score = np.round(rng.normal(size=40) + label, decimals)
    low, high = roc_band(score, label, RATES, seed=5, replicates=2000)
    positive, negative = score[label], score[~label]
    draws = [(rng.choice(positive, len(positive)), rng.choice(negative, len(negative))) for _ in range(600)]
    heights = np.array([[slow_height(p, n, rate) for rate in RATES] for p, n in draws])
    assert np.abs(low - np.quantile(heights, 0.025, axis=0)).max() < 0.1
    assert np.abs(high - np.quantile(heights, 0.975, axis=0)).max() < 0.1


def test_the_curve_of_a_tied_score_is_the_diagonal_in_every_resample():
    low, high = roc_band(np.ones(30), np.arange(30) < 10, RATES, seed=0)
    assert np.allclose(low, RATES) and np.allclose(high, RATES)


def test_a_perfect_score_has_no_width():
    low, high = roc_band(np.arange(20), np.arange(20) >= 10, RATES, seed=0)
    assert (low == 1).all() and (high == 1).all()


def test_nan_scores_are_left_out_and_the_curve_lies_in_its_band():
    rng = np.random.default_rng(0)
    label = rng.random(200) < 0.4
    score = rng.normal(size=200) + label
    gaps = np.concatenate([score, [np.nan] * 5])
    long = np.concatenate([label, [True] * 5])
    band = roc_band(gaps, long, RATES, seed=3)
    assert np.array_equal(band, roc_band(score, label, RATES, seed=3))
    assert not np.array_equal(band, roc_band(score, label, RATES, seed=4))
    curve = roc_curve(score, label)
    height = np.interp(RATES, curve.false_positive_rate, curve.true_positive_rate)
    assert (band[0] <= height).all() and (height <= band[1]).all()


@pytest.mark.parametrize("label", [np.zeros(5, bool), np.ones(5, bool)])
def test_without_both_classes_there_is_no_band(label):
    assert np.isnan(roc_band(np.arange(5.0), label, RATES, seed=0)).all()


def test_one_item_a_class():
    low, high = roc_band([0.0, 1.0], [False, True], RATES, seed=0)
    assert (low == 1).all() and (high == 1).all()


def test_what_is_refused():
    with pytest.raises(ValueError, match="outside"):
        roc_band([0.0, 1.0], [False, True], [1.5], seed=0)
    with pytest.raises(ValueError, match="replicates is 0"):
        roc_band([0.0, 1.0], [False, True], RATES, seed=0, replicates=0)
