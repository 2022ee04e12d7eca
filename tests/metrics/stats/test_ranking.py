import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import mannwhitneyu
from sklearn import metrics as sk

from metrics.stats import auroc, average_precision, resampled_auroc, resampled_average_precision, roc_curve

quick = settings(max_examples=80, deadline=None, database=None, derandomize=True)
pairs = st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=2, max_size=40).filter(
    lambda items: 0 < sum(label for _, label in items) < len(items)
)


def quadratic_auroc(score, label):
    wins = 0.0
    positives = [s for s, y in zip(score, label) if y]
    negatives = [s for s, y in zip(score, label) if not y]
    for x in positives:
        for y in negatives:
            wins += 1.0 if x > y else 0.5 if x == y else 0.0
    return wins / (len(positives) * len(negatives))


def draw(seed, n=200, levels=7):
    rng = np.random.default_rng(seed)
    label = rng.random(n) < 0.3
    return np.floor(levels * rng.beta(2 + label, 3)), label


def test_auroc_by_hand():
    # positives 3, 2; negatives 2, 1: three wins and one tie of four pairs
    assert auroc([3, 2, 2, 1], [True, True, False, False]).value == 3.5 / 4


@quick
@given(pairs)
def test_auroc_equals_all_pairs_with_ties(items):
    score, label = map(list, zip(*items))
    assert auroc(score, label).value == pytest.approx(quadratic_auroc(score, label), abs=1e-15)


@pytest.mark.parametrize("seed", range(5))
def test_auroc_and_average_precision_equal_other_libraries(seed):
    score, label = draw(seed)
    value = auroc(score, label).value
    assert value == pytest.approx(sk.roc_auc_score(label, score), abs=1e-14)
    u = mannwhitneyu(score[label], score[~label]).statistic
    assert value == pytest.approx(u / (label.sum() * (~label).sum()), abs=1e-14)
    assert average_precision(score, label).value == pytest.approx(sk.average_precision_score(label, score), abs=1e-14)


@quick
@given(pairs, st.permutations(range(40)))
def test_order_of_items_does_not_matter(items, permutation):
    order = [i for i in permutation if i < len(items)]
    score, label = map(np.array, zip(*items))
    assert auroc(score[order], label[order]) == auroc(score, label)
    shuffled, plain = average_precision(score[order], label[order]), average_precision(score, label)
    assert shuffled.value == pytest.approx(plain.value, abs=1e-15)


@quick
@given(pairs)
def test_monotone_transform_and_flips(items):
    score, label = map(np.array, zip(*items))
    value = auroc(score, label).value
    assert auroc(np.exp(score.astype(float)) - 9, label).value == value
    assert auroc(-score, label).value == pytest.approx(1 - value, abs=1e-15)
    assert auroc(score, ~label).value == pytest.approx(1 - value, abs=1e-15)
    assert auroc(-score, ~label).value == pytest.approx(value, abs=1e-15)


def test_average_precision_by_hand():
    # descending: hit (1/1), miss, hit and miss tied (2/4)
    found = average_precision([4, 3, 2, 2], [True, False, True, False])
    assert found.value == pytest.approx(0.5 * 1 + 0.5 * 2 / 4, abs=1e-15)
    assert np.isnan(found.lower) and np.isnan(found.upper)


def test_all_tied_is_a_half_and_the_prevalence():
    label = np.arange(20) < 5
    assert (auroc(np.ones(20), label).value, auroc(np.ones(20), label).reason) == (0.5, "all scores are tied")
    assert average_precision(np.ones(20), label).value == 0.25


@pytest.mark.parametrize("seed", range(3))
def test_roc_points_equal_sklearn_and_their_area_is_the_auroc(seed):
    score, label = draw(seed)
    curve = roc_curve(score, label)
    false_rate, true_rate, threshold = sk.roc_curve(label, score, drop_intermediate=False)
    np.testing.assert_allclose(curve.false_positive_rate, false_rate, atol=1e-15)
    np.testing.assert_allclose(curve.true_positive_rate, true_rate, atol=1e-15)
    np.testing.assert_array_equal(curve.threshold, threshold)
    area = np.trapezoid(curve.true_positive_rate, curve.false_positive_rate)
    assert area == pytest.approx(auroc(score, label).value, abs=1e-14)


