import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from metrics.stats import (
    augrc,
    aurac,
    aurc,
    eaurc,
    prr,
    resampled_augrc,
    resampled_aurac,
    resampled_aurc,
    resampled_eaurc,
    resampled_prr,
    risk_coverage,
)

quick = settings(max_examples=60, deadline=None, database=None, derandomize=True)
graded = st.lists(st.tuples(st.integers(-2, 2), st.floats(0, 1, width=16)), min_size=2, max_size=25)


def risks(score, loss):
    """R_k for k = 1..n in the order given by a stable sort: no ties, no expectation."""
    order = np.argsort(score, kind="stable")
    return [np.mean(np.asarray(loss, float)[order[:k]]) for k in range(1, len(order) + 1)]


def slow_aurc(score, loss):
    return float(np.mean(risks(score, loss)))


def rejection_area(uncertainty, quality, max_rejection):
    """Area under the quality curve as lm-polygraph defines it: mean quality after rejecting 0, 1, 2... items."""
    quality = np.asarray(quality, float)[np.argsort(uncertainty, kind="stable")]
    rejected = int(max_rejection * len(quality))
    return sum(quality[: len(quality) - i].mean() for i in range(rejected)) / rejected


def slow_prr(score, loss, max_rejection, rng, shuffles=4000):
    """Score against random and oracle rejection, random by shuffling."""
    quality = 1 - np.asarray(loss, float)
    n = len(quality)
    random = np.mean([rejection_area(rng.permutation(n), quality, max_rejection) for _ in range(shuffles)])
    oracle = rejection_area(-quality, quality, max_rejection)
    return (rejection_area(score, quality, max_rejection) - random) / (oracle - random)


def distinct(seed, n=60):
    rng = np.random.default_rng(seed)
    loss = rng.random(n) < 0.35
    return rng.normal(size=n) + loss, loss


def tied(seed, n=14):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 4, n), np.round(rng.random(n), 2)


def test_by_hand():
    score, loss = [1, 2, 3, 4], [0, 1, 0, 1]
    # R_k: 0, 1/2, 1/3, 1/2; oracle: 0, 0, 1/3, 1/2
    curve = risk_coverage(score, loss)
    np.testing.assert_allclose(curve.risk, [0, 1 / 2, 1 / 3, 1 / 2], atol=1e-15)
    np.testing.assert_allclose(curve.coverage, [0.25, 0.5, 0.75, 1])
    assert aurc(score, loss).value == pytest.approx((0 + 1 / 2 + 1 / 3 + 1 / 2) / 4)
    assert eaurc(score, loss).value == pytest.approx((1 / 2) / 4)
    assert aurac(score, loss).value == pytest.approx(1 - 4 / 12)
    # generalised risks 0, 0, 1/4, 1/4, 2/4 at coverages 0, 1/4, ..., 1, by trapezoids
    assert augrc(score, loss).value == pytest.approx(np.trapezoid([0, 0, 0.25, 0.25, 0.5], dx=0.25))
    assert prr(score, loss).value == pytest.approx((1 / 2 - 4 / 12) / (1 / 2 - 5 / 24))
    # half: only k = 3 and 4
    assert prr([1, 3, 2, 4], [0, 0, 1, 1], max_rejection=0.5).value == pytest.approx(1.0)
    assert prr([4, 3, 2, 1], [0, 0, 0, 1], max_rejection=0.5).value == pytest.approx((1 / 4 - 7 / 24) / (1 / 4 - 1 / 8))
    assert aurac(score, loss, max_rejection=0.5).value == pytest.approx(1 - (1 / 3 + 1 / 2) / 2)


@pytest.mark.parametrize("seed", range(4))
def test_without_ties_equal_slow_loops(seed):
    score, loss = distinct(seed)
    assert aurc(score, loss).value == pytest.approx(slow_aurc(score, loss), abs=1e-13)
    assert eaurc(score, loss).value == pytest.approx(slow_aurc(score, loss) - slow_aurc(loss, loss), abs=1e-13)
    np.testing.assert_allclose(risk_coverage(score, loss).risk, risks(score, loss), atol=1e-13)


