import json

import pytest

from mteb_ext import results


def sweep(folder, types):
    """A folder as a sweep of one unknown task leaves it."""
    made = folder / "results" / "org__m" / "r1"
    made.mkdir(parents=True)
    scores = {"test": [{"main_score": 0.5, "hf_subset": "default", "languages": ["eng-Latn"]}]}
    held = {"task_name": "OwnTask", "mteb_version": "2.26.24", "scores": scores, "evaluation_time": 1.0}
    (made / "OwnTask.json").write_text(json.dumps(held))
    if types is not None:
        (folder / "sweep.json").write_text(types)
    return folder


@pytest.mark.parametrize("below", ["", "results"])
def test_a_sweep_says_the_type_of_a_task_of_its_own(tmp_path, below):
    folder = sweep(tmp_path / "out", json.dumps({"runs": [{"types": {"OwnTask": "STS"}}]}))
    assert results.read(folder / below)["type"].tolist() == ["STS"]


def test_without_a_record_the_type_is_other(tmp_path):
    assert results.read(sweep(tmp_path / "out", None))["type"].tolist() == [results.OTHER]


def test_a_damaged_record_is_named(tmp_path):
    with pytest.warns(UserWarning, match=r"sweep\.json cannot be read; types of tasks are looked up"):
        found = results.read(sweep(tmp_path / "out", "{"))
    assert found["type"].tolist() == [results.OTHER]
