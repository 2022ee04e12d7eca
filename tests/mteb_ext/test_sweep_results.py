"""Results on disk: whole or not at all, merged as MTEB merges, and a journal that survives a kill."""

import json
import threading

import mteb
import pytest
from mteb.cache import ResultCache
from mteb.results import TaskResult

from mteb_ext.sweep_results import Results, Unwritable

ENCODING = {"batch_size": 32}


@pytest.fixture(scope="module")
def meta(tiny):
    return mteb.get_model_meta(f"layer-wrapper/{tiny('bert')}:layer=2")


def task_of(*subsets):
    task = mteb.get_task("STS17")
    task.hf_subsets = list(subsets)
    return task


def result_of(task, score=0.5):
    scores = {"test": {s: {"main_score": score, "cosine_spearman": score} for s in task.hf_subsets}}
    return TaskResult.from_task_results(task, scores, evaluation_time=1.0)


@pytest.fixture
def results(tmp_path):
    (tmp_path / "out").mkdir()
    return Results(tmp_path / "out")


def held(results, meta, task):
    subsets = json.loads(results.path(meta, task).read_text())["scores"]["test"]
    return {scores["hf_subset"]: scores["main_score"] for scores in subsets}


def test_files_are_those_that_mteb_writes(results, meta, tmp_path):
    task = task_of("en-en")
    (tmp_path / "theirs").mkdir()
    cache = ResultCache(tmp_path / "theirs")
    for _ in range(2):
        cache.save_to_cache(result_of(task), meta, encode_kwargs=ENCODING)
        results.save(result_of(task), meta, ENCODING)
    names = {p.relative_to(cache.cache_path) for p in cache.cache_path.rglob("*.*")}
    assert names == {p.relative_to(results.folder) for p in results.folder.rglob("*.*")}
    for name in names:
        one, other = ((f / name).read_text() for f in (cache.cache_path, results.folder))
        if (cache.cache_path / name).is_file() and "date" not in one:
            assert one == other


def test_what_is_done_and_what_is_not(results, meta):
    one, both = task_of("en-en"), task_of("en-en", "es-es")
    assert not results.done(meta, one)
    results.save(result_of(one), meta, ENCODING)
    assert results.done(meta, one)
    assert not results.done(meta, both)
    assert not results.done(meta, mteb.get_task("STS12"))
    assert Results(results.folder).done(meta, one)


def test_scores_of_other_subsets_stay(results, meta):
    results.save(result_of(task_of("en-en", "es-es"), 0.25), meta, ENCODING)
    results.save(result_of(task_of("en-en"), 0.75), meta, ENCODING)
    assert held(results, meta, task_of("en-en")) == {"en-en": 0.75, "es-es": 0.25}
    results.save(result_of(task_of("ar-ar"), 0.125), meta, ENCODING)
    assert held(results, meta, task_of("en-en")) == {"en-en": 0.75, "es-es": 0.25, "ar-ar": 0.125}
    assert results.done(meta, task_of("en-en", "es-es", "ar-ar"))


def test_scores_of_another_revision_of_the_data_are_replaced(results, meta):
    old = result_of(task_of("en-en", "es-es"), 0.25)
    old.dataset_revision = "older"
    results.save(old, meta, ENCODING)
    results.save(result_of(task_of("en-en"), 0.75), meta, ENCODING)
    assert held(results, meta, task_of("en-en")) == {"en-en": 0.75}


@pytest.mark.parametrize("content", ['{"task_name": "STS17", "scores": {"te', "", "[1, 2]", '{"scores": 3}'])
def test_a_damaged_file_is_put_aside_when_the_next_result_comes(results, meta, content):
    task = task_of("en-en")
    path = results.path(meta, task)
    path.parent.mkdir(parents=True)
    path.write_text(content)
    with pytest.warns(UserWarning, match="STS17.json cannot be read"):
        assert not results.done(meta, task)
    assert path.read_text() == content
    with pytest.warns(UserWarning, match="STS17.json cannot be read"):
        results.save(result_of(task), meta, ENCODING)
    assert results.done(meta, task)
    assert Results(results.folder).done(meta, task)
    assert path.with_name("STS17.json.damaged").read_text() == content


def test_nothing_is_seen_of_a_result_that_could_not_be_written_whole(results, meta, monkeypatch):
    task = task_of("en-en")
    results.save(result_of(task, 0.25), meta, ENCODING)

    def cut(self, path):
        path.write_text('{"task_na')
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(TaskResult, "to_disk", cut)
    message = r"out cannot be written: No space left on device; free space .*nothing finished is lost"
    with pytest.raises(Unwritable, match=message):
        results.save(result_of(task, 0.75), meta, ENCODING)
    assert held(results, meta, task) == {"en-en": 0.25}
    assert not list(results.folder.glob(".saving*"))


def test_threads_save_and_note_at_once(results, meta):
    names = ["STS12", "STS13", "STS14", "STS15", "STS16"]

    def save(name):
        task = mteb.get_task(name)
        for i in range(5):
            results.save(result_of(task), meta, ENCODING)
            results.note(status="done", task=name, i=i)

    threads = [threading.Thread(target=save, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(Results(results.folder).done(meta, mteb.get_task(name)) for name in names)
    lines = [json.loads(line) for line in (results.folder / "sweep.jsonl").read_text().splitlines()]
    assert sorted((line["task"], line["i"]) for line in lines) == [(name, i) for name in names for i in range(5)]
    settings = results.path(meta, mteb.get_task("STS12")).with_name("run_settings.jsonl").read_text()
    assert {json.loads(line)["task"] for line in settings.splitlines()} == set(names)


def test_a_claim_clears_what_a_kill_left(results, tmp_path):
    results.note(status="done", task="a")
    with (results.folder / "sweep.jsonl").open("a") as file:
        file.write('{"time": "2026-')
    (results.folder / ".saving-abc" / "results").mkdir(parents=True)
    lock = results.claim()
    results.note(status="done", task="b")
    lock.release()
    assert [json.loads(line)["task"] for line in (results.folder / "sweep.jsonl").read_text().splitlines()] == [
        "a",
        "b",
    ]
    assert not (results.folder / ".saving-abc").exists()


def test_a_claim_is_exclusive_and_makes_the_folder(tmp_path):
    results = Results(tmp_path / "a" / "b")
    assert not (tmp_path / "a").exists()
    lock = results.claim()
    with pytest.raises(BlockingIOError, match=r"is being written by process .* give another --out DIR"):
        Results(tmp_path / "a" / "b").claim()
    lock.release()
    Results(tmp_path / "a" / "b").claim().release()


def test_a_damaged_record_is_begun_anew_and_said(results):
    (results.folder / "sweep.json").write_text('{"runs": [')
    with pytest.warns(UserWarning, match="its earlier runs are left out"):
        results.record({"a": 1})
    assert json.loads((results.folder / "sweep.json").read_text()) == {"runs": [{"a": 1}]}


def test_scores_of_other_data_are_not_done_and_are_replaced_whole(results, meta):
    both = task_of("en-en", "es-es")
    results.save(result_of(both, 0.25), meta, ENCODING)
    path = results.path(meta, both)
    path.write_text(path.read_text().replace(both.metadata.revision, "an-earlier-one"))
    again, one = Results(results.folder), task_of("en-en")
    assert not again.done(meta, both) and not again.done(meta, one)
    again.save(result_of(one, 0.75), meta, ENCODING)
    assert held(again, meta, one) == {"en-en": 0.75}
    assert again.done(meta, one)
