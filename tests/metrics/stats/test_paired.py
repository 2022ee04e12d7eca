"""Two systems on the same items, against published values, slow loops, a bootstrap and simulation."""

import numpy as np
import pytest
from scipy.stats import multivariate_normal, norm

from metrics import stats
from metrics.stats.resample import resample_counts

rng = np.random.default_rng


def slow_auroc(score, label):
    pairs = [(x > y) + 0.5 * (x == y) for x in score[label] for y in score[~label]]
    return float(np.mean(pairs))


def documents(generator, n, *, shift=(1.2, 0.8), correlation=0.6):
    """Scores and wrong answers of two models on the same documents; both correlate through the documents."""
    shared = [[1, correlation], [correlation, 1]]
    wrong = generator.multivariate_normal([0, 0], shared, size=n) < norm.ppf([0.35, 0.3])
    score = generator.multivariate_normal([0, 0], shared, size=n) + wrong * np.array(shift)
    return score[:, 0], wrong[:, 0], score[:, 1], wrong[:, 1]


# proportions


@pytest.mark.parametrize(
    ("cells", "value", "lower", "upper"),
    [
        ((1, 1, 7, 12), -0.286, -0.507, -0.026),  # airway hyper-responsiveness, Fagerland et al. 2014
        ((14, 5, 0, 22), 0.122, 0.011, 0.226),  # Altman et al., Statistics with Confidence, table 6.2
        ((36, 12, 2, 0), 0.200, 0.057, 0.340),  # Newcombe 1998
    ],
)
def test_newcombe_interval_is_the_published_one(cells, value, lower, upper):
    found = stats.newcombe_interval(*cells)
    assert (round(found.value, 3), round(found.lower, 3), round(found.upper, 3)) == (value, lower, upper)
    assert found.n == sum(cells) and found.n_positive == cells[1] + cells[2]


def test_newcombe_interval_turns_round_with_the_systems():
    there, back = stats.newcombe_interval(9, 5, 2, 30), stats.newcombe_interval(9, 2, 5, 30)
    assert (there.value, there.lower, there.upper) == pytest.approx((-back.value, -back.upper, -back.lower))


@pytest.mark.parametrize("cells", [(10, 0, 0, 0), (0, 0, 0, 10), (7, 0, 0, 3), (0, 10, 0, 0)])
def test_newcombe_interval_has_width_where_nothing_varies(cells):
    found = stats.newcombe_interval(*cells)
    assert found.lower < found.upper and -1 <= found.lower <= found.value <= found.upper <= 1


def test_newcombe_interval_of_nothing_and_of_one():
    assert np.isnan(stats.newcombe_interval(0, 0, 0, 0).value)
    assert stats.newcombe_interval(0, 0, 0, 0).reason == "no items"
    one = stats.newcombe_interval(0, 1, 0, 0)
    assert one.value == 1 and one.upper == 1 and one.lower < 0.2 and "n = 1 is below" in one.reason
    with pytest.raises(ValueError, match="negative"):
        stats.newcombe_interval(1, -1, 0, 0)


def test_newcombe_interval_covers():
    generator, truth = rng(1), np.array([0.55, 0.15, 0.08, 0.22])
    draws = generator.multinomial(80, truth, size=2000)
    found = [stats.newcombe_interval(*map(int, cells)) for cells in draws]
    inside = np.mean([e.lower <= truth[1] - truth[2] <= e.upper for e in found])
    assert 0.935 <= inside <= 0.975


def test_wilson_interval_is_where_the_score_test_turns():
    lower, upper = stats.wilson_interval(7, 40)
    for limit in (lower, upper):
        assert abs(7 / 40 - limit) / np.sqrt(limit * (1 - limit) / 40) == pytest.approx(norm.ppf(0.975))
    assert stats.wilson_interval(0, 9)[0] == 0 and stats.wilson_interval(9, 9)[1] == 1
    assert np.isnan(stats.wilson_interval(0, 0)).all()
    with pytest.raises(ValueError, match="10 successes of 9"):
        stats.wilson_interval(10, 9)


def test_mcnemar_is_the_sum_of_a_binomial():
    assert stats.mcnemar(12, 2) == pytest.approx(2 * (1 + 14 + 91) / 2**14)  # published as .0129
    assert stats.mcnemar(1, 7) == pytest.approx(2 * 9 / 2**8)
    assert stats.mcnemar(5, 5) == 1 == stats.mcnemar(0, 0)
    with pytest.raises(ValueError, match="negative"):
        stats.mcnemar(-1, 0)


def test_difference_of_means_by_bootstrap_is_that_of_the_formula():
    generator = rng(2)
    one = generator.random(300)
    two = np.clip(one + generator.normal(0.05, 0.2, 300), 0, 1)
    found = stats.bootstrap_difference(stats.resampled_mean, one, two, np.zeros(300), seed=3, replicates=4000)
    apart = one - two
    assert found.value == pytest.approx(apart.mean())
    assert found.se == pytest.approx(apart.std(ddof=1) / np.sqrt(300), rel=0.05)


# AUROC, each with its own errors


def test_influences_are_the_loop_over_pairs():
    score = np.array([3.0, 1, 2, 2, 5, 1, 4])
    label = np.array([1, 0, 1, 0, 1, 0, 0], dtype=bool)
    value, influence = stats.auroc_influence(score, label)
    assert value == pytest.approx(slow_auroc(score, label))
    for i in range(7):
        others = score[label != label[i]]
        wins = np.mean([(score[i] > o) + 0.5 * (score[i] == o) for o in others])
        size = (label == label[i]).sum()
        expected = ((wins if label[i] else 1 - wins) - value) / np.sqrt(size * (size - 1))
        assert influence[i] == pytest.approx(expected)
    assert influence.sum() == pytest.approx(0)
    assert np.sqrt(influence @ influence) == pytest.approx(stats.delong_interval(score, label).se)