def test_oracle_area_approaches_its_limit():
    n, r = 200_000, 0.3
    loss = np.arange(n) < r * n
    score = np.random.default_rng(0).normal(size=n)
    oracle = aurc(score, loss).value - eaurc(score, loss).value
    assert oracle == pytest.approx(r + (1 - r) * np.log(1 - r), abs=1e-5)


@pytest.mark.parametrize("statistic", [aurc, augrc, eaurc, aurac, prr])
@pytest.mark.parametrize("seed", range(2))
def test_ties_are_the_expectation_over_their_orders(statistic, seed):
    score, loss = tied(seed)
    rng = np.random.default_rng(100 + seed)
    values = [statistic(score + 1e-3 * rng.permutation(len(score)), loss).value for _ in range(3000)]
    error = np.std(values) / np.sqrt(len(values))
    assert error > 0
    assert statistic(score, loss).value == pytest.approx(np.mean(values), abs=4 * error)


def test_tied_curve_is_the_expectation():
    score, loss = tied(5)
    rng = np.random.default_rng(1)
    curves = [risks(score + 1e-3 * rng.permutation(len(score)), loss) for _ in range(3000)]
    error = np.std(curves, axis=0) / np.sqrt(3000)
    difference = np.abs(risk_coverage(score, loss).risk - np.mean(curves, axis=0))
    assert (difference <= 4 * error + 1e-12).all()


