import math
from dataclasses import replace

import numpy as np
import pytest

from metrics import stats
from metrics.cases import Case
from metrics.threshold import Aim, answer_rows, applied_rows, chosen, find_rules, show_threshold, threshold_table


def case(n=800, seed=0, **scores):
    rng = np.random.default_rng(seed)
    u = rng.random(n)
    wrong = rng.random(n) < 0.5 * u**2
    made = {"mean_nll": u, "margin": u - 1, "random": rng.random(n)} | scores  # margin's own score is 1 - u
    return Case("t", "acc@none", made, (~wrong).astype(float), wrong, documents=list(range(100, 100 + n)))


def test_the_rule_is_found_on_one_part_and_tested_on_the_other():
    one, aim = case(), Aim(risk=0.1, seed=3)
    (rule,) = rules = find_rules(one, chosen("mean_nll"), aim)
    part, u = aim.calibrates(800), one.scores["mean_nll"]
    assert part.sum() == 400 and (part == Aim(risk=0.2, seed=3).calibrates(800)).all()
    assert rule.found == stats.selective_threshold(u[part], one.wrong[part], risk=0.1)
    (row,) = threshold_table(one, rules, aim).rows
    given = ~part & (u < rule.found.value)
    assert row["test_n"] == 400 and row["calibration_n"] == 400
    assert row["answered"] == given.sum() / 400 > 0.2
    assert row["wrong_among_answered"] == one.wrong[given].mean()
    assert row["answered_and_wrong"] == (one.wrong & given).sum() / 400
    assert row["wrong_if_all_answered"] == one.wrong[~part].mean()
    assert row["answer_when"] == f"mean_nll < {rule.found.value!r}"


def test_a_metric_of_confidence_keeps_its_direction_and_unit():
    one, aim = case(), Aim(risk=0.1)
    nll, margin = (find_rules(one, chosen(name), aim)[0] for name in ("mean_nll", "margin"))
    assert margin.text == f"margin > {-margin.found.value!r}" and -margin.found.value == pytest.approx(
        1 - nll.found.value
    )
    assert margin.found.answered == nll.found.answered
    rows = applied_rows(one, [margin], [1, 2, 3], {"margin": [0.999, 0.001, math.nan]})
    assert [row["answered"] for row in rows] == [True, False, False]


def test_several_metrics_share_the_confidence():
    one, aim = case(), Aim(risk=0.1, confidence=0.9)
    rules = find_rules(one, chosen("mean_nll+random"), aim)
    part = aim.calibrates(800)
    expected = stats.selective_threshold(one.scores["mean_nll"][part], one.wrong[part], risk=0.1, confidence=0.95)
    assert rules[0].found == expected
    assert "all 2 rows at once" in threshold_table(one, rules, aim).notes[0]


def test_the_promise_is_in_plain_words():
    one = case()
    text = show_threshold(threshold_table(one, find_rules(one, chosen("mean_nll"), Aim(0.1)), Aim(0.1)), "md")
    assert "Guaranteed with confidence 0.9: among the documents that the rule answers, at most 0.1 are wrong" in text
    aim = Aim(0.1, guarantee="expected")
    text = show_threshold(threshold_table(one, find_rules(one, chosen("mean_nll"), aim), aim), "md")
    assert "Guaranteed on average" in text and "at most 0.1 of all documents are answered and wrong" in text


def test_out_of_reach_promises_nothing_and_says_what_would_do():
    one, aim = case(40), Aim(risk=0.01)
    found = threshold_table(one, find_rules(one, chosen("mean_nll"), aim), aim)
    assert found.rows[0]["answer_when"] == "never" and math.isnan(found.rows[0]["threshold"])
    assert found.rows[0]["answered"] == 0 and found.rows[0]["documents_needed"] == 230  # .99^229.1 = .1
    text = show_threshold(found, "md")
    assert (
        "mean_nll: no threshold reaches risk 0.01 at confidence 0.9 with n = 20: too few even without an error" in text
    )
    assert "about 230 to calibrate on are needed" in text and "Guaranteed" not in text


def test_a_metric_without_scores_answers_nothing():
    one, aim = case(), Aim(risk=0.1)
    one = Case(
        one.task, one.label, {}, one.quality, one.wrong, absent={"mean_nll": "not recorded"}, documents=one.documents
    )
    rules = find_rules(one, chosen("mean_nll"), aim)
    assert any("no score of these documents, not recorded" in n for n in threshold_table(one, rules, aim).notes)
    assert not any(row["answered"] for row in answer_rows(one, rules, aim))


def test_answers_name_every_document_its_part_and_its_fate():
    one, aim = case(), Aim(risk=0.1)
    one.scores["mean_nll"][5] = math.nan
    rules = find_rules(one, chosen("mean_nll"), aim)
    rows = answer_rows(one, rules, aim)
    assert [row["doc_id"] for row in rows] == list(range(100, 900))
    assert sum(row["part"] == "calibration" for row in rows) == 400
    value = rules[0].found.value
    assert all(row["answered"] == (row["score"] < value) for row in rows) and not rows[5]["answered"]
    table = threshold_table(one, rules, aim)
    assert table.rows[0]["unscored"] == 1 and any("1 unscored documents" in note for note in table.notes)


def test_all_may_calibrate_and_then_nothing_tests():
    one, aim = case(), Aim(risk=0.1, share=1.0)
    found = threshold_table(one, find_rules(one, chosen("mean_nll"), aim), aim)
    assert found.rows[0]["calibration_n"] == 800 and math.isnan(found.rows[0]["answered"])
    assert any("none is left to test on" in note for note in found.notes)
    with pytest.raises(ValueError, match="split is 0"):
        Aim(0.1, share=0).calibrates(10)


def test_one_class_is_no_obstacle():
    right = np.zeros(100, bool)
    one = Case("t", "acc@none", {"mean_nll": np.arange(100.0)}, np.ones(100), right, documents=list(range(100)))
    (rule,) = find_rules(one, chosen("mean_nll"), Aim(0.1))
    assert rule.text == "whenever scored" and rule.found.answered == 50


def test_answers_without_the_span_are_counted_in_every_outcome():
    one = replace(case(200), unmapped={"the filter matched nothing": 7})
    for risk in (0.0001, 0.4):  # none is found, one is
        aim = Aim(risk)
        rules = find_rules(one, chosen("mean_nll"), aim)
        assert math.isnan(rules[0].found.value) == (risk < 0.01)
        note = "In 7 of 200 answers there is nothing to score: the filter matched nothing."
        assert note in threshold_table(one, rules, aim).notes
