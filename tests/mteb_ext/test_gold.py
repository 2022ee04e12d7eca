"""Gold answers: which tasks have them, what they hold, and that half a file is never seen."""

import json
import threading

import mteb
import pytest
from datasets import Dataset, DatasetDict
from mteb.mocks import mock_tasks

from mteb_ext.gold import read_gold, save_gold


def sts(scores, name="STSBenchmark"):
    task = mteb.get_task(name)
    rows = {"sentence1": ["a"] * len(scores), "sentence2": ["b"] * len(scores), "score": scores}
    task.dataset = DatasetDict({"test": Dataset.from_dict(rows)})
    task.data_loaded = True
    return task


def retrieval(relevant, queries):
    task = mteb.get_task("SciFact", eval_splits=["test"])
    part = {
        "queries": Dataset.from_dict({"id": queries, "text": queries}),
        "corpus": Dataset.from_dict({"id": ["d1"], "text": ["x"], "title": [""]}),
        "relevant_docs": relevant,
        "top_ranked": None,
    }
    task.dataset = {"default": {"test": part}}
    task.data_loaded = True
    return task


def test_the_file_says_of_what_it_is(tmp_path):
    assert save_gold(sts([0.0, 5, 2]), tmp_path / "gold")
    gold = read_gold(tmp_path / "gold/STSBenchmark.json")
    assert (gold.task, gold.kind, gold.metric) == ("STSBenchmark", "sts", "cosine_spearman")
    assert gold.dataset_revision == mteb.get_task("STSBenchmark").metadata.revision
    assert gold.mteb_version == mteb.__version__
    assert [(part.split, part.subset, part.answers) for part in gold.parts] == [("test", "default", [0, 1, 0.4])]


def test_scores_are_normalised_from_their_least(tmp_path):
    assert save_gold(sts([1.0, 5.0, 2.0], "JSICK"), tmp_path / "gold")  # from 1 to 5
    (part,) = read_gold(tmp_path / "gold/JSICK.json").parts
    assert part.answers == [0, 1, 0.25]


def test_of_the_documents_only_relevant_ones_are_kept_and_of_the_queries_only_judged_ones(tmp_path):
    relevant = {"q1": {"d1": 2, "d2": 0}, "q2": {"d1": 0, "d2": 0}, "q3": {}, "gone": {"d1": 1}}
    assert save_gold(retrieval(relevant, ["q1", "q2", "q3", "q4"]), tmp_path / "gold")
    (part,) = read_gold(tmp_path / "gold/SciFact.json").parts
    assert part.answers == {"q1": {"d1": 2}, "q2": {"d1": 0}}


@pytest.mark.parametrize(
    "name",
    [
        "MockMultilabelClassification",
        "MockRegressionTask",
        "MockBitextMiningTask",
        "MockSummarizationTask",
        "MockTextZeroShotClassificationTask",
        "MockMultilingualClusteringFastTask",
        "MockVisualSTSTask",
    ],
)
def test_tasks_that_cannot_be_scored_again(name, tmp_path):
    task = getattr(mock_tasks, name)()
    task.data_loaded = True
    assert not save_gold(task, tmp_path / "gold")
    assert not (tmp_path / "gold").exists()


def changed(task, **attributes):
    return type(task.__class__.__name__, (type(task),), attributes)()


def test_a_task_that_scores_in_its_own_way_is_left_out(tmp_path):
    for task in (
        changed(sts([1.0]), _calculate_scores=lambda *a: {}),
        changed(sts([1.0]), evaluate=lambda *a: {}),
        changed(mteb.get_task("SciFact"), task_specific_scores=lambda *a, **k: {}),
        changed(mteb.get_task("Banking77Classification"), is_cross_validation=True),
        mteb.get_task("LegalBenchPC"),  # max_accuracy
        mteb.get_task("NevIR"),  # paired_accuracy
    ):
        task.data_loaded = True
        assert not save_gold(task, tmp_path / "gold")
    assert not (tmp_path / "gold").exists()


def test_data_must_be_loaded(tmp_path):
    with pytest.raises(ValueError, match=r"task STSBenchmark: its data are not loaded; call task\.load_data\(\)"):
        save_gold(mteb.get_task("STSBenchmark"), tmp_path / "gold")


def test_a_reader_never_sees_half_a_file(tmp_path):
    task = sts([i / 1000 for i in range(2000)])
    save_gold(task, tmp_path / "gold")

    def write():
        for _ in range(3):
            save_gold(task, tmp_path / "gold")

    writers = [threading.Thread(target=write) for _ in range(2)]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        assert len(read_gold(tmp_path / "gold/STSBenchmark.json").parts[0].answers) == 2000
    assert [path.name for path in (tmp_path / "gold").iterdir()] == ["STSBenchmark.json"]


def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    save_gold(sts([1.0, 2]), tmp_path / "gold")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        save_gold(sts([3.0, 4, 5]), tmp_path / "gold")
    path = tmp_path / "gold/STSBenchmark.json"
    assert len(json.loads(path.read_text())["parts"][0]["answers"]) == 2
    assert list(path.parent.iterdir()) == [path]
