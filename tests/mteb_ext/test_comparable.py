"""Layers, tasks and data that cannot be compared are left out, the least that has to be, and named."""

import json
import warnings

import numpy as np
import pandas as pd
import pytest

from mteb_ext.long_table import typed
from mteb_ext.ranking import Options, judge, model_rows
from mteb_ext.series import plain, series

SCORES = np.round(np.random.default_rng(0).normal(0.5, 0.1, size=(5, 8)), 3)


def grid(scores, **columns):
    """Layers by tasks A0, A1, ...; None is a score that is not there, NaN one that MTEB could not compute."""
    rows = [
        {"model": "m", "revision": "r", "layer": k, "task": f"A{t}", "type": "A", "blocks": len(scores) - 1,
         "variant": f"layer_{k}", "main_score": s}
        for k, row in enumerate(scores) for t, s in enumerate(row) if s is not None
    ]  # fmt: skip
    return typed(rows).assign(**columns)


def test_an_undefined_layer_is_left_out_and_no_task():
    scores = SCORES.copy()
    scores[0, [2, 5]] = np.nan  # pooling=cls: one embedding for all texts, so no correlation
    with pytest.warns(
        UserWarning, match="m: layer 0 is left out, for its scores are not finite on 2 of 8 tasks: A2, A5"
    ):
        (s,) = series(grid(scores))
    assert s.layers.tolist() == [1, 2, 3, 4] and len(s.tasks) == 8 and s.dropped == ()
    np.testing.assert_array_equal(s.scores, SCORES[1:])
    assert s.last == 3 and s.keys[0][2] == "layer_1"
    assert model_rows([judge(s, Options(200))], Options(200))[0]["tasks"] == 8


def test_a_task_without_a_score_at_most_layers_is_left_out():
    scores = SCORES.copy()
    scores[:3, 2] = np.nan
    with pytest.warns(
        UserWarning, match="m: 1 of 8 tasks are left out, for their scores are not finite at most layers: A2"
    ):
        (s,) = series(grid(scores))
    assert len(s.layers) == 5 and s.dropped == ("A2",)


def test_undefined_and_absent_scores_together():
    cells = [[None if (k, t) == (4, 7) else s for t, s in enumerate(row)] for k, row in enumerate(SCORES.tolist())]
    cells[0][0] = np.nan
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        (s,) = series(grid(cells))
    texts = [str(w.message) for w in said]
    assert len(texts) == 2 and "layer 0 is left out" in texts[0]
    assert "1 of 8 tasks are left out, for layers 4 lack some: A7" in texts[1]
    assert s.layers.tolist() == [1, 2, 3, 4] and s.dropped == ("A7",)


@pytest.mark.filterwarnings("ignore:m. ")
def test_a_model_without_a_finite_score_leaves_the_others():
    other = grid(SCORES, model="n")
    none = grid(np.full((5, 8), np.nan))
    assert [s.label for s in series(pd.concat([other, none]))] == ["n"]
    with pytest.raises(ValueError, match="no layer of m has a finite score"):
        series(none)


@pytest.mark.filterwarnings("ignore:m. ")
def test_whatever_is_undefined_the_rest_is_finite():
    for seed in range(30):
        rng = np.random.default_rng(seed)
        scores = np.where(rng.random((6, 5)) < 0.2, np.nan, rng.random((6, 5)))
        (s,) = series(grid(scores))
        assert np.isfinite(s.scores).all() and s.scores.size


def test_two_variants_of_one_layer_are_one_clear_line():
    rows = pd.concat([grid(SCORES), grid(SCORES[:1] + 0.1, variant="b", blocks=4)])
    with pytest.raises(ValueError) as problem:
        series(rows)
    assert str(problem.value) == (
        "m: layer 0 has two scores on A0, of the variants 'layer_0' and 'b'; tell them apart in the column settings, "
        "pooling or norm, or keep one"
    )


def test_different_revisions_of_the_data_are_named_with_counts():
    rows = grid(SCORES, dataset_revision="aaa", mteb_version="2.26.24")
    rows.loc[(rows["layer"] == 1) & (rows["task"] == "A3"), ["dataset_revision", "file"]] = "bbb", "x/A3.json"
    with pytest.warns(UserWarning) as said:
        series(rows)
    assert [str(w.message) for w in said] == [
        "scores on different revisions of the data are compared: A3 (4 of aaa, 1 of bbb: x/A3.json); "
        "evaluate them again on one"
    ]
    rows.loc[rows["layer"] == 0, "mteb_version"] = "2.27.0"
    with pytest.warns(
        UserWarning, match=r"by different versions of MTEB are compared: A0 \(4 of 2.26.24, 1 of 2.27.0: A0 of"
    ):
        series(rows)


def test_unknown_revisions_are_not_warned_about():
    rows = grid(SCORES)
    rows.loc[rows["layer"] == 0, "dataset_revision"] = "aaa"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        series(rows)


def test_the_revision_of_the_data_is_read_from_the_files(tmp_path):
    from mteb_ext import results

    for k in (0, 1):
        folder = tmp_path / f"results/m/r/experiments/layer_{k}"
        folder.mkdir(parents=True)
        meta = {"name": "m", "revision": "r", "experiment_kwargs": {"layer": k}, "loader_kwargs": {"blocks": 1}}
        (folder / "model_meta.json").write_text(json.dumps(meta))
        held = {"test": [{"hf_subset": "default", "main_score": 0.5}]}
        (folder / "STS12.json").write_text(
            json.dumps({"task_name": "STS12", "dataset_revision": f"rev{k}", "scores": held})
        )
    with pytest.warns(UserWarning, match=r"STS12 \(1 of rev\d, 1 of rev\d"):
        series(results.read(tmp_path))


def test_plain_models_with_an_undefined_score_are_not_ranked():
    rows = grid(SCORES[:1], layer=pd.array([pd.NA] * 8, dtype="Int64"), variant="")
    rows.loc[0, "main_score"] = np.nan
    assert plain(rows)["m"].isna().sum() == 1
