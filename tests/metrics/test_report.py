import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.stats import false_discovery_control, spearmanr
from sklearn.metrics import average_precision_score, roc_auc_score

from metrics.cases import MOST_CAUSES, Case, cases, errors_by
from metrics.choosing import choose
from metrics.report import BASELINES, alike, auroc_table, graded_table, macro_table, show
from metrics.stats import delong_interval, delong_test, macro_average, prr

NAMES = ["answer_length", "prompt_length", "random", "mean_nll", "mean_entropy", "margin", "self_certainty"]


def made(n=120, *, seed=0, task="t", label="acc@none", quality=None, **columns):
    """A frame as `metrics.frame.score_frame` makes it; `columns` replace scores."""
    rng = np.random.default_rng(seed)
    right = (rng.random(n) < 0.7).astype(float) if quality is None else np.asarray(quality, dtype=float)
    frame = pd.DataFrame({"task": task, "doc_id": np.arange(n)})
    for i, name in enumerate(NAMES):
        sign = -1 if name in ("margin", "self_certainty") else 1
        frame[name] = columns.get(name, sign * (rng.normal(size=n) - 0.2 * i * np.nan_to_num(right, neginf=0.0)))
    frame["answer_length"] = columns.get("answer_length", rng.integers(1, 30, n).astype(float))
    frame[f"label:{label}"] = right
    return frame


def one(frame, **options):
    (case,) = cases(frame, choose(NAMES), **options)
    return case


def by_metric(table):
    return {row["metric"]: row for row in table.rows}


def test_rows_equal_sklearn_from_the_frame_with_the_declared_sign():
    frame = made()
    rows = by_metric(auroc_table(one(frame)))
    wrong = frame["label:acc@none"] == 0
    assert set(rows) == set(NAMES)
    for name, row in rows.items():
        sign = -1 if name in ("margin", "self_certainty") else 1
        assert row["auroc"] == pytest.approx(roc_auc_score(wrong, sign * frame[name]), abs=1e-12)
        assert row["average_precision"] == pytest.approx(average_precision_score(wrong, sign * frame[name]), abs=1e-12)
        assert row["prr"] == prr(sign * frame[name], wrong).value
        interval = delong_interval(sign * frame[name], wrong)
        assert (row["lower"], row["upper"]) == (interval.lower, interval.upper)
        assert (row["n"], row["wrong"], row["error_rate"]) == (120, wrong.sum(), pytest.approx(wrong.mean()))


def test_a_confident_metric_that_falls_with_errors_scores_above_one_half():
    wrong = np.arange(40) % 4 == 0
    frame = made(40, quality=~wrong, margin=np.where(wrong, 0.1, 0.9), mean_nll=np.where(wrong, 0.1, 0.9))
    rows = by_metric(auroc_table(one(frame)))
    assert rows["margin"]["auroc"] == 1.0
    assert rows["mean_nll"]["auroc"] == 0.0
    assert "Reversed here, with the whole interval below .5: mean_nll" in show(auroc_table(one(frame)), "md")


def test_rows_are_sorted_by_auroc():
    values = [row["auroc"] for row in auroc_table(one(made())).rows]
    assert values == sorted(values, reverse=True)


@pytest.mark.parametrize("against", [None, "mean_nll", "random"])
def test_each_metric_is_tested_against_the_baseline(against):
    case = one(made())
    table = auroc_table(case, against=against)
    base = against or "answer_length"
    assert table.against == base
    rows = by_metric(table)
    assert math.isnan(rows[base]["p"]) and math.isnan(rows[base]["delta"])
    others = [name for name in rows if name != base]
    for name in others:
        test = delong_test(case.scores[name], case.scores[base], case.wrong)
        assert rows[name]["p"] == test.p
        assert rows[name]["delta"] == test.difference.value
    adjusted = false_discovery_control([rows[name]["p"] for name in others])
    assert [rows[name]["p_bh"] for name in others] == pytest.approx(list(adjusted))


def test_a_missing_baseline_is_named_and_the_length_stands_in():
    table = auroc_table(one(made()), against="choice_entropy")
    assert table.against == "answer_length"
    assert "choice_entropy has no score here, so the gain is over answer_length." in table.notes


