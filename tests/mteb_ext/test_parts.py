"""Splits and subsets: one score a task, on what all layers have."""

import json
import warnings

import pytest

from mteb_ext import results
from mteb_ext.series import plain, series, shared_tasks

SUBSETS = {"en-en": 0.5, "es-en": 0.1}


def put(out, layer, scores, *, task="STS17", model="layer-wrapper/m", **kwargs):
    """A result file as a sweep leaves it; `scores` is {split: {subset: score}}, layer None a plain model."""
    kwargs = kwargs if layer is None else {"layer": layer, **kwargs}
    folder = out / "results" / model.replace("/", "__") / "r"
    folder = folder / "experiments" / "__".join(f"{k}_{v}" for k, v in kwargs.items()) if kwargs else folder
    folder.mkdir(parents=True, exist_ok=True)
    meta = {"name": model, "revision": "r", "experiment_kwargs": kwargs, "loader_kwargs": {"blocks": 3}}
    (folder / "model_meta.json").write_text(json.dumps(meta))
    held = {
        s: [{"hf_subset": n, "main_score": v, "languages": ["eng-Latn"]} for n, v in of.items()]
        for s, of in scores.items()
    }
    (folder / f"{task}.json").write_text(json.dumps({"task_name": task, "scores": held}))
    return folder / f"{task}.json"


def rows(frame):
    return dict(zip(frame["layer"], frame["main_score"]))


def quiet(out):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return results.read(out)


def test_layers_are_compared_on_the_subsets_that_all_have(tmp_path):
    for k in range(3):
        put(tmp_path, k, {"test": {"en-en": 0.5 + k / 20}})
    odd = put(tmp_path, 3, {"test": {"en-en": 0.65, "es-en": 0.05}})
    with pytest.warns(UserWarning) as said:
        frame = results.read(tmp_path)
    message = f"compared on en-en, which all 4 results hold; left out: es-en in 1 of 4 ({odd})"
    assert [str(w.message) for w in said] == [f"STS17 of layer-wrapper/m@r: {message}"]
    assert rows(frame) == pytest.approx({0: 0.5, 1: 0.55, 2: 0.6, 3: 0.65})
    assert set(frame["subset"]) == {"en-en"}


def test_the_one_file_that_lacks_a_subset_is_named(tmp_path):
    odd = put(tmp_path, 0, {"test": {"en-en": 0.4}})
    for k in (1, 2, 3):
        put(tmp_path, k, {"test": SUBSETS})
    with pytest.warns(UserWarning, match=rf"es-en in 3 of 4 \(not {odd}\)"):
        assert rows(results.read(tmp_path)) == {0: 0.4, 1: 0.5, 2: 0.5, 3: 0.5}


def test_an_undefined_score_of_a_subset_that_is_not_compared_does_no_harm(tmp_path):
    put(tmp_path, 0, {"test": {"en-en": 0.4}})
    put(tmp_path, 1, {"test": {"en-en": 0.5, "es-en": None}})
    put(tmp_path, 2, {"test": {"en-en": None}}, task="STS22")
    put(tmp_path, 3, {"test": {"en-en": 0.5}}, task="STS22")
    with pytest.warns(UserWarning, match="compared on en-en"):
        frame = results.read(tmp_path)
    assert rows(frame[frame["task"] == "STS17"]) == {0: 0.4, 1: 0.5}
    assert frame[frame["task"] == "STS22"]["main_score"].isna().tolist() == [True, False]


def test_a_task_without_a_common_subset_is_left_out_and_the_rest_stays(tmp_path):
    put(tmp_path, 0, {"test": {"en-en": 0.4}})
    put(tmp_path, 1, {"test": {"es-en": 0.5}})
    put(tmp_path, 1, {"test": {"default": 0.6}}, task="STS12")
    with pytest.warns(UserWarning, match="STS17 of layer-wrapper/m@r: left out, for its 2 results have no subset in"):
        assert results.read(tmp_path)["task"].tolist() == ["STS12"]


def test_other_runs_keep_their_subsets_and_are_compared_where_these_are_alike(tmp_path):
    for task in ("STS17", "STS22"):
        put(tmp_path, 0, {"test": {"en-en": 0.4}}, task=task)
        put(tmp_path, 0, {"test": SUBSETS if task == "STS17" else {"en-en": 0.3}}, task=task, model="n")
        put(tmp_path, None, {"test": SUBSETS if task == "STS17" else {"en-en": 0.3}}, task=task, model="plain")
    frame = quiet(tmp_path)
    assert frame[frame["model"] == "n"]["main_score"].tolist() == pytest.approx([0.3, 0.3])
    found = series(frame)
    assert shared_tasks(found) == ("STS22",)
    assert plain(frame)["plain"].index.tolist() == [("STS17", "test", "en-en+es-en"), ("STS22", "test", "en-en")]


def test_an_aggregate_of_fewer_subsets_is_left_out_and_takes_none_from_the_layers(tmp_path):
    for k in (0, 1):
        put(tmp_path, k, {"test": SUBSETS})
    put(tmp_path, None, {"test": {"en-en": 0.9}}, aggregate="mean", layers="0-1")
    with pytest.warns(UserWarning, match="lacks parts that the layers have and is left out"):
        assert rows(results.read(tmp_path)) == pytest.approx({0: 0.3, 1: 0.3})


def test_of_several_splits_without_test_the_mean_as_mteb(tmp_path):
    from mteb.results import TaskResult

    for k in (0, 1):
        scores = {"train": {"default": 0.1 + k / 10}, "dev": {"default": 0.6}, "dev2": {"default": 0.2}}
        file = put(tmp_path, k, scores, task="MSMARCOv2")
    put(tmp_path, 0, {"test": {"default": 0.5}}, task="STS12")
    put(tmp_path, 1, {"test": {"default": 0.6}}, task="STS12")
    with pytest.warns(
        UserWarning, match="MSMARCOv2 has no split test: the mean over its splits dev, dev2, train is used"
    ):
        frame = results.read(tmp_path)
    scores = frame[frame["task"] == "MSMARCOv2"]
    assert scores["main_score"].tolist() == pytest.approx([0.3, 1 / 3])
    assert set(scores["split"]) == {"dev+dev2+train"}
    held = json.loads(file.read_text()) | {"dataset_revision": "a", "mteb_version": "2", "evaluation_time": 1.0}
    assert TaskResult.model_validate(held).get_score() == pytest.approx(1 / 3)
    assert len(frame) == 4


def test_layers_of_different_splits_are_not_mixed(tmp_path):
    put(tmp_path, 0, {"test": {"default": 0.5}, "dev": {"default": 0.2}})
    put(tmp_path, 1, {"dev": {"default": 0.3}})
    with pytest.warns(
        UserWarning, match="compared on dev default, which all 2 results hold; left out: test default in 1"
    ):
        assert rows(results.read(tmp_path)) == {0: 0.2, 1: 0.3}


def test_a_score_and_its_absence_are_unequal(tmp_path):
    put(tmp_path / "a", 0, {"test": {"default": 0.5}})
    put(tmp_path / "b", 0, {"test": {"default": None}})
    with pytest.raises(ValueError, match="has unequal scores"):
        results.read(tmp_path)


def test_a_table_with_a_row_a_subset_is_averaged(tmp_path):
    file = tmp_path / "s.csv"
    file.write_text("model,layer,task,subset,main_score,type\na,0,t,x,.5,T\na,0,t,y,.7,T\na,1,t,x,.1,T\na,1,t,y,.2,T\n")
    assert rows(quiet(file)) == pytest.approx({0: 0.6, 1: 0.15})