def test_roc_of_one_class_has_one_undefined_rate():
    curve = roc_curve([1, 2, 3], [True, True, True])
    np.testing.assert_allclose(curve.true_positive_rate, [0, 1 / 3, 2 / 3, 1])
    assert np.isnan(curve.false_positive_rate).all()
    assert "one class only: 3 positive of 3" in curve.reason
    curve = roc_curve([1, 2], [False, False])
    assert np.isnan(curve.true_positive_rate).all() and not np.isnan(curve.false_positive_rate).any()
    assert roc_curve([], []).reason == "no items"


@pytest.mark.parametrize("statistic", [auroc, average_precision])
def test_stated_results(statistic):
    nothing = statistic([], [])
    assert np.isnan(nothing.value) and (nothing.n, nothing.reason) == (0, "no items")
    single = statistic([1.0], [True])
    assert np.isnan(single.value) and "n = 1 is below 10" in single.reason
    one = statistic(np.arange(25), np.zeros(25, bool))
    assert np.isnan(one.value) and one.reason == "one class only: 0 positive of 25"
    unscored = statistic(np.full(12, np.nan), np.arange(12) < 6)
    assert np.isnan(unscored.value) and unscored.reason == "all 12 scores are NaN"
    few = statistic(np.arange(7), np.arange(7) > 3)
    assert few.value == 1 and few.reason == "n = 7 is below 10: the result is not reliable"


@pytest.mark.parametrize("statistic", [auroc, average_precision])
def test_nan_is_left_out_and_counted(statistic):
    score, label = draw(9, n=50)
    score[[1, 4, 40]] = np.nan
    found = statistic(score, label)
    assert found.reason == "3 of 50 scores are NaN and were left out"
    assert found.n == 47 and found.n_positive == label[~np.isnan(score)].sum()
    assert found.value == statistic(score[~np.isnan(score)], label[~np.isnan(score)]).value


def test_infinite_scores_rank_at_the_ends_and_tie_among_themselves():
    score = np.array([np.inf, np.inf, 2, 1, 0, -np.inf, -np.inf, 5, 6, 7])
    label = np.array([1, 0, 1, 0, 1, 0, 1, 1, 0, 0])
    finite = np.array([99, 99, 2, 1, 0, -99, -99, 5, 6, 7])
    assert auroc(score, label).value == auroc(finite, label).value == quadratic_auroc(finite, label)
    assert average_precision(score, label) == average_precision(finite, label)


@pytest.mark.parametrize(
    ("score", "label", "match"),
    [
        ([1, 2, 3], [True, False], "label has 2 items where 3 are expected; give one per score"),
        ([1, 2], [0, 2], "label holds 2; give False or True"),
        ([1, 2], [0, np.nan], "label holds nan"),
        ([[1, 2]], [0, 1], "score has 2 dimensions; give a vector"),
        (["a", "b"], [0, 1], "score has dtype <U1; give numbers"),
    ],
)
def test_wrong_input_is_refused(score, label, match):
    for statistic in (auroc, average_precision, roc_curve):
        with pytest.raises(ValueError, match=match):
            statistic(score, label)


def test_resamples_equal_repeated_items():
    rng = np.random.default_rng(3)
    score, label = draw(3, n=30)
    counts = rng.multinomial(30, np.full(30, 1 / 30), size=20)
    found = counts @ label
    counts = counts[(found > 0) & (found < 30)]
    assert len(counts) > 10
    for kernel, oracle in (
        (resampled_auroc, sk.roc_auc_score),
        (resampled_average_precision, sk.average_precision_score),
    ):
        expected = [oracle(np.repeat(label, row), np.repeat(score, row)) for row in counts]
        np.testing.assert_allclose(kernel(score, label, counts), expected, atol=1e-14)
    only_positives = np.where(label, 1, 0)[None]
    assert np.isnan(resampled_auroc(score, label, only_positives)).all()
    assert np.isnan(resampled_average_precision(score, label, only_positives)).all()