def test_with_one_label_it_is_delongs_test():
    one, wrong, two, _ = documents(rng(4), 150)
    found, delong = stats.paired_auroc_difference(one, wrong, two, wrong), stats.delong_test(one, two, wrong)
    assert found.difference.value == delong.difference.value and found.p == delong.p
    a, b = stats.auroc_influence(one, wrong)[1], stats.auroc_influence(two, wrong)[1]
    assert np.sqrt((a - b) @ (a - b)) == pytest.approx(delong.difference.se)


def test_standard_error_is_that_of_a_bootstrap_over_documents():
    one, wrong1, two, wrong2 = documents(rng(5), 400)
    found = stats.paired_auroc_difference(one, wrong1, two, wrong2)
    counts = np.concatenate(list(resample_counts(rng(6), 4000, np.zeros(400, dtype=int), np.arange(400))))
    drawn = stats.resampled_auroc(one, wrong1, counts) - stats.resampled_auroc(two, wrong2, counts)
    assert found.difference.se == pytest.approx(drawn.std(), rel=0.06)
    independent = np.hypot(stats.delong_interval(one, wrong1).se, stats.delong_interval(two, wrong2).se)
    assert found.difference.se < independent and 0 < found.correlation < 1


@pytest.mark.parametrize(
    ("n", "correlation", "runs"), [(120, 0.8, 400), pytest.param(400, 0.5, 3000, marks=pytest.mark.slow)]
)
def test_interval_covers_in_simulation(n, correlation, runs):
    generator = rng(7)
    truth = norm.cdf(1.2 / np.sqrt(2)) - norm.cdf(0.8 / np.sqrt(2))
    inside, below = 0, []
    for _ in range(runs):
        found = stats.paired_auroc_difference(*documents(generator, n, correlation=correlation))
        inside += found.difference.lower <= truth <= found.difference.upper
        below.append(found.difference.value)
    assert 0.95 - 3 * np.sqrt(0.05 * 0.95 / runs) <= inside / runs <= 0.975
    assert np.mean(below) == pytest.approx(truth, abs=0.01)


@pytest.mark.slow
def test_equal_aurocs_are_rejected_at_the_level():
    generator = rng(8)
    p = [stats.paired_auroc_difference(*documents(generator, 200, shift=(0.9, 0.9))).p for _ in range(1500)]
    assert 0.035 <= np.mean(np.array(p) < 0.05) <= 0.065


def test_labels_of_the_simulation_overlap_as_meant():
    both = multivariate_normal([0, 0], [[1, 0.6], [0.6, 1]]).cdf(norm.ppf([0.35, 0.3]))
    _, wrong1, _, wrong2 = documents(rng(9), 20000)
    assert np.mean(wrong1 & wrong2) == pytest.approx(both, abs=0.01)


def test_missing_scores_are_left_out_and_counted():
    one, wrong1, two, wrong2 = documents(rng(10), 60)
    one[3], two[5] = np.nan, np.nan
    keep = ~(np.isnan(one) | np.isnan(two))
    found = stats.paired_auroc_difference(one, wrong1, two, wrong2)
    same = stats.paired_auroc_difference(one[keep], wrong1[keep], two[keep], wrong2[keep])
    assert found.difference.value == same.difference.value and found.difference.n == 58
    assert "2 of 60 items lack a score and were left out" in found.difference.reason


@pytest.mark.parametrize("case", ["perfect", "tied", "one wrong"])
def test_without_variance_there_is_an_interval_and_no_test(case):
    one, wrong1, two, wrong2 = documents(rng(11), 80)
    if case == "perfect":
        one = wrong1.astype(float)
    elif case == "tied":
        one = np.zeros(80)
    else:
        wrong1 = np.arange(80) == 17
    found = stats.paired_auroc_difference(one, wrong1, two, wrong2)
    assert np.isnan(found.p) and "no test" in found.difference.reason
    assert found.difference.lower < found.difference.value < found.difference.upper
    own = stats.delong_interval(two, wrong2)
    assert found.difference.upper - found.difference.lower >= own.upper - own.lower


def test_one_class_and_none():
    one, _, two, wrong2 = documents(rng(12), 40)
    right = np.zeros(40, dtype=bool)
    found = stats.paired_auroc_difference(one, right, two, wrong2)
    assert np.isnan(found.difference.value) and found.difference.reason == "first: one class only: 0 positive of 40"
    assert found.second == stats.delong_interval(two, wrong2).value
    same = stats.paired_auroc_difference(one, right, two, right)
    assert np.isnan(same.difference.value) and "one class only" in same.difference.reason
    empty = stats.paired_auroc_difference([np.nan] * 12, [0, 1] * 6, [1.0] * 12, [1, 0] * 6)
    assert np.isnan(empty.difference.value) and "all 12 items lack a score" in empty.difference.reason


def test_a_store_against_itself_differs_by_nothing():
    one, wrong, _, _ = documents(rng(13), 50)
    found = stats.paired_auroc_difference(one, wrong, one, wrong)
    assert found.difference.value == 0 and found.p == 1 and found.difference.lower < 0 < found.difference.upper


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="second has 2 items where 3"):
        stats.paired_auroc_difference([1.0, 2, 3], [0, 1, 1], [1.0, 2], [0, 1])
    with pytest.raises(ValueError, match="label holds 2"):
        stats.paired_auroc_difference([1.0, 2], [0, 1], [1.0, 2], [0, 2])
