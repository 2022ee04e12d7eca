"""One row a data set: scores, means and AUROCs against values computed apart, and what tracks what."""

import math

import numpy as np
import pytest
from data_sets import case, column
from scipy.stats import spearmanr

from metrics import stats
from metrics.cases import LOWER
from metrics.choosing import choose
from metrics.dataset_table import MACRO, Dataset, dataset_table, firsts, show
from metrics.report import interval

CHOSEN = choose(["mean_nll", "answer_length"])
CONFIDENT = choose("margin")[0]


def test_score_mean_and_auroc_of_a_data_set_by_hand():
    one = case("t", [1, 0, 1, 0], {"mean_nll": [0.1, 0.9, 0.5, 0.3]})
    (row,) = dataset_table([Dataset("m", one)], CHOSEN).rows
    assert (row["task"], row["n"], row["wrong"], row["unscored"]) == ("t", 4, 2, 0)
    assert row["score"] == 0.5 and row["score_se"] == pytest.approx(math.sqrt(1 / 3) / 2)  # sd with n - 1, over sqrt(n)
    assert row["mean"] == pytest.approx(0.45)
    assert row["statistic"] == "auroc" and row["value"] == 0.75  # of the four pairs, .3 < .5 alone is out of order
    e = stats.delong_interval(one.scores["mean_nll"], one.wrong)
    assert (row["lower"], row["upper"], row["value_se"]) == (e.lower, e.upper, e.se)


def test_a_metric_of_confidence_has_its_own_sign():
    """A case holds scores turned to uncertainty; the mean is turned back, and AUROC stays that of wrong answers."""
    one = case("t", [1, 0, 1, 0], {CONFIDENT.id: [-0.9, -0.1, -0.8, -0.2]})
    (row,) = dataset_table([Dataset("m", one)], [CONFIDENT]).rows
    assert CONFIDENT.metric.higher == "confident"
    assert row["mean"] == pytest.approx(0.5) and row["value"] == 1.0


def test_missing_scores_are_left_out_of_the_mean_and_counted():
    one = case("t", [1, 0, 1, 0], {"mean_nll": [0.1, np.nan, 0.5, 0.3]}, absent={"answer_length": "no such signal"})
    table = dataset_table([Dataset("m", one)], CHOSEN)
    (row,) = table.rows
    assert row["mean"] == pytest.approx(0.3) and row["unscored"] == 1 and row["n"] == 4
    assert "Without a score in t: 1 of 4: mean_nll." in table.notes
    assert "No score of these documents, no such signal: answer_length." in table.notes


def test_one_class_and_one_document_and_no_metric():
    none_wrong = case("t", [1, 1], {"mean_nll": [0.1, 0.2]})
    (row,) = dataset_table([Dataset("m", none_wrong)], CHOSEN).rows
    assert math.isnan(row["value"]) and row["score"] == 1 and "one class only" in row["reason"]
    (row,) = dataset_table([Dataset("m", case("t", [1], {"mean_nll": [0.1]}))], CHOSEN).rows
    assert math.isnan(row["score_se"]) and math.isnan(row["mean_se"]) and row["mean"] == pytest.approx(0.1)
    (row,) = dataset_table([Dataset("m", case("t", [1, 0], {}))], CHOSEN).rows
    assert row["score"] == 0.5 and "metric" not in row
    assert "0.500 ± 0.500" in show(dataset_table([Dataset("m", case("t", [1, 0], {}))], CHOSEN), "md")


def test_a_graded_label_has_a_rank_correlation():
    one = case("t", [0.1, 0.9, 0.4, 0.6], {"mean_nll": [3, 1, 2.5, 2.7]}, "f1@none")
    table = dataset_table([Dataset("m", one)], CHOSEN)
    (row,) = table.rows
    assert row["statistic"] == "spearman" and row["score"] == pytest.approx(0.5)
    assert row["value"] == pytest.approx(-spearmanr([3, 1, 2.5, 2.7], [0.1, 0.9, 0.4, 0.6]).statistic)
    assert "rho 0.800" in show(table, "md") and any("Graded labels" in note for note in table.notes)