def test_metrics_that_order_alike_count_as_one_test():
    case = one(made())
    assert case.wrong is not None
    twice = replace(case, scores={**case.scores, "perplexity": np.exp(case.scores["mean_nll"])})
    plain, more = by_metric(auroc_table(case)), by_metric(auroc_table(twice))
    assert {n: r["p_bh"] for n, r in plain.items()} == pytest.approx(
        {n: more[n]["p_bh"] for n in plain}, nan_ok=True, abs=0
    )
    assert more["perplexity"]["p_bh"] == more["mean_nll"]["p_bh"]


def test_bootstrap_gives_intervals_that_hold_the_value_and_repeat():
    first, second = (by_metric(auroc_table(one(made()), replicates=200, seed=3)) for _ in range(2))
    for name, row in first.items():
        for statistic in ("average_precision", "prr", "aurc"):
            assert row[f"{statistic}_lower"] <= row[statistic] <= row[f"{statistic}_upper"]
        assert row == pytest.approx(second[name], nan_ok=True)
    assert first["mean_nll"]["prr_lower"] < first["mean_nll"]["prr_upper"]


def test_the_length_of_the_prompt_stands_in_when_answers_are_of_one_length():
    table = auroc_table(one(made(answer_length=np.ones(120))))
    assert table.against == "prompt_length"
    assert any("pairs of like prompt_length only" in note for note in table.notes)


def test_missing_scores_are_counted_and_left_out_of_that_row_alone():
    frame = made()
    frame.loc[:9, "mean_nll"] = np.nan
    rows = by_metric(auroc_table(one(frame)))
    rest = frame.iloc[10:]
    assert (rows["mean_nll"]["unscored"], rows["mean_nll"]["n"]) == (10, 110)
    assert rows["mean_nll"]["auroc"] == pytest.approx(roc_auc_score(rest["label:acc@none"] == 0, rest["mean_nll"]))
    assert (rows["margin"]["unscored"], rows["margin"]["n"]) == (0, 120)


def test_a_metric_without_any_score_has_no_row_and_is_named_with_its_reason():
    frame = made(mean_nll=np.full(120, np.nan), margin=np.full(120, np.nan))
    frame.attrs["unscored"] = {"mean_nll": {"signal 'logprob' was not recorded": 120}}
    table = auroc_table(one(frame))
    assert not {"mean_nll", "margin"} & set(by_metric(table))
    text = show(table, "md")
    assert "No score of these documents, signal 'logprob' was not recorded: mean_nll." in text
    assert "No score of these documents, no reason is known: margin." in text


def test_no_score_at_all_is_a_stated_result():
    frame = made(**{name: np.full(120, np.nan) for name in NAMES})
    for table in (auroc_table(one(frame)), graded_table(one(frame))):
        assert table.rows == []
        assert "n = 120" in show(table, "md") and "mean_entropy" in show(table, "md")


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_one_class_is_a_stated_result(value):
    table = auroc_table(one(made(quality=np.full(120, value))))
    assert all(math.isnan(row["auroc"]) for row in table.rows)
    text = show(table, "md")
    assert "one class only" in text and f"error rate {1 - value:.3f}" in text


def test_all_ties_are_one_half_and_said():
    constant = {name: np.ones(120) for name in NAMES}
    table = auroc_table(one(made(**constant)))
    assert {row["auroc"] for row in table.rows} == {0.5}
    assert "All metrics: all scores are tied" in show(table, "md")
    assert "lengths hardly vary" in show(table, "md")


@pytest.mark.parametrize("n", [1, 2, 3, 9])
def test_few_documents_are_a_warning_not_a_crash(n):
    quality = np.arange(n) % 2
    table = auroc_table(one(made(n, quality=quality)))
    assert len(table.rows) == len(NAMES)
    assert f"n = {n} is below 10" in show(table, "md")
    assert "n = " in show(graded_table(one(made(n, quality=quality / 3))), "md")


def test_infinite_scores_rank_first():
    frame = made()
    frame.loc[frame["label:acc@none"] == 0, "mean_nll"] = np.inf
    assert by_metric(auroc_table(one(frame)))["mean_nll"]["auroc"] == 1.0


def test_documents_without_this_label_are_left_out():
    frame = made()
    frame.loc[:19, "label:acc@none"] = np.nan
    assert auroc_table(one(frame)).rows[0]["n"] == 100


def test_each_task_and_label_is_a_case_of_its_own():
    frame = pd.concat([made(30, task="b"), made(20, task="a", label="f1@none", quality=np.linspace(0, 2, 20))])
    found = cases(frame, choose(NAMES))
    assert [(c.task, c.label, c.wrong is None) for c in found] == [("b", "acc@none", False), ("a", "f1@none", True)]


