"""Clusters' uncertainty, predicted and true error: against slow loops, and nothing fitted on what it predicts."""

import numpy as np
import pytest
from scipy.stats import ttest_ind

from metrics import stats
from metrics.choosing import choose
from metrics.domains import Answers, Prediction, crossed, curve_of, own, rows_of, trust

NAN = np.nan


def answers(score, wrong, task="t", length=None):
    n = len(score)
    tasks = np.array([task] * n if isinstance(task, str) else task)
    length = np.arange(n, dtype=float) if length is None else np.asarray(length, float)
    return Answers(tasks, [f"q{i}" for i in range(n)], np.asarray(score, float), length, np.asarray(wrong, float))


@pytest.fixture
def many():
    """Five clusters of 60; uncertainty and error rise with the cluster's number."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(5), 60)
    score = 0.3 * labels + rng.random(300)
    wrong = rng.random(300) < 0.1 + 0.15 * labels
    return answers(score, wrong.astype(float)), labels


def test_rows_against_slow_loops(many):
    made, labels = many
    predicted = crossed(made, labels, stats.fit_platt)
    rows = rows_of(made, labels, predicted, confident=False, seed=0)
    assert [row["cluster"] for row in rows] == sorted(range(5), key=lambda k: -made.score[labels == k].mean())
    tests = {}
    for row in rows:
        inside = labels == row["cluster"]
        assert row["n"] == row["labelled"] == 60
        assert row["uncertainty"] == pytest.approx(made.score[inside].mean())
        assert row["uncertainty_lower"] < row["uncertainty"] < row["uncertainty_upper"]
        assert row["true"] == pytest.approx(made.wrong[inside].mean())
        assert (row["true_lower"], row["true_upper"]) == stats.wilson_interval(row["wrong"], 60)
        assert row["predicted"] == pytest.approx(predicted.of[inside].mean())
        assert row["bias"] == pytest.approx(row["predicted"] - row["true"])
        tests[row["cluster"]] = ttest_ind(made.score[inside], made.score[~inside], equal_var=False).pvalue
    adjusted = dict(zip(tests, stats.holm(list(tests.values()))))
    for row in rows:
        assert row["p_weak"] == pytest.approx(adjusted[row["cluster"]])
        assert row["weak"] == (row["p_weak"] < 0.05 and row["score"] > made.score.mean())
    assert {4, 3} >= {row["cluster"] for row in rows if row["weak"]} >= {4}


def test_no_cluster_is_predicted_by_its_own_labels(many):
    made, labels = many
    before = crossed(made, labels, stats.fit_platt)
    turned = made.wrong.copy()
    turned[labels == 2] = 1 - turned[labels == 2]
    after = crossed(answers(made.score, turned), labels, stats.fit_platt)
    np.testing.assert_array_equal(before.of[labels == 2], after.of[labels == 2])
    assert not np.allclose(before.of[labels == 1], after.of[labels == 1])
    curve = stats.fit_platt(made.score[labels != 2], made.wrong[labels != 2].astype(bool))
    np.testing.assert_allclose(before.of[labels == 2], curve(made.score[labels == 2]))
    assert (before.way, before.reason) == ("crossed", "")


def test_what_has_no_label_or_score(many):
    made, labels = many
    score, wrong = made.score.copy(), made.wrong.copy()
    score[:10], wrong[5:30] = NAN, NAN
    partial = answers(score, wrong)
    predicted = crossed(partial, labels, stats.fit_isotonic)
    assert np.isnan(predicted.of).tolist() == np.isnan(score).tolist()  # unlabelled answers are predicted too
    row = next(r for r in rows_of(partial, labels, predicted, confident=False, seed=0) if r["cluster"] == 0)
    assert (row["n"], row["unscored"], row["labelled"]) == (60, 10, 35)
    assert row["uncertainty"] == pytest.approx(np.nanmean(score[:60]))
    both = ~np.isnan(score[:60]) & ~np.isnan(wrong[:60])
    assert row["bias"] == pytest.approx((predicted.of[:60] - wrong[:60])[both].mean())


def test_without_labels_there_is_no_error(many):
    made, labels = many
    rows = rows_of(answers(made.score, [NAN] * 300), labels, None, confident=True, seed=0)
    assert {"true", "predicted", "bias"}.isdisjoint(rows[0])
    assert rows[0]["cluster"] == 4  # the most uncertain first
    assert rows[0]["uncertainty"] == pytest.approx(-made.score[labels == 4].mean())  # in its own sign


def test_a_cluster_without_a_score():
    made = answers([NAN] * 3 + [1.0, 2, 3], [0.0, 1, 0, 1, 0, 1])
    rows = rows_of(made, np.array([0, 0, 0, 1, 1, 1]), None, confident=False, seed=0)
    assert [row["cluster"] for row in rows] == [1, 0]
    assert np.isnan([rows[1]["uncertainty"], rows[1]["p_weak"]]).all()
    assert not rows[1]["weak"]
    assert rows[1]["true"] == pytest.approx(1 / 3)


def test_curves_that_cannot_be_fitted():
    made = answers([1.0, 2, 3, 4], [0.0, 0, 1, 1])
    found = crossed(made, np.array([0, 0, 1, 1]), stats.fit_platt)
    assert np.isnan(found.of).all()
    assert found.reason == "2 clusters: one class only among 2 answers to fit on"
    assert curve_of(np.array([1.0, np.inf]), np.array([0.0, 1]), stats.fit_platt) == (
        None,
        "scores to fit on are infinite",
    )


def test_a_probability_is_taken_as_it_is():
    made = answers([-0.9, -0.2], [0.0, 1.0])
    confident = next(c for c in choose("all") if c.metric.unit == "probability" and c.metric.higher == "confident")
    found = own(made, confident)
    assert found is not None
    np.testing.assert_allclose(found.of, [0.1, 0.8])
    assert own(made, choose("mean_entropy")[0]) is None


def test_trust(many):
    made, labels = many
    rows = rows_of(made, labels, crossed(made, labels, stats.fit_platt), confident=False, seed=0)
    held = trust(made, labels, rows, seed=0)
    assert held.order.spearman.value == pytest.approx(1)
    assert held.order.p == pytest.approx(2 / 120)
    predicted, true = [r["predicted"] for r in rows], [r["true"] for r in rows]
    assert held.miss == pytest.approx(np.abs(np.subtract(predicted, true)).mean())
    assert held.explained == pytest.approx(stats.between_share(predicted, true, [60] * 5))
    assert held.same_p < 0.001
    without = trust(made, labels, rows_of(made, labels, None, confident=False, seed=0), seed=0)
    assert np.isnan([without.miss, without.explained]).all()


def test_a_mix_of_tasks():
    made = answers([1.0] * 4, [NAN] * 4, task=["a", "b", "b", "b"])
    (row,) = rows_of(made, np.zeros(4, int), Prediction(np.full(4, 0.5), "elsewhere"), confident=False, seed=0)
    assert row["tasks"] == "b 75 %, a 25 %"
    assert row["predicted"] == 0.5
