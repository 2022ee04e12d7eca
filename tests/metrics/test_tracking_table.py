"""Does a metric's mean track the score: on data sets whose order is known."""

import math

import pytest
from data_sets import case

from metrics.cases import LOWER
from metrics.choosing import choose
from metrics.dataset_table import Dataset
from metrics.tracking_table import POOLED, show, tracking_table

CHOSEN = choose(["mean_nll", "answer_length"])
CONFIDENT = choose("margin")[0]
SCORES = [0.2, 0.5, 0.4, 0.9, 0.7]


def documents(score, level, n=10):
    """A data set with that share right, whose metric has the mean `level` without telling right from wrong."""
    right = [1] * round(score * n) + [0] * (n - round(score * n))
    return right, {"mean_nll": [level] * n, "answer_length": [5] * n}


def model(name, shift=0.0, sign=-1):
    return [Dataset(name, case(f"t{i}", *documents(s, shift + sign * s))) for i, s in enumerate(SCORES)]


def test_a_mean_that_falls_with_the_score_tracks_it():
    table = tracking_table(model("m"), CHOSEN)
    nll, length = table.rows
    assert (nll["metric"], nll["expected"], nll["datasets"], nll["as_expected"]) == ("mean_nll", "below 0", 5, True)
    assert nll["spearman"] == -1 and nll["pearson"] == pytest.approx(-1)
    assert nll["spearman_p"] == pytest.approx(2 / 120) and nll["spearman_p_bh"] == nll["spearman_p"]
    assert math.isnan(length["spearman"]) and length["as_expected"] is None
    assert "answer_length: all values are tied." in table.notes
    assert not any(row["model"] == POOLED for row in table.rows)
    (rises, _) = tracking_table(model("m", sign=1), CHOSEN).rows
    assert rises["spearman"] == 1 and rises["as_expected"] is False


def test_a_mean_of_confidence_is_expected_to_rise():
    datasets = [
        Dataset("m", case(f"t{i}", documents(s, 0)[0], {CONFIDENT.id: [-s] * 10})) for i, s in enumerate(SCORES)
    ]
    (row,) = tracking_table(datasets, [CONFIDENT]).rows
    assert row["spearman"] == 1 and row["expected"] == "above 0" and row["as_expected"] is True


def test_models_are_pooled_about_their_means_over_the_tasks_of_all():
    two = [*model("small"), *model("large", shift=100)]
    two.append(Dataset("large", case("alone", *documents(0.1, 7))))
    table = tracking_table(two, CHOSEN)
    rows = {row["model"]: row for row in table.rows if row["metric"] == "mean_nll"}
    assert list(rows) == ["small", "large", POOLED]
    assert (rows["large"]["datasets"], rows[POOLED]["datasets"]) == (6, 5)
    assert rows[POOLED]["pearson"] == pytest.approx(-1)
    assert "| model " in show(table, "md") and "| model " not in show(tracking_table(model("m"), CHOSEN), "md")


def test_models_without_a_task_in_common_are_not_pooled():
    other = [Dataset("other", case(f"u{d.case.task}", d.case.quality, d.case.scores)) for d in model("m")]
    table = tracking_table([*model("m"), *other], CHOSEN)
    assert {row["model"] for row in table.rows} == {"m", "other"}
    assert any("nothing is pooled" in note for note in table.notes)


def test_three_data_sets_are_too_few():
    table = tracking_table(model("m")[:3], CHOSEN)
    assert all(math.isnan(row["spearman"]) and math.isnan(row["spearman_p_bh"]) for row in table.rows)
    assert "All metrics: 3 data sets; a correlation over data sets needs at least 4." in table.notes
    assert not any("Intervals" in note for note in table.notes)
    assert "|" not in show(table, "md")


def test_scores_of_different_kinds_are_said():
    mixed = [*model("m")[:4], Dataset("m", case("f", [0.3, 0.6], {"mean_nll": [1, 2]}, "f1@none"))]
    assert any("different kinds" in note for note in tracking_table(mixed, CHOSEN).notes)
    assert not any("different kinds" in note for note in tracking_table(model("m"), CHOSEN).notes)


def test_less_is_better_is_turned_round():
    losses = {"t0": 1, "t1": 3, "t2": 2, "t3": 5}
    cases = [case(t, [-q, -q - 0.1], {"mean_nll": [q, q]}, "ppl@none" + LOWER) for t, q in losses.items()]
    (row,) = tracking_table([Dataset("m", c) for c in cases], CHOSEN).rows
    assert row["spearman"] == -1 and row["as_expected"] is True


def test_each_task_counts_once_by_its_first_verdict():
    others = [Dataset("m", case(d.case.task, [0, 1], {"mean_nll": [0, 50]}, "other@none")) for d in model("m")]
    one, both = tracking_table(model("m"), CHOSEN[:1]), tracking_table([*model("m"), *others], CHOSEN[:1])
    assert [(r["datasets"], r["pearson"]) for r in one.rows] == [(r["datasets"], r["pearson"]) for r in both.rows]