def test_graded_labels_correlate_as_scipy_says():
    quality = np.random.default_rng(3).random(80)
    frame = made(80, quality=quality, label="f1@none")
    table = graded_table(one(frame))
    rows = by_metric(table)
    for name in NAMES:
        sign = -1 if name in ("margin", "self_certainty") else 1
        assert rows[name]["spearman"] == pytest.approx(spearmanr(-sign * frame[name], quality).statistic, abs=1e-12)
        assert rows[name]["lower"] < rows[name]["spearman"] < rows[name]["upper"]
    assert "mean quality" in show(table, "md") and "--threshold" in show(table, "md")


def test_good_uncertainty_correlates_positively_with_quality():
    quality = np.linspace(0, 1, 50)
    rows = by_metric(graded_table(one(made(50, quality=quality, mean_nll=-quality, margin=quality))))
    assert rows["mean_nll"]["spearman"] == rows["margin"]["spearman"] == 1.0
    assert rows["mean_nll"]["prr"] == pytest.approx(1.0)


def test_an_infinite_grade_has_a_rank_but_no_prr():
    quality = np.linspace(-5, 0, 30)
    quality[0] = -np.inf
    table = graded_table(one(made(30, quality=quality)))
    assert all(math.isnan(row["prr"]) and not math.isnan(row["spearman"]) for row in table.rows)
    assert "Some labels are infinite" in show(table, "md")


def test_a_threshold_makes_a_graded_label_binary():
    quality = np.linspace(0, 1, 101)
    case = one(made(101, quality=quality), threshold=0.3)
    assert case.wrong is not None and case.wrong.sum() == (quality < 0.3).sum() == 30
    assert case.title == "t, acc@none >= 0.3"


def test_errors_by_a_cause_keeps_every_right_answer():
    case = one(made())
    causes = np.where(np.arange(120) % 2 == 0, "even", "odd")
    found = errors_by(case, "parity", causes)
    assert [c.subset.rsplit("=")[-1] for c in found] == ["even", "odd"]
    for part, value in zip(found, ("even", "odd")):
        keep = ~case.wrong | (causes == value)
        assert part.wrong.sum() == (case.wrong & (causes == value)).sum()
        assert (~part.wrong).sum() == (~case.wrong).sum()
        assert np.array_equal(part.scores["mean_nll"], case.scores["mean_nll"][keep])


def test_errors_by_takes_missing_values_and_mixed_types():
    case = one(made(40))
    values = [None, 1, "1", 2.5] * 10
    assert sum(int(c.wrong.sum()) for c in errors_by(case, "x", values)) == case.wrong.sum()


def test_errors_by_refuses_names_and_grades():
    case = one(made(200, quality=np.zeros(200)))
    with pytest.raises(ValueError, match=f"id has 200 values among the wrong answers; .* at most {MOST_CAUSES}"):
        errors_by(case, "id", range(200))
    with pytest.raises(ValueError, match="graded"):
        errors_by(one(made(50, quality=np.linspace(0, 1, 50))), "x", ["a"] * 50)


def test_the_macro_average_counts_each_task_once():
    frame = pd.concat([made(200, task="a"), made(40, seed=1, task="b", self_certainty=np.full(40, np.nan))])
    tables = [auroc_table(case) for case in cases(frame, choose(NAMES))]
    table = macro_table(tables)
    rows = by_metric(table)
    assert set(rows) == set(NAMES) - {"self_certainty"}
    assert "self_certainty" in table.notes[-1]
    for name, row in rows.items():
        parts = [by_metric(t)[name]["auroc"] for t in tables]
        assert row["auroc"] == pytest.approx(np.mean(parts))
        expected = macro_average([t.estimates[name] for t in tables])
        assert (row["lower"], row["upper"]) == (expected.lower, expected.upper)
        assert (row["tasks"], row["n"]) == (2, 240)
        assert row["error_rate"] == pytest.approx((frame["label:acc@none"] == 0).mean())


def test_the_macro_average_says_which_tasks_it_could_not_use():
    frame = pd.concat([made(50, task="a"), made(40, task="b", quality=np.ones(40))])
    table = macro_table([auroc_table(case) for case in cases(frame, choose(NAMES))])
    assert {row["tasks"] for row in table.rows} == {1}
    assert "1 of 2 tasks have no value" in show(table, "md")


