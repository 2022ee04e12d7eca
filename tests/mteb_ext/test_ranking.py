"""Tables of a ranking, against plain pandas, loops and hand values."""

import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import rankdata, spearmanr, zscore

from metrics.stats import arms
from mteb_ext import ranking, results
from mteb_ext.depth import depth_rows
from mteb_ext.long_table import typed
from mteb_ext.ranking import Options, judge
from mteb_ext.series import choose, plain, series

PUBLISHED = Path(__file__).parents[3] / "shared/data/layer_by_layer/pythia_layer_scores.csv"
FAST = Options(draws=500)
real = pytest.mark.skipif(not PUBLISHED.is_file(), reason="the published scores lie beside the project, not in it")


def frame(rows):
    """Rows of (model, revision, layer, task, score), with depth and type as `read` gives them."""
    made = [dict(zip(("model", "revision", "layer", "task", "main_score"), r)) for r in rows]
    made = [{"type": r["task"][0], "blocks": 4, "variant": f"layer_{r['layer']}", **r} for r in made]
    return typed(made)


def grid(scores, model="m", revision="r", blocks=None):
    """A frame of scores (layers, tasks); tasks A1, A2, ..., of one type unless named otherwise."""
    rows = [(model, revision, k, f"A{t}", s) for k, row in enumerate(scores) for t, s in enumerate(row)]
    found = frame(rows)
    found["blocks"] = blocks if blocks is not None else len(scores) - 1
    return found


SCORES = np.round(np.random.default_rng(0).normal(0.5, 0.1, size=(5, 8)), 3)


@pytest.fixture(scope="module")
def published():
    return results.read(PUBLISHED), pd.read_csv(PUBLISHED)


@real
def test_the_published_410m_by_plain_pandas(published):
    frame, raw = published
    (s,) = series(choose(frame, models=["410m@main"], tasks=[], types=[]))
    raw = raw[(raw["model"] == "410m") & (raw["revision"] == "main")]
    table = raw.pivot(index="layer", columns="task", values="main_score")
    verdict = judge(s, Options())
    rows = {row["layer"]: row for row in ranking.overall_rows([verdict], Options())}
    means = table.mean(axis=1)
    assert rows[19]["rank"] == 1 and means.idxmax() == 19
    points, z = table.rank().sub(1).div(24).mean(axis=1), table.apply(zscore).mean(axis=1)
    types = {t: "STS" if t.startswith(("STS", "SICK", "BIO")) else "" for t in table}
    assert sum(kind == "STS" for kind in types.values()) == s.types.count("STS") == 5
    for k, row in rows.items():
        assert row["mean"] == pytest.approx(means[k])
        assert row["borda"] == pytest.approx(points[k])
        assert row["z_mean"] == pytest.approx(z[k])
        assert row["behind"] == pytest.approx(means[19] - means[k], nan_ok=True) or k == 19
    assert sum(row["p_best"] for row in rows.values()) == pytest.approx(1)
    (model,) = ranking.model_rows([verdict], FAST)
    assert (model["best_layer"], model["blocks"], model["tasks"]) == (19, 24, 16)
    assert model["last"] == pytest.approx(means[24]) and model["middle"] == pytest.approx(means[12])
    assert model["gap_last"] == pytest.approx(means[19] - means[24])
    assert model["gap_last_lower"] < model["gap_last_out_of_sample"] < model["gap_last"] < model["gap_last_upper"]
    assert model["oracle"] == pytest.approx(table.max().mean())


@real
def test_the_published_tables_per_task_and_type(published):
    frame, raw = published
    found = series(choose(frame, models=["160m"], tasks=[], types=[]))
    raw = raw[raw["model"] == "160m"].pivot(index="layer", columns="task", values="main_score")
    verdicts = [judge(s, FAST) for s in found]
    for row in ranking.task_rows(verdicts, FAST):
        assert row["best"] == raw[row["task"]].max()
        assert row["best_layer"] == raw[row["task"]].idxmax()
        others = raw.drop(columns=row["task"]).mean(axis=1)
        assert row["rho_others"] == pytest.approx(spearmanr(raw[row["task"]], others).statistic)
    sts = next(row for row in ranking.type_rows(verdicts, FAST) if row["type"] == "STS")
    means = raw[["BIOSSES", "SICK-R", "STS13", "STS16", "STSBenchmark"]].mean(axis=1)
    assert (sts["tasks"], sts["best_layer"], sts["best"]) == (5, means.idxmax(), pytest.approx(means.max()))


