import json
import math

import numpy as np
import pytest

from metrics import stats
from metrics.calibrate import CONSTANT, Scheme, calibration_table, predict, show_calibration
from metrics.cases import Case


def case(n=200, wrong=None, absent=None, **scores):
    rng = np.random.default_rng(0)
    wrong = rng.random(n) < 0.35 if wrong is None else np.asarray(wrong)
    made = {"mean_nll": rng.normal(size=len(wrong)) + wrong, "random": rng.random(len(wrong))} | scores
    return Case("t", "acc@none", made, (~wrong).astype(float), wrong, absent=absent or {})


def table(one, **options):
    scheme = Scheme(replicates=50, **options)
    made = predict(one, scheme)
    found = calibration_table(one, made, scheme)
    return found, {row["metric"]: row for row in found.rows}


@pytest.mark.parametrize("method", ["isotonic", "platt"])
def test_every_document_is_judged_once_by_cross_fitting(method):
    one = case()
    _, rows = table(one, method=method)
    splits = stats.fold_splits(one.wrong, 5, seed=0)
    p = stats.cross_fit(one.scores["mean_nll"], one.wrong, splits, stats.FITS[method])
    row = rows["mean_nll"]
    assert row["n"] == 200 and row["unscored"] == 0
    assert row["ece"] == stats.calibration_error(p, one.wrong, replicates=0).value
    assert row["adaptive_ece"] == stats.calibration_error(p, one.wrong, by="mass", replicates=0).value
    assert row["brier"] == pytest.approx(stats.brier(p, one.wrong).value)
    assert row["log_loss"] == stats.log_loss(p, one.wrong).value
    parts = row["reliability"] - row["resolution"] + row["uncertainty"] + row["within"]
    assert parts == pytest.approx(row["brier"])
    base = stats.brier(stats.constant(one.wrong, splits), one.wrong).value
    assert row["skill"] == pytest.approx(1 - row["brier"] / base) and row["gain"] == pytest.approx(base - row["brier"])
    assert rows[CONSTANT]["skill"] == 0 and rows[CONSTANT]["gain"] == 0


def test_a_useful_score_gains_and_a_random_one_does_not():
    _, rows = table(case(1000))
    assert rows["mean_nll"]["gain_lower"] > 0 and rows["mean_nll"]["skill"] > 0.05
    assert rows["random"]["gain_lower"] <= 0 and abs(rows["random"]["skill"]) < 0.05


def test_a_split_judges_the_rest_only():
    found, rows = table(case(), share=0.75)
    assert {row["n"] for row in rows.values()} == {50}
    assert "fitted on 150 documents and judged on the other 50" in found.notes[1]


def test_missing_scores_are_counted_and_the_constant_is_judged_on_the_same():
    one = case()
    one.scores["mean_nll"][:20] = np.nan
    _, rows = table(one)
    assert rows["mean_nll"]["n"] == 180 and rows["mean_nll"]["unscored"] == 20
    scored = np.arange(200) >= 20
    base = stats.constant(one.wrong, stats.fold_splits(one.wrong, 5, seed=0), scored)[20:]
    expected = stats.brier(base, one.wrong[20:]).value - rows["mean_nll"]["brier"]
    assert rows["mean_nll"]["gain"] == pytest.approx(expected)


def test_metrics_that_are_probabilities_are_judged_as_they_are():
    rng = np.random.default_rng(1)
    confidence = rng.random(300)
    wrong = rng.random(300) > confidence
    one = case(wrong=wrong, margin=-confidence)  # cases hold confidence negated
    found, rows = table(one, method="none")
    assert rows["margin"]["brier"] == pytest.approx(np.mean((1 - confidence - wrong) ** 2))
    assert rows["margin"]["ece_p"] > 0.05 and set(rows) == {"margin", CONSTANT}
    assert "No probabilities, their unit is another: mean_nll, random." in found.notes


def test_wrong_probabilities_are_found_out():
    rng = np.random.default_rng(1)
    confidence = rng.random(300)
    _, rows = table(case(wrong=rng.random(300) > confidence**3, margin=-confidence), method="none")
    row = rows["margin"]
    assert row["ece_p"] == 1 / 51 and row["ece_lower"] > 0 and row["ece"] > row["ece_if_calibrated"]


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (np.zeros(30, bool), "one class only among 24 items to fit on: mean_nll, random"),
        (np.arange(30) == 3, "one class only among 24 items to fit on: mean_nll, random"),
        (np.arange(3) == 1, "3 documents are fewer than 5 folds: mean_nll, random"),
        (np.zeros(0, bool), "0 documents are fewer than 5 folds: mean_nll, random"),
    ],
)
def test_too_little_is_said(wrong, says):
    found, rows = table(case(wrong=wrong))
    assert any(says in note for note in found.notes), found.notes
    assert "mean_nll" not in rows
    assert show_calibration(found, "md").startswith("### t, acc@none")


def test_infinite_scores_and_absent_metrics_are_named():
    one = case(perplexity=np.append(np.arange(199.0), math.inf), absent={"margin": "signal 'margin' was not recorded"})
    found, rows = table(one)
    assert "No probabilities, 1 of 200 scores are infinite: perplexity." in found.notes and "perplexity" not in rows
    assert "No score of these documents, signal 'margin' was not recorded: margin." in found.notes


def test_the_same_seed_gives_the_same_table_and_another_another():
    one = case()
    assert table(one)[0].rows == table(one)[0].rows != table(one, seed=1)[0].rows


def test_ties_share_their_fate_whatever_the_order_of_the_file():
    wrong = np.arange(60) % 3 == 0
    _, rows = table(case(wrong=wrong, mean_nll=np.ones(60)))
    assert rows["mean_nll"]["ece"] == pytest.approx(rows[CONSTANT]["ece"], abs=1e-12)


@pytest.mark.parametrize("format_", ["md", "latex"])
def test_the_page_has_title_table_and_notes(format_):
    text = show_calibration(table(case())[0], format_)
    assert "t, acc@none" in text and "ECE [95 \\% CI]" in text.replace("95 %", "95 \\%") and "seed 0" in text
    json.dumps(table(case())[0].rows)


@pytest.mark.parametrize("method", ["platt", "isotonic"])
def test_unscored_documents_that_are_all_wrong_make_no_skill(method):
    """Scores that know nothing, and 300 of 1,000 documents without one: the rate of the others is no merit."""
    rng = np.random.default_rng(4)
    score, wrong = rng.uniform(size=1000), rng.uniform(size=1000) < 0.1
    score[:300], wrong[:300] = np.nan, True
    one = Case("t", "acc@none", {"mean_nll": score}, (~wrong).astype(float), wrong, absent={})
    _, rows = table(one, method=method)
    assert abs(rows["mean_nll"]["skill"]) < 0.06
    assert rows["mean_nll"]["n"] == 700


def test_a_fold_without_a_scored_document_is_passed_over():
    rng = np.random.default_rng(1)
    score = np.full(60, np.nan)
    score[:7] = rng.uniform(size=7)
    wrong = np.arange(60) % 2 == 0
    splits = stats.fold_splits(wrong, 5, seed=0)
    while not any((s.judged & ~np.isnan(score)).sum() == 0 for s in splits):
        splits = stats.fold_splits(wrong, 5, seed=int(rng.integers(1000)))
    found = stats.cross_fit(score, wrong, splits, stats.FITS["isotonic"])
    assert (~np.isnan(found)).sum() == 7