def test_equal_orders_are_shown_once_but_baselines_always():
    rng = np.random.default_rng(0)
    x = rng.random(120)
    table = auroc_table(one(made(mean_nll=x, mean_entropy=np.exp(x), prompt_length=x)))
    text = show(table, "md")
    assert "Same order, shown once: mean_nll = mean_entropy." in text
    shown = [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("| ")][1:]
    assert "mean_entropy" not in shown
    assert set(BASELINES) <= set(shown)


def test_alike_tells_ties_and_gaps_apart():
    base = np.array([1.0, 2.0, 3.0, np.nan])
    found = alike(
        {
            "a": base,
            "same": base * 2,
            "tied": np.array([1.0, 2.0, 2.0, np.nan]),
            "gap": np.array([1.0, 2.0, np.nan, 3.0]),
        }
    )
    assert found == {"a": "a", "same": "a", "tied": "tied", "gap": "gap"}


def test_the_text_carries_n_error_rate_interval_and_baselines():
    frame = made()
    for format_ in ("md", "latex"):
        text = show(auroc_table(one(frame)), format_).replace("\\", "")
        assert "[95 % CI]" in text and "error rate" in text and "n = 120" in text
        assert all(name in text for name in BASELINES)
    assert show(auroc_table(one(frame)), "latex").startswith("% t, acc@none\n\\begin{tabular}")


def test_a_case_without_documents_is_a_stated_result():
    nothing = np.zeros(0)
    case = Case("t", "acc@none", {"mean_nll": nothing}, nothing, nothing.astype(bool))
    assert "No labelled document." in show(auroc_table(case), "md")
    assert "No labelled document." in show(graded_table(case), "md")


def test_a_label_of_which_less_is_better_is_turned_round():
    frame = made()
    plain = one(frame)
    turned = frame.copy()
    (column,) = (c for c in frame.columns if c.startswith("label:"))
    turned[column] = 1 - frame[column]
    turned.attrs = {**frame.attrs, "lower_is_better": [("t", column.removeprefix("label:").split("@")[0])]}
    case = one(turned)
    assert case.label.endswith("(less is better)")
    np.testing.assert_array_equal(case.wrong, plain.wrong)


def test_one_odd_answer_does_not_make_the_length_a_covariate():
    lengths = np.full(120, 2.0)
    lengths[0] = 3.0
    assert auroc_table(one(made(answer_length=lengths))).against == "prompt_length"


def test_what_others_are_tested_against_has_a_row_of_its_own():
    case = one(made())
    assert case.wrong is not None
    twice = replace(case, scores={**case.scores, "perplexity": np.exp(case.scores["mean_nll"])})
    table = auroc_table(twice, against="perplexity")
    assert table.alike["perplexity"] == table.alike["mean_nll"] == "perplexity"
    assert "| perplexity " in show(table, "md") and "| mean_nll " not in show(table, "md")


def test_no_p_value_from_four_answers():
    quality = np.ones(120)
    quality[:4] = 0
    table = auroc_table(one(made(quality=quality)))
    assert all(np.isnan(row["p"]) and np.isnan(row["p_bh"]) for row in table.rows)
    assert any("not tested, with fewer than 5 in a class" in note for note in table.notes)


def test_reasons_are_the_tasks_own_and_chance_is_that_of_the_scored():
    scores = np.array([0.1, np.nan, 0.3, 0.4, np.nan, 0.9])
    frame = pd.DataFrame(
        {
            "task": ["t"] * 6 + ["other"],
            "doc_id": [*range(6), 0],
            "sample": 0,
            "mean_nll": [*scores, np.nan],
            "label:acc@none": [1.0, 0.0, 1.0, 0.0, 0.0, 1.0, 1.0],
        }
    )
    frame.attrs["unscored"] = {"mean_nll": {"empty answer": 2, "not generated": 1}}
    frame.attrs["reasons"] = {"t": {"mean_nll": ["empty answer"]}, "other": {"mean_nll": ["not generated"]}}
    other, one = cases(frame, choose("mean_nll"))
    notes = auroc_table(one).notes
    assert "mean_nll" in one.scores
    assert any("2 of 6 scores are NaN" in note and note.endswith("(empty answer).") for note in notes), notes
    assert "Of 4 documents with a score 1 are wrong: among them a random order has AP 0.250." in notes
    assert other.absent == {"mean_nll": "not generated"}