def test_less_is_better_shows_the_label():
    cases = [
        case(f"t{i}", [-q, -q - 0.1], {"mean_nll": [q, q]}, "ppl@none" + LOWER) for i, q in enumerate([1, 3, 2, 5])
    ]
    datasets = [Dataset("m", c) for c in cases]
    assert column(dataset_table(datasets, CHOSEN), "score", metric="mean_nll", task="t1") == [pytest.approx(3.05)]


def test_an_infinite_label_has_no_mean():
    one = case("t", [0.5, np.inf], {"mean_nll": [1, 2]}, "f1@none")
    (row,) = dataset_table([Dataset("m", one)], CHOSEN).rows
    assert math.isnan(row["score"])


def test_the_macro_average_counts_each_task_the_same_by_its_first_verdict():
    datasets = [
        Dataset(
            "m", case("a", [1, 0, 1, 0], {"mean_nll": [0.1, 0.9, 0.5, 0.3], "answer_length": [1, 2, 3, 4]}, "x@none")
        ),
        Dataset("m", case("a", [0, 0, 0, 1], {"mean_nll": [0.1, 0.9, 0.5, 0.3]}, "y@none")),
        Dataset("m", case("b", [1, 0], {"mean_nll": [0.2, 0.4]}, "x@none")),
    ]
    assert [d.case.label for d in firsts(datasets)] == ["x@none", "x@none"]
    table = dataset_table(datasets, CHOSEN)
    (row,) = [r for r in table.rows if r["task"] == MACRO]  # none of answer_length, which b lacks
    assert (row["metric"], row["verdict"], row["n"], row["wrong"]) == ("mean_nll", "2 tasks", 6, 3)
    assert row["score"] == 0.5 and row["mean"] == pytest.approx((0.45 + 0.3) / 2)
    assert row["value"] == pytest.approx((0.75 + 1) / 2)
    errors = [math.sqrt(1 / 3) / 2, 0.5]
    assert row["score_se"] == pytest.approx(math.hypot(*errors) / 2)


def test_what_is_amiss_is_said_once_for_its_place():
    scores = {"mean_nll": np.arange(12), "mean_entropy": np.arange(12)}
    chosen = choose("mean_nll+mean_entropy")
    one = [Dataset("m", case(task, [1] * 12, scores)) for task in ("t", "u")]
    assert "t; u: one class only: 0 wrong of 12" in " ".join(dataset_table(one, chosen).notes)
    two = [*one, Dataset("k", case("t", [1] * 12, scores)), Dataset("m", case("u", [0] * 12, scores, "f1@none"))]
    notes = " ".join(dataset_table(two, chosen).notes)
    assert "m, t; m, u, acc@none; k, t: " in notes and "m, u, f1@none: " in notes


def test_what_is_shown():
    scores = {"mean_nll": [0.1, 0.9, 0.5, 0.3], "answer_length": [1, 2, 3, 4]}
    datasets = [Dataset("m", case(f"t{i}", [1, 0, 1, 0], scores)) for i in range(5)]
    text = show(dataset_table(datasets, CHOSEN), "md")
    head = next(line for line in text.splitlines() if line.startswith("| task"))
    assert [c.strip() for c in head.strip("|").split("|")] == [
        "task", "verdict", "n", "score", "mean_nll", "AUROC of mean_nll", "AUROC of answer_length"
    ]  # fmt: skip
    assert sum(line.startswith("| t") for line in text.splitlines()) == 6  # the head and five data sets, a row each
    row = dataset_table(datasets, CHOSEN).rows[0]
    assert interval(row, "value") in text
    assert show(dataset_table(datasets, CHOSEN), "latex").startswith("% Data sets\n\\begin{tabular}")