@real
def test_the_published_checkpoints_are_in_order_and_the_best_arm_is_not_the_last(published):
    found = series(choose(published[0], models=["410m"], tasks=[], types=[]))
    assert [s.label for s in found][:3] == ["410m@step1", "410m@step64", "410m@step128"]
    assert found[-1].label == "410m@main"
    best = ranking.arm_rows(found, FAST)[0]
    raw = published[1]
    means = raw[raw["model"] == "410m"].groupby(["revision", "layer"])["main_score"].mean()
    assert (best["model"], best["layer"]) == ("410m@step64000", 19)
    assert means.idxmax() == ("step64000", 19) and best["mean"] == pytest.approx(means.max())


def test_overall_by_hand():
    (s,) = series(grid([[0.1, 0.2], [0.5, 0.6], [0.3, 0.9]]))
    rows = ranking.overall_rows([judge(s, FAST)], FAST)
    assert [row["layer"] for row in rows] == [2, 1, 0]
    assert [row["mean"] for row in rows] == pytest.approx([0.6, 0.55, 0.15])
    assert [row["borda"] for row in rows] == pytest.approx([0.75, 0.75, 0.0])
    assert [row["mark"] for row in rows] == ["best, last", "middle", ""]
    # arm 2 loses only when both draws are task 0: 1 of 4
    assert rows[0]["p_best"] == pytest.approx(0.75, abs=0.06)


def test_the_mean_of_types_weighs_types_alike():
    found = frame(
        [
            ("m", "r", k, t, v)
            for k, vs in enumerate([(0.1, 0.3, 0.8), (0.2, 0.2, 0.2)])
            for t, v in zip(("A1", "A2", "B1"), vs)
        ]
    )
    (s,) = series(found)
    assert s.types == ("A", "A", "B")
    np.testing.assert_allclose(ranking.type_means(s), [(0.2 + 0.8) / 2, 0.2])


def test_missing_cells_are_dropped_by_task_and_said():
    rows = grid(SCORES)
    rows = rows[~((rows["layer"] == 2) & (rows["task"] == "A3"))]
    with pytest.warns(UserWarning, match="m: 1 of 8 tasks are left out, for layers 2 lack some: A3"):
        (s,) = series(rows)
    assert s.dropped == ("A3",) and s.scores.shape == (5, 7)
    np.testing.assert_allclose(s.scores, np.delete(SCORES, 3, axis=1))


@pytest.mark.filterwarnings("ignore:m. 1 of 8 tasks")
def test_layers_without_a_common_task_are_left_out_and_said():
    rows = grid(SCORES)
    rows = rows[(rows["layer"] != 4) | (rows["task"] == "A0")]
    rows = rows[(rows["layer"] != 3) | (rows["task"] != "A0")]
    with pytest.warns(UserWarning, match="m: left out layers 4 with 1 of 8 tasks"):
        (s,) = series(rows)
    assert s.layers.tolist() == [0, 1, 2, 3] and s.last is None


def test_absent_last_and_middle_have_no_gap():
    rows = grid(SCORES, blocks=9)
    (s,) = series(rows)
    (row,) = ranking.model_rows([judge(s, FAST)], FAST)
    assert np.isnan([row["last"], row["gap_last"], row["gap_last_out_of_sample"]]).all()
    assert row["middle"] == pytest.approx(SCORES[4].mean())  # round(9 / 2) = 4


def test_one_task_and_one_layer():
    (s,) = series(grid([[0.2], [0.4], [0.3]]))
    (row,) = ranking.model_rows([judge(s, FAST)], FAST)
    assert row["best_layer"] == 1 and row["gap_last"] == pytest.approx(0.1)
    assert np.isnan([row["p_best"], row["gap_last_lower"], row["gap_last_out_of_sample"]]).all()
    (s,) = series(grid([[0.2, 0.3]]))
    (row,) = ranking.overall_rows([judge(s, FAST)], FAST)
    assert row["p_best"] == 1 and np.isnan(row["borda"])


def test_labels_hold_only_what_differs():
    parts = []
    for pooling, revision in (("mean", "r1"), ("cls", "r1"), ("mean", "r2")):
        part = grid(SCORES, model="layer-wrapper/org/m", revision=revision)
        part["settings"] = f"dtype=float32, norm=raw, pooling={pooling}"
        parts.append(part)
    parts.append(grid(SCORES, model="layer-wrapper/org/n"))
    labels = {s.label for s in series(pd.concat(parts))}
    assert labels == {"org/m@r1 pooling=mean", "org/m@r1 pooling=cls", "org/m@r2", "org/n"}


