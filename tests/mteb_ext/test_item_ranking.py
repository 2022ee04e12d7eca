"""Rankings on resampled items, by hand and by slow loops."""

import numpy as np
import pytest

from mteb_ext import ranking
from mteb_ext.item_ranking import item_draws
from mteb_ext.long_table import typed
from mteb_ext.ranking import Options, judge
from mteb_ext.series import series

FAST = Options(draws=200)
KEYS = [("m", "r", "layer_0"), ("m", "r", "layer_1"), ("x", "r", "")]
DRAWN = {
    "A0": (KEYS, np.array([[0.5, 0.4, 9], [0.3, 0.4, 9], [0.6, 0.4, 9]])),
    "A1": (KEYS[::-1], np.array([[9, 0.6, 0.6], [9, 0.1, 0.1], [9, 0.1, 0.2]])),
}


def made(scores):
    rows = [
        {"model": "m", "revision": "r", "layer": k, "task": f"A{t}", "type": "A", "blocks": len(scores) - 1,
         "variant": f"layer_{k}", "main_score": s}
        for k, row in enumerate(scores) for t, s in enumerate(row)
    ]  # fmt: skip
    (found,) = series(typed(rows))
    return found


def test_p_best_over_items():
    s = made([[0.5, 0.5], [0.4, 0.6]])
    np.testing.assert_allclose(item_draws(s.on([0]), DRAWN).p_best, [2 / 3, 1 / 3])
    # means over both tasks: .55 .5 | .2 .25 | .4 .25
    np.testing.assert_allclose(item_draws(s, DRAWN).p_best, [2 / 3, 1 / 3])
    assert item_draws(s, DRAWN | {"A1": (KEYS[:1], np.zeros((3, 1)))}).tasks == ("A0",)
    assert item_draws(s, {}) is None and item_draws(s, None) is None


def test_the_gap_is_the_percentile_interval_of_paired_draws():
    s = made([[0.5, 0.5], [0.4, 0.6]])
    found = item_draws(s, DRAWN).gap(0, 1, 0.9)
    each = [0.05, -0.05, 0.15]
    assert found.value == pytest.approx(0)
    assert (found.lower, found.upper) == pytest.approx(tuple(np.quantile(each, [0.05, 0.95])))
    assert found.se == pytest.approx(np.std(each, ddof=1)) and found.n == 2


def test_the_value_is_of_the_tasks_with_predictions_alone():
    s = made([[0.5, 0.9], [0.4, 0.1]])
    one = {"A0": DRAWN["A0"]}
    assert item_draws(s, one).gap(0, 1, 0.9).value == pytest.approx(0.1)
    (row,) = ranking.model_rows([judge(s, FAST, items=one)], FAST)
    assert row["gap_last_items"] == pytest.approx(0.1) and row["gap_last"] == pytest.approx(0.45)


def test_draws_without_a_score_are_left_out():
    s = made([[0.5], [0.4]])
    holes = {"A0": (KEYS[:2], np.array([[0.5, 0.4], [np.nan, 0.9], [0.7, 0.4]]))}
    found = item_draws(s, holes)
    assert found.means.shape == (2, 2) and found.p_best.tolist() == [1, 0]
    assert (found.gap(0, 1, 0.5).lower, found.gap(0, 1, 0.5).upper) == pytest.approx((0.15, 0.25))
    empty = item_draws(s, {"A0": (KEYS[:2], np.full((3, 2), np.nan))})
    assert np.isnan(empty.gap(0, 1, 0.5).lower) and empty.gap(0, 1, 0.5).value == pytest.approx(0.1)
    assert np.isnan(empty.p_best).all()


def test_gaps_over_items_reach_the_tables():
    rng = np.random.default_rng(1)
    scores = rng.random((3, 7))
    s = made(scores)
    keys = [("m", "r", f"layer_{k}") for k in range(3)]
    items = {f"A{t}": (keys, scores[:, t] + rng.normal(0, 0.01, (400, 3))) for t in range(3)}
    v = judge(s, FAST, items=items)
    best, last = v.best, 2
    means = np.mean([items[t][1] for t in items], axis=0)
    others = [k for k in range(3) if k != best]
    (model,) = ranking.model_rows([v], FAST)
    rows = {row["layer"]: row for row in ranking.overall_rows([v], FAST)}
    for k in others:
        edges = np.quantile(means[:, best] - means[:, k], [0.025, 0.975])
        assert rows[k]["behind_items"] == pytest.approx((scores[best, :3] - scores[k, :3]).mean())
        assert [rows[k]["behind_items_lower"], rows[k]["behind_items_upper"]] == pytest.approx(edges)
    edges = np.quantile(means[:, best] - means[:, last], [0.025, 0.975])
    assert [model["gap_last_items_lower"], model["gap_last_items_upper"]] == pytest.approx(edges)
    tasks = {row["task"]: row for row in ranking.task_rows([v], FAST, items)}
    top = int(scores[:, 1].argmax())
    drawn = items["A1"][1]
    for name, row in (("last", 2), ("middle", 1)):
        found = [tasks["A1"][f"gap_{name}_items_{end}"] for end in ("lower", "upper")]
        assert found == pytest.approx(np.quantile(drawn[:, top] - drawn[:, row], [0.025, 0.975]))
        assert tasks["A1"][f"gap_{name}_items"] == pytest.approx(scores[top, 1] - scores[row, 1])
    assert np.isnan(tasks["A5"]["gap_last_items"]) and np.isnan(tasks["A5"]["p_best_items"])
    (type_,) = ranking.type_rows([v], FAST, items)
    assert type_["gap_last_items"] == model["gap_last_items"]
    within = ranking.within_rows([v], FAST, items, by="task")
    assert next(row["p_best_items"] for row in within if row["task"] == "A1") == tasks["A1"]["p_best_items"]


def test_without_predictions_no_table_has_their_columns():
    v = judge(made(np.random.default_rng(2).random((3, 4))), FAST)
    tables = [ranking.model_rows([v], FAST), ranking.overall_rows([v], FAST), ranking.task_rows([v], FAST)]
    assert not [name for rows in tables for row in rows for name in row if "items" in name]


def test_other_groups_are_refused():
    with pytest.raises(ValueError, match="by is 'depth'; give 'type' or 'task'"):
        ranking.within_rows([], FAST, by="depth")
