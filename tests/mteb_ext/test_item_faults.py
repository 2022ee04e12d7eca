"""Arms whose files are missing, damaged or of another run are left out, each with a line that names the file."""

import json
import re

import numpy as np
import pytest
from scipy.stats import spearmanr

from mteb_ext.items import read_items, resampled

GOLD = [0.0, 0.2, 0.9, 0.4, 1.0, 0.6]
COLUMNS = ("cosine_scores", "manhattan_distances", "euclidean_distances", "similarity_scores")


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def write_gold(folder, task="T", answers=GOLD, **changes):
    part = {"split": "test", "subset": "default", "answers": answers}
    content = {
        "task": task,
        "kind": "sts",
        "metric": "cosine_spearman",
        "dataset_revision": "d1",
        "mteb_version": "2.26",
        "experiments": 1,
        "ignore_identical_ids": False,
        "skip_first_result": False,
        "parts": [part],
    }
    write(folder / "predictions/gold" / f"{task}.json", {**content, **changes})


def write_arm(folder, name, values, revision="d1", score=None):
    column = {name: list(values) for name in COLUMNS}
    write(predictions(folder, name), {"mteb_model_meta": {}, "default": {"test": column}})
    score = float(spearmanr(values, GOLD[: len(values)])[0]) if score is None else score
    part = {"hf_subset": "default", "main_score": score}
    write(result(folder, name), {"dataset_revision": revision, "scores": {"test": [part]}})


def predictions(folder, name):
    return folder / "predictions/m/r" / name / "T_predictions.json"


def result(folder, name):
    place = folder / "results/m/r"
    return (place / "experiments" / name if name else place) / "T.json"


@pytest.fixture
def folder(tmp_path):
    write_gold(tmp_path)
    write_arm(tmp_path, "layer_1", [1.0, 2, 3, 5, 4, 6])
    write_arm(tmp_path, "layer_2", [1.0, 2, 3, 4, 6, 5])
    return tmp_path


def read_with(folder, message, arms=("layer_1",)):
    with pytest.warns(UserWarning, match=message) as caught:
        (items,) = read_items(folder)
    assert len(caught) == 1
    assert re.search(r"layer_2.T_predictions\.json: .*; this arm is left out of T$", str(caught[0].message))
    assert "\n" not in str(caught[0].message)
    assert [arm[2] for arm in items.arms] == list(arms)
    return items


def test_all_is_well(folder):
    (items,) = read_items(folder)
    assert items.arms == (("m", "r", "layer_1"), ("m", "r", "layer_2"))
    np.testing.assert_allclose(items.score(np.arange(6)), [19 / 35, 29 / 35])  # 1 - 6 sum d² / (n (n² - 1))


def test_a_plain_model_has_no_experiment(folder):
    write_arm(folder, "", [6.0, 5, 4, 3, 2, 1])
    (items,) = read_items(folder)
    assert items.arms[0] == ("m", "r", "")


def test_missing_predictions(folder):
    predictions(folder, "layer_2").unlink()
    read_with(folder, "there is no T_predictions.json .*run the task again with --save-predictions")


@pytest.mark.parametrize("keep", [0, 1, 40])
def test_cut_predictions(folder, keep):
    path = predictions(folder, "layer_2")
    path.write_text(path.read_text()[:keep])
    read_with(folder, "T_predictions.json is damaged .*delete it and run the task again")


def test_another_number_of_items(folder):
    write_arm(folder, "layer_2", [1.0, 2, 3, 4, 5])
    read_with(folder, "it has 5 items where the gold answers have 6")


def test_nan_predictions(folder):
    write_arm(folder, "layer_2", [1.0, 2, 3, 4, 5, np.nan], score=0.5)
    read_with(folder, "1 of its values are NaN")


