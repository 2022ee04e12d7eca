"""Predicted scores of data sets: planted relation, noise, too few, and the numbers of the table by hand."""

import numpy as np
import pytest

from metrics import stats
from metrics.cases import Case
from metrics.choosing import choose
from metrics.dataset_table import Dataset
from metrics.prediction_table import prediction_tables, show

CHOSEN = choose("mean_nll+mean_entropy")


def datasets(tasks=12, models=("a",), related=True, seed=0, n=40):
    rng = np.random.default_rng(seed)
    made = []
    for model in models:
        for t in range(tasks):
            rate = 0.1 + 0.8 * t / tasks
            quality = (rng.random(n) < rate).astype(float)
            level = 2 - quality.mean() if related else rng.normal()
            scores = {"mean_nll": level + 0.01 * rng.normal(size=n), "mean_entropy": rng.normal(size=n)}
            made.append(Dataset(model, Case(f"t{t}", "acc@none", scores, quality, quality == 0, verdict="acc@none")))
    return made


def by_name(table):
    return {row["predictor"]: row for row in table.rows}


def test_a_planted_relation_is_found():
    summary, pairs = prediction_tables(datasets(), CHOSEN)
    found = by_name(summary)
    assert set(found) == {"ridge over all 2", "mean_nll", "mean_entropy", "mean of the others' scores"}
    assert found["mean_nll"]["mae"] < 0.1 * found["mean of the others' scores"]["mae"]
    assert found["mean_nll"]["gain_lower"] > 0 and found["mean_nll"]["spearman"] > 0.95
    assert found["mean_entropy"]["gain_lower"] < 0
    assert summary.rows[0]["predictor"] in ("mean_nll", "ridge over all 2")
    actual = np.array([row["actual"] for row in pairs.rows])
    predicted = np.array([row["predicted"] for row in pairs.rows])
    assert found["ridge over all 2"]["mae"] == pytest.approx(np.abs(actual - predicted).mean())
    constant = (actual.sum() - actual) / (len(actual) - 1)
    assert found["mean of the others' scores"]["mae"] == pytest.approx(np.abs(constant - actual).mean())


def test_what_is_left_out():
    both = datasets(tasks=5, models=("a", "b"))
    x = np.array([[d.case.scores["mean_nll"].mean()] for d in both])
    y = np.array([d.case.quality.mean() for d in both])
    tasks = np.array([d.case.task for d in both])
    for leave, part in (("dataset", tasks), ("pair", np.arange(10))):
        (summary, _) = prediction_tables(both, choose("mean_nll"), leave=leave)
        expected = np.abs(stats.leave_out_ridge(x, y, part).values - y).mean()
        assert by_name(summary)["mean_nll"]["mae"] == pytest.approx(expected)
    assert "says nothing of new tasks" in " ".join(summary.notes)
    assert "Below 10 tasks no interval" in " ".join(summary.notes)


def test_noise_does_not_help():
    (summary, _) = prediction_tables(datasets(related=False, tasks=20), CHOSEN)
    assert by_name(summary)["mean_nll"]["gain"] < 0.05


def test_the_correlation_of_noise_is_near_zero():
    """Of predictions as they are it is near -1 here: the others' mean is low where the score is high."""
    found, plain = [], []
    for seed in range(12):
        summary, pairs = prediction_tables(datasets(related=False, tasks=8, seed=seed), choose("mean_entropy"))
        found.append(by_name(summary)["mean_entropy"]["spearman"])
        rows = pairs.rows
        plain.append(stats.spearman([r["predicted"] for r in rows], [r["actual"] for r in rows]).value)
    assert np.mean(plain) < -0.8 and np.mean(found) > -0.4
    assert "Spearman [95 % CI]" not in show(summary, "md") and "near 0 where nothing is known" in show(summary, "md")


def test_too_few_are_said_not_predicted():
    (only,) = prediction_tables(datasets(tasks=3), CHOSEN)
    assert only.rows == [] and "3 to leave out, one at a time; at least 4 are needed" in only.notes[0]
    assert show(only, "md").startswith("### Do metrics' means predict the score?")


def test_a_metric_without_a_mean_somewhere_is_named():
    some = datasets(tasks=5)
    some[2].case.scores["mean_entropy"][:] = np.nan
    (summary, _) = prediction_tables(some, CHOSEN)
    assert "mean_nll" in by_name(summary) and "mean_entropy" not in by_name(summary)
    assert "Not used, without a mean in some data set: mean_entropy." in summary.notes
    assert "| mean_nll " in show(summary, "md")