@quick
@given(graded)
def test_curve_gives_the_area(items):
    score, loss = zip(*items)
    curve = risk_coverage(score, loss)
    assert aurc(score, loss).value == pytest.approx(curve.risk.mean(), abs=1e-12)
    silent = np.concatenate(([0.0], curve.risk * curve.coverage))
    assert augrc(score, loss).value == pytest.approx(np.trapezoid(silent, dx=1 / len(loss)), abs=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_augrc_has_the_papers_closed_form(seed):
    rng = np.random.default_rng(seed)
    loss = rng.random(80) < 0.4
    score = np.round(rng.normal(size=80) + loss, 1)
    r = loss.mean()
    assert augrc(score, loss).value == pytest.approx(
        (1 - roc_auc_score(loss, score)) * r * (1 - r) + r**2 / 2, abs=1e-14
    )


@pytest.mark.parametrize("max_rejection", [1.0, 0.5, 0.3])
def test_prr_equals_lm_polygraphs_definition(max_rejection):
    rng = np.random.default_rng(4)
    loss = np.round(rng.beta(0.5, 0.5, 40), 3)
    score = loss + rng.normal(size=40)
    expected = slow_prr(score, loss, max_rejection, rng)
    found = prr(score, loss, max_rejection=max_rejection).value
    assert found == pytest.approx(expected, abs=0.01) and 0.1 < found < 0.9


@quick
@given(graded, st.sampled_from([0.5, 0.9, 1.0]))
def test_prr_of_the_oracle_is_one_and_of_a_constant_is_zero(items, max_rejection):
    _, loss = map(np.array, zip(*items))
    oracle, constant = (prr(s, loss, max_rejection=max_rejection) for s in (loss, np.zeros(len(loss))))
    if np.ptp(loss) == 0 or int(max_rejection * len(loss)) < 2:
        assert np.isnan(oracle.value) and np.isnan(constant.value) and oracle.reason
    elif np.ptp(loss) > 1e-6:
        assert oracle.value == pytest.approx(1, abs=1e-6) and constant.value == pytest.approx(0, abs=1e-6)
        assert prr(-loss, loss, max_rejection=max_rejection).value < 0


@quick
@given(graded, st.permutations(range(25)))
def test_file_order_and_monotone_transforms_do_not_matter(items, permutation):
    score, loss = map(np.array, zip(*items))
    order = [i for i in permutation if i < len(items)]
    for statistic in (aurc, eaurc, augrc, aurac):
        value = statistic(score, loss).value
        assert statistic(score[order], loss[order]).value == pytest.approx(value, abs=1e-12)
        assert statistic(np.exp(3.0 * score), loss).value == pytest.approx(value, abs=1e-12)


@pytest.mark.parametrize("statistic", [aurc, augrc, eaurc, aurac, prr, risk_coverage])
def test_stated_results(statistic):
    number = "risk" if statistic is risk_coverage else "value"
    nothing = statistic([], [])
    assert nothing.reason == "no items" and (np.size(getattr(nothing, number)) == 0 or np.isnan(nothing.value))
    single = statistic([3.0], [True])
    assert single.n == 1 and "n = 1 is below 10" in single.reason
    unscored = statistic(np.full(12, np.nan), np.arange(12) < 6)
    assert unscored.n == 0 and unscored.reason == "all 12 scores are NaN"
    same = statistic(np.zeros(12), np.arange(12) < 6)
    assert same.reason == "all scores are tied"
    score, loss = distinct(1, n=50)
    score[:3] = np.nan
    left = statistic(score, loss)
    assert (left.n, left.reason) == (47, "3 of 50 scores are NaN and were left out")
    np.testing.assert_array_equal(getattr(left, number), getattr(statistic(score[3:], loss[3:]), number))
    infinite = statistic([np.inf, 1, -np.inf, np.inf], [1, 0, 0, 1])
    np.testing.assert_array_equal(getattr(infinite, number), getattr(statistic([9, 1, 0, 9], [1, 0, 0, 1]), number))


def test_one_class_and_equal_losses():
    score = np.arange(12.0)
    all_wrong, all_third = np.ones(12, bool), np.full(12, 0.3)
    assert aurc(score, all_wrong).value == 1 and aurac(score, all_wrong).value == 0
    assert aurc(score, all_third).value == pytest.approx(0.3, abs=1e-15)
    assert eaurc(score, all_third).value == pytest.approx(0, abs=1e-15)
    assert augrc(score, all_wrong).value == pytest.approx(0.5)
    for loss, text in ((all_wrong, "1"), (all_third, "0.3")):
        assert np.isnan(prr(score, loss).value)
        assert prr(score, loss).reason == f"all losses are {text}: the order cannot matter"
    assert risk_coverage(score, ~all_wrong).risk.tolist() == [0] * 12


def test_rounding_of_equal_losses_is_no_gain():
    """Sums of equal losses such as 0.1 leave a crumb where the oracle's gain is 0; it must not be divided by."""
    rng = np.random.default_rng(3)
    for n in (100, 1000, 3000):
        for loss in (0.1, 0.3, 0.7):
            assert np.isnan(prr(rng.normal(size=n), np.full(n, loss)).value)


def test_too_little_rejection_is_stated():
    found = prr(np.arange(12), np.arange(12) % 2, max_rejection=0.1)
    assert np.isnan(found.value) and found.reason == "max_rejection = 0.1 rejects fewer than 2 of 12 items"
    # 0.29 * 100 is 28.999... in floating point, and still means 29 items
    score, loss = distinct(2, n=100)
    assert aurac(score, loss, max_rejection=0.29).value == pytest.approx(
        1 - np.mean(risks(score, loss)[-29:]), abs=1e-13
    )


def test_wrong_input_is_refused():
    with pytest.raises(ValueError, match="loss holds nan; give a finite loss"):
        aurc([1, 2], [0, np.nan])
    with pytest.raises(ValueError, match="loss has 3 items where 2 are expected"):
        prr([1, 2], [0, 1, 1])
    for share in (0, 1.5, -1):
        with pytest.raises(ValueError, match=f"max_rejection is {share}; give a share above 0"):
            prr([1, 2], [0, 1], max_rejection=share)


@pytest.mark.parametrize(
    ("kernel", "plain"),
    [
        (resampled_aurc, aurc),
        (resampled_eaurc, eaurc),
        (resampled_augrc, augrc),
        (resampled_aurac, aurac),
        (resampled_prr, prr),
    ],
)
def test_resamples_equal_repeated_items(kernel, plain):
    score, loss = tied(8, n=20)
    counts = np.random.default_rng(0).integers(0, 4, size=(15, 20))  # rows of different totals
    counts[0] = 0
    values = kernel(score, loss, counts)
    assert np.isnan(values[0])
    expected = [plain(np.repeat(score, row), np.repeat(loss, row)).value for row in counts[1:]]
    np.testing.assert_allclose(values[1:], expected, atol=1e-12)