@pytest.mark.parametrize("content", [[], 3, {"cosine_scores": {"a": 1}}, {"cosine": [1.0] * 6}, None])
def test_predictions_of_another_form(folder, content):
    write(predictions(folder, "layer_2"), {"default": {"test": content}})
    read_with(folder, "it has not the form of sts|items where")


def test_a_split_is_lacking(folder):
    write(predictions(folder, "layer_2"), {"default": {}})
    read_with(folder, "it lacks split test of subset default")


def test_no_result_means_unfinished(folder):
    result(folder, "layer_2").unlink()
    read_with(folder, r"there is no T\.json .*it did not end")


def test_another_revision_of_the_data(folder):
    write_arm(folder, "layer_2", [1.0, 2, 3, 4, 6, 5], revision="d2")
    read_with(folder, "its result is of revision d2 of the data and the gold answers of d1")


def test_predictions_of_another_run_than_the_result(folder):
    write_arm(folder, "layer_2", [1.0, 2, 3, 4, 6, 5], score=0.61)
    read_with(folder, r"gives 0\.828571 and its result file 0\.610000: they are of different runs")


@pytest.mark.parametrize("content", [{}, {"scores": {"test": [{}]}}, {"scores": 3}, []])
def test_a_result_that_is_none(folder, content):
    write(result(folder, "layer_2"), content)
    read_with(folder, "is no result of MTEB")


def test_a_constant_arm_stays_and_has_no_score(folder):
    write_arm(folder, "layer_2", [1.0] * 6, score=float("nan"))
    arms, scores = resampled(folder, 10, 0)["T"]
    assert len(arms) == 2
    np.testing.assert_array_equal(np.isnan(scores).all(axis=0), [False, True])


def test_damaged_gold_is_named(folder):
    path = folder / "predictions/gold/T.json"
    path.write_text(path.read_text()[:30])
    with pytest.raises(ValueError, match=r"T\.json is no gold file .*; delete it and run the sweep again"):
        list(read_items(folder))


def test_a_task_without_usable_arms_or_gold_is_absent(folder):
    write_gold(folder, task="U")
    assert [items.task for items in read_items(folder)] == ["T"]
    assert list(read_items(folder / "results")) == []


def test_one_item_cannot_be_resampled(folder):
    parts = [{"split": "test", "subset": "default", "answers": {"q1": {"d1": 1}}}]
    write_gold(folder, task="R", kind="retrieval", metric="mrr_at_10", parts=parts)
    for name in ("layer_1", "layer_2"):
        path = predictions(folder, name).with_name("R_predictions.json")
        write(path, {"default": {"test": {"q1": {"d2": 0.5, "d1": 0.4}}}})
        part = {"hf_subset": "default", "main_score": 0.5}
        content = {"dataset_revision": "d1", "scores": {"test": [part]}}
        write(result(folder, name).with_name("R.json"), content)
    with pytest.warns(UserWarning, match="R has a part of one item: nothing to resample, left out"):
        assert list(resampled(folder, 5, 0)) == ["T"]


def test_each_subset_keeps_its_number_of_items(tmp_path):
    sizes = {"a": 20, "b": 2}
    queries = {subset: {f"q{i}": {"d1": 1} for i in range(n)} for subset, n in sizes.items()}
    parts = [{"split": "test", "subset": subset, "answers": answers} for subset, answers in queries.items()]
    write_gold(tmp_path, kind="retrieval", metric="mrr_at_10", parts=parts)
    found = {subset: {"test": {q: {"d1": 1.0} for q in answers}} for subset, answers in queries.items()}
    write(predictions(tmp_path, "layer_1"), found)
    scores = {"test": [{"hf_subset": subset, "main_score": 1.0} for subset in sizes]}
    write(result(tmp_path, "layer_1"), {"dataset_revision": "d1", "scores": scores})
    # 22 items drawn at large would leave b empty in one resample of eight, and the mean over subsets without a value
    np.testing.assert_array_equal(resampled(tmp_path, 200, 0)["T"][1], np.ones((200, 1)))
