import numpy as np
import pytest
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss
from sklearn.metrics import log_loss as sklearn_log_loss

from metrics.stats import (
    brier,
    brier_parts,
    calibrated_errors,
    calibration_error,
    log_loss,
    reliability_curve,
    resampled_brier,
)
from metrics.stats.calibration import bin_of


def draw(seed, n=200, digits=None):
    rng = np.random.default_rng(seed)
    p = rng.beta(2, 4, n)
    p = p if digits is None else np.round(p, digits)
    return p, rng.random(n) < p**1.5


def point(p, y, **options):
    return calibration_error(p, y, replicates=0, **options).value


def slow_ece(p, y, bins):
    """Bins (k/bins, (k+1)/bins], the first closed at 0, item by item."""
    total = 0.0
    for k in range(bins):
        inside = [i for i in range(len(p)) if (k / bins < p[i] or k == 0) and p[i] <= (k + 1) / bins]
        if inside:
            total += len(inside) / len(p) * abs(np.mean([p[i] for i in inside]) - np.mean([y[i] for i in inside]))
    return total


def slow_adaptive_ece(p, y, bins):
    """Each item in the bin of its mean rank among its ties, item by item."""
    groups = {}
    for i in range(len(p)):
        less, equal = sum(q < p[i] for q in p), sum(q == p[i] for q in p)
        groups.setdefault(int(bins * (2 * less + equal)) // (2 * len(p)), []).append(i)
    return sum(abs(sum(p[i] - y[i] for i in g)) for g in groups.values()) / len(p)


@pytest.mark.parametrize("digits", [None, 2, 1])
@pytest.mark.parametrize("bins", [1, 7, 10])
def test_both_errors_equal_slow_loops(bins, digits):
    p, y = draw(bins, 60, digits)
    assert point(p, y, bins=bins) == pytest.approx(slow_ece(p, y, bins), abs=1e-12)
    assert point(p, y, bins=bins, by="mass") == pytest.approx(slow_adaptive_ece(p, y, bins), abs=1e-12)


def test_by_hand_with_ties_and_edges():
    p, y = [0.0, 0.5, 0.5, 1.0], [0, 1, 0, 1]
    assert point(p, y, bins=2) == pytest.approx(0.0)  # (0 + .5 + .5) / 3 against 1/3, and 1 against 1
    assert point([0.2, 0.2, 0.9], [0, 1, 1], bins=2) == pytest.approx(2 / 3 * 0.3 + 1 / 3 * 0.1)
    assert list(bin_of(np.array([0.0, 0.5, 0.5000001, 1.0]), 2, "width")) == [0, 0, 1, 1]
    assert list(bin_of(np.array([0.3, 0.1, 0.3, 0.3, 0.9]), 5, "mass")) == [2, 0, 2, 2, 4]


def test_without_ties_bins_of_equal_mass_are_equal():
    for n, bins in ((30, 10), (31, 10), (8, 15)):
        sizes = np.bincount(bin_of(np.random.default_rng(0).permutation(n) / n, bins, "mass"), minlength=bins)
        assert sizes.sum() == n and sizes.max() - sizes.min() <= 1


@pytest.mark.parametrize("by", ["width", "mass"])
def test_order_of_the_items_does_not_matter(by):
    p, y = draw(3, 80, digits=1)
    order = np.random.default_rng(1).permutation(80)
    assert point(p[order], y[order], by=by) == pytest.approx(point(p, y, by=by), abs=1e-14)


def test_agrees_with_the_curve_of_scikit_learn():
    p, y = draw(4, 500)
    observed, predicted = calibration_curve(y, p, n_bins=10, strategy="uniform")
    ours = reliability_curve(p, y, bins=10, by="width")
    assert ours.observed == pytest.approx(observed) and ours.predicted == pytest.approx(predicted)
    assert ours.count @ np.abs(ours.observed - ours.predicted) / 500 == pytest.approx(point(p, y, bins=10))
    assert ours.count.sum() == 500 and (ours.lower <= ours.observed).all() and (ours.observed <= ours.upper).all()


def test_brier_and_log_loss_agree_with_scikit_learn():
    p, y = draw(5)
    assert brier(p, y).value == pytest.approx(brier_score_loss(y, p))
    assert log_loss(p, y).value == pytest.approx(sklearn_log_loss(y, p))
    counts = np.array([np.ones(200), np.arange(200) % 3])
    kept = np.repeat(np.arange(200), np.arange(200) % 3)
    assert resampled_brier(p, y, counts) == pytest.approx([brier(p, y).value, brier(p[kept], y[kept]).value])


def test_certain_predictions():
    assert log_loss([0.0, 1.0], [0, 1]).value == 0 and log_loss([0.0, 1.0], [1, 1]).value == np.inf
    assert brier([0.0, 1.0], [1, 1]).value == 0.5


@pytest.mark.parametrize(("digits", "bins"), [(1, None), (None, None), (None, 5), (1, 4), (None, 500)])
def test_parts_add_up_to_the_brier_score(digits, bins):
    p, y = draw(6, 150, digits)
    parts = brier_parts(p, y, bins=bins)
    whole = parts.reliability - parts.resolution + parts.uncertainty + parts.within
    assert whole == pytest.approx(brier(p, y).value, abs=1e-12)
    assert bins == 5 or bins == 4 or parts.within == pytest.approx(0, abs=1e-12)


def test_parts_by_hand():
    parts = brier_parts([0.2, 0.2, 0.8, 0.8], [0, 1, 1, 1])
    assert parts.reliability == pytest.approx((0.3**2 + 0.2**2) / 2)
    assert parts.resolution == pytest.approx(0.25**2)
    assert parts.uncertainty == pytest.approx(0.75 * 0.25)


def test_what_a_calibrated_predictor_shows_has_a_closed_form_in_one_bin():
    errors = calibrated_errors(np.full(400, 0.3), bins=1, seed=0, replicates=4000)
    expected = np.sqrt(2 / np.pi * 0.3 * 0.7 / 400)  # mean of |normal|, for a binomial share
    assert errors.mean() == pytest.approx(expected, rel=0.05)
    assert (
        len(errors) == 4000 and (errors == calibrated_errors(np.full(400, 0.3), bins=1, seed=0, replicates=4000)).all()
    )


@pytest.mark.parametrize("by", ["width", "mass"])
def test_interval_covers_the_truth_also_where_it_is_zero(by):
    rng = np.random.default_rng(7)
    runs, hits, estimates = 120, 0, []
    for seed in range(runs):
        p = rng.random(300)
        found = calibration_error(p, rng.random(300) < p, by=by, seed=seed, replicates=200)
        hits += found.lower <= 0
        estimates.append(found.value)
        assert found.lower <= found.value <= found.upper
    assert np.mean(estimates) > 0.04  # the bias that the interval has to forgive
    assert hits / runs > 0.95 - 3 * np.sqrt(0.95 * 0.05 / runs)


def test_interval_covers_a_known_error():
    """Predictions of one value, wrong by .2: the ECE is .2 whatever the bins."""
    rng = np.random.default_rng(8)
    hits = 0
    for seed in range(120):
        found = calibration_error(np.full(200, 0.5), rng.random(200) < 0.3, seed=seed, replicates=200)
        hits += found.lower <= 0.2 <= found.upper
    assert hits / 120 > 0.95 - 3 * np.sqrt(0.95 * 0.05 / 120)


def test_nan_and_nothing_and_nonsense():
    p, y = draw(9, 40)
    gaps = np.where(np.arange(40) < 4, np.nan, p)
    assert calibration_error(gaps, y).value == calibration_error(p[4:], y[4:]).value
    assert "4 of 40 predictions are NaN and were left out" in calibration_error(gaps, y).reason
    for statistic in (calibration_error, brier, log_loss):
        assert np.isnan(statistic([], []).value) and statistic([], []).reason == "no items"
    assert np.isnan(brier_parts([np.nan], [1]).reliability)
    assert np.isnan(calibrated_errors([], seed=0, replicates=3)).all()
    assert len(reliability_curve([], []).count) == 0
    for bad in (-0.1, 1.1):
        with pytest.raises(ValueError, match=f"probability holds {bad}"):
            brier([bad], [1])
    with pytest.raises(ValueError, match="bins is 0"):
        calibration_error(p, y, bins=0)


def test_one_item_and_one_class():
    assert point([0.3], [1]) == pytest.approx(0.7) and point([0.3], [1], by="mass") == pytest.approx(0.7)
    assert brier_parts([0.3, 0.4], [1, 1]).uncertainty == 0