def test_aggregates_stand_beside_the_layers():
    rows = grid(SCORES)
    extra = [("m", "r", None, f"A{t}", 0.9) for t in range(8)]
    extra = frame(extra).assign(aggregate="mean", layers="1-2", variant="agg")
    (s,) = series(pd.concat([rows, extra]))
    last = ranking.overall_rows([judge(s, FAST)], FAST)[-1]
    assert (last["layer"], last["mean"]) == ("mean 1-2", pytest.approx(0.9))
    assert last["behind"] == pytest.approx(SCORES.mean(axis=1).max() - 0.9)
    short = extra[extra["task"] != "A0"]
    with pytest.warns(UserWarning, match="mean 1-2 lacks 1 of 8 tasks"):
        (s,) = series(pd.concat([rows, short]))
    assert not s.aggregates


def test_arms_of_several_models_on_the_shared_tasks():
    rows = pd.concat([grid(SCORES, "a"), grid(SCORES[:3, 2:] + 0.01, "b")])
    rows.loc[rows["model"] == "b", "task"] = rows.loc[rows["model"] == "b", "task"].map(lambda t: f"A{int(t[1]) + 2}")
    found = series(rows)
    table = ranking.arm_rows(found, FAST, {"whole": np.full(6, 0.95)})
    joint = np.concatenate([SCORES[:3, 2:] + 0.01, SCORES[:, 2:], np.full((1, 6), 0.95)])
    assert (table[0]["model"], table[0]["layer"], len(table)) == ("whole", None, 9)
    np.testing.assert_allclose([row["mean"] for row in table], np.sort(joint.mean(axis=1))[::-1])
    points = ((rankdata(joint, axis=0) - 1) / 8).mean(axis=1)
    assert table[0]["borda"] == points[-1] == 1


def test_models_without_a_common_task_are_not_compared():
    other = grid(SCORES, "b")
    other["task"] = "B" + other["task"]
    with pytest.raises(ValueError, match="a, b: no task is common to all of them"):
        ranking.arm_rows(series(pd.concat([grid(SCORES, "a"), other])), FAST)


def test_depth_curves_are_linear_between_layers():
    found = series(pd.concat([grid(np.full((3, 2), [[0.1], [0.3], [0.2]]), "a"), grid(np.full((5, 2), 0.5), "b")]))
    a, _, mean = depth_rows(found)
    assert [a[f"depth_{p}"] for p in (0, 10, 50, 70, 100)] == pytest.approx([0.1, 0.14, 0.3, 0.26, 0.2])
    assert mean["model"] == "mean of 2" and mean["depth_70"] == pytest.approx((0.26 + 0.5) / 2)
    (s,) = series(grid(SCORES[:2], blocks=4))
    row = depth_rows([s])[0]
    assert row["depth_20"] == pytest.approx(0.2 * SCORES[0].mean() + 0.8 * SCORES[1].mean())
    assert np.isnan(row["depth_30"])


def test_stratified_resamples_reach_the_tables():
    rows = grid(SCORES)
    rows["type"] = [f"T{t[1]}" for t in rows["task"]]
    (s,) = series(rows)
    assert judge(s, Options(200, stratify=True)).p_best.max() == 1  # one task a type: every resample is the data
    assert judge(s, Options(200)).p_best.max() < 1


def test_choosing_by_patterns():
    rows = pd.concat([grid(SCORES, "layer-wrapper/org/Big-Model"), grid(SCORES, "other", "main")])
    for pattern in ("big-model", "org/*", "layer-wrapper/*", "*@r"):
        assert set(choose(rows, models=[pattern], tasks=[], types=[])["model"]) == {"layer-wrapper/org/Big-Model"}
    assert set(choose(rows, models=[], tasks=["A1", "A[2-3]"], types=["A"])["task"]) == {"A1", "A2", "A3"}
    with pytest.raises(ValueError, match="--model gpt matches nothing; there are Big-Model@r, other@main"):
        choose(rows, models=["gpt"], tasks=[], types=[])


def test_no_layers_at_all():
    rows = grid(SCORES).assign(layer=pd.array([pd.NA] * 40, dtype="Int64"))
    with pytest.raises(ValueError, match="none of the 40 scores is of a layer"):
        series(rows)
    assert list(plain(rows)) == ["m"]


def test_the_same_seed_gives_the_same_tables():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (s,) = series(grid(SCORES))
    one, two, other = (ranking.model_rows([judge(s, Options(300, seed))], FAST) for seed in (1, 1, 2))
    assert one == two and one != other
    counts = arms.task_counts(8, draws=300, seed=1)
    np.testing.assert_allclose(
        judge(s, Options(300, 1)).p_best, arms.share_best(arms.resampled_means(s.scores, counts))
    )
