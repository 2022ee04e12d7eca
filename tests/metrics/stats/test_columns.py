"""AUROCs of many scores at once, nested selection and main effects, each against something slower."""

import numpy as np
import pytest
from scipy.stats import mannwhitneyu

from metrics import stats


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    scores = rng.random((7, 80))
    scores[1] = rng.integers(0, 4, 80)
    scores[2, :9] = np.nan
    scores[3] = 1
    scores[4] = rng.integers(0, 9, 80)
    scores[4, 5:30] = np.nan
    label = rng.random(80) < 0.3
    scores[5] = label + rng.random(80) * 0.5
    scores[6] = np.exp(scores[0])
    return scores, label


def test_auroc_equals_one_by_one(data):
    scores, label = data
    ordered = stats.Sorted(scores)
    np.testing.assert_allclose(ordered.auroc(label), [stats.auroc(s, label).value for s in scores], rtol=1e-12)
    part = np.random.default_rng(1).random(80) < 0.5
    wanted = [stats.auroc(s[part], label[part]).value for s in scores]
    np.testing.assert_allclose(ordered.auroc(label, part), wanted, rtol=1e-12)
    assert ordered.row(5).auroc(label)[0] == 1.0


def test_one_class_has_no_auroc(data):
    ordered = stats.Sorted(data[0])
    assert np.isnan(ordered.auroc(np.zeros(80))).all() and np.isnan(ordered.p_of_no_difference(np.ones(80))).all()
    assert np.isnan(stats.Sorted(np.full((1, 4), np.nan)).auroc([0, 1, 0, 1])).all()


def test_p_is_that_of_mann_whitney(data):
    scores, label = data
    found = stats.Sorted(scores).p_of_no_difference(label)
    assert found[3] == 1.0, "all tied"
    for p, row in zip(found, scores):
        if np.ptp(row[~np.isnan(row)]):
            one, two = row[label & ~np.isnan(row)], row[~label & ~np.isnan(row)]
            wanted = mannwhitneyu(one, two, use_continuity=False, method="asymptotic").pvalue
            assert p == pytest.approx(wanted, rel=1e-9)


def test_same_order_sees_ties_and_missing_scores(data):
    assert stats.Sorted(data[0]).same_order().tolist() == [0, 1, 2, 3, 4, 5, 0]


def test_selection_chooses_on_one_part_and_judges_on_the_other(data):
    scores, label = data
    eligible = np.array([True, True, True, True, True, False, True])
    found = stats.nested_selection(stats.Sorted(scores), label, eligible, repeats=20, share=0.5, seed=3)
    assert 5 not in found.winner
    for winner, inside, outside, judged in zip(*(vars(found)[n] for n in ("winner", "inside", "outside", "judged"))):
        values = [stats.auroc(s[~judged], label[~judged]).value if e else -1 for s, e in zip(scores, eligible)]
        assert inside == pytest.approx(max(values)) and winner == int(np.argmax(values))
        assert outside == pytest.approx(stats.auroc(scores[winner][judged], label[judged]).value)
        assert label[judged].sum() == label.sum() - round(label.sum() / 2)
    again = stats.nested_selection(stats.Sorted(scores), label, eligible, repeats=20, share=0.5, seed=3)
    assert np.array_equal(found.outside, again.outside)


def test_choosing_among_noise_gains_nothing_outside():
    """The mean over winners of pure noise is .5 on the part that judges, and clearly more on the one that chose."""
    rng = np.random.default_rng(5)
    inside, outside = [], []
    for _ in range(60):
        label = np.arange(100) < 30
        found = stats.nested_selection(
            stats.Sorted(rng.random((50, 100))), label, np.ones(50, bool), repeats=4, share=0.5, seed=1
        )
        inside.append(found.inside.mean())
        outside.append(found.outside.mean())
    assert np.mean(inside) > 0.65
    assert abs(np.mean(outside) - 0.5) < 4 * np.std(outside) / np.sqrt(60)


@pytest.mark.parametrize(
    ("label", "changed", "says"),
    [
        (np.arange(80) < 1, {}, "1 positive of 80"),
        (np.arange(80) < 9, {"eligible": np.zeros(7, bool)}, "no score is eligible"),
        (np.arange(80) < 9, {"share": 1.0}, "share=1.0"),
        (np.arange(80) < 9, {"repeats": 0}, "repeats=0"),
    ],
)
def test_bad_selections_are_refused(data, label, changed, says):
    options = {"eligible": np.ones(7, bool), "repeats": 2, "share": 0.5, "seed": 0} | changed
    with pytest.raises(ValueError, match=says):
        stats.nested_selection(stats.Sorted(data[0]), label, options.pop("eligible"), **options)


def test_doubled_median():
    assert stats.doubled_median(np.array([0.01, 0.02, 0.5, np.nan])) == pytest.approx(0.04)
    assert stats.doubled_median(np.array([0.9])) == 1.0
    assert np.isnan(stats.doubled_median(np.array([np.nan])))


def test_main_effects_by_hand():
    """y = a + 2 b with a in 0, 1 and b in 0, 1, 2, and one cell off."""
    table = np.array([[0.0, 2.0, 4.0], [1.0, 3.0, 5.0]])
    levels, shares, rest = stats.main_effects(table)
    assert levels[0].tolist() == [2.0, 3.0] and levels[1].tolist() == [0.5, 2.5, 4.5]
    assert shares == pytest.approx([1.5 / 17.5, 16 / 17.5]) and rest == pytest.approx(0, abs=1e-12)
    table[0, 0] = 6.0
    assert stats.main_effects(table)[2] > 0.1
    assert np.isnan(stats.main_effects(np.ones((2, 2)))[1]).all()
    with pytest.raises(ValueError, match="NaN"):
        stats.main_effects(np.array([np.nan]))
