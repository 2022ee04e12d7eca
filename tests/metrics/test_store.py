"""A store: modes, one writer, lazy readers, and damage that stays local."""

import json
import os
import warnings

import pytest
import torch

from metrics import shard
from metrics.record import Key, Record, Span
from metrics.store import open_store
from metrics.writer import Writer

FACTS = {"run_id": "one", "model": "m", "signals": {"logprob": {}}, "layers": []}


def record(i, value=0.0, **more):
    given = {
        "key": Key("t", i, 0, 0),
        "kind": "generate_until",
        "prompt_count": 3,
        "token_count": 4,
        "spans": {"answer": Span(0, 4), "generation": Span(0, 4)},
        "answer": f"a{i}",
        "prompt_hash": "p",
        "doc_hash": f"d{i}",
        "request_hash": "r",
        "signals": {"logprob": torch.full((4,), value - i), "entropy": torch.ones(4)},
    }
    return Record(**{**given, **more})


@pytest.fixture
def fill(tmp_path):
    """A function (numbers, mode, **options): a run that records them, two to a shard."""

    def run(numbers, mode="new", value=0.0, facts=FACTS, **options):
        writer = Writer(tmp_path / "s", facts, mode=mode, shard_records=2, **options)
        taken = [writer.add(record(i, value)) for i in numbers]
        writer.close()
        return taken

    return run


def doc_ids(store):
    return sorted(k.doc_id for k in store.entries())


def test_round_trip_and_lazy_columns(fill, tmp_path, monkeypatch):
    fill(range(5))
    store = open_store(tmp_path / "s")
    assert doc_ids(store) == list(range(5))
    asked, read = [], shard.read
    monkeypatch.setattr(shard, "read", lambda p, rows, names: (asked.append(tuple(names)), read(p, rows, names))[1])
    for r in store.records(["logprob"]):
        assert r.signals.keys() == {"logprob"}
        assert r.signals["logprob"].tolist() == [-r.key.doc_id] * 4
    assert asked == [("logprob",)] * 3
    assert [
        r.key.doc_id
        for r in store.records(keys=[Key("t", 3, 0, 0, "generate_until"), Key("t", 99, 0, 0, "generate_until")])
    ] == [3]
    assert len(asked) == 3  # without signals no data file is opened


def test_opening_reads_the_manifest_alone(fill, tmp_path, monkeypatch):
    fill(range(5))
    monkeypatch.setattr(shard, "read_index", lambda p: pytest.fail("the index was read"))
    assert open_store(tmp_path / "s").manifest["model"] == "m"


def test_the_later_record_counts(fill, tmp_path):
    fill(range(4))
    fill([2], "resume", value=100.0)
    store = open_store(tmp_path / "s")
    assert len(store) == 4
    (one,) = store.records(["logprob"], [Key("t", 2, 0, 0, "generate_until")])
    assert one.signals["logprob"].tolist() == [98.0] * 4
    assert [r["records"] for r in store.manifest["runs"]][-1] == 1


def test_modes(fill, tmp_path):
    fill([0, 1])
    with pytest.raises(FileExistsError, match="exists; give another store=DIR"):
        fill([2])
    fill([2], "resume")
    assert doc_ids(open_store(tmp_path / "s")) == [0, 1, 2]
    fill([7], "overwrite")
    assert doc_ids(open_store(tmp_path / "s")) == [7]
    with pytest.raises(ValueError, match="store_mode=append is not known"):
        fill([7], "append")


def test_resume_refuses_what_was_recorded_otherwise(fill, tmp_path):
    fill([0])
    for changed in ({"model": "other"}, {"signals": {}}, {"layers": [1]}, {"store_text": False}, {"max_length": 9}):
        (name,) = changed
        with pytest.raises(ValueError, match=f"recorded with {name}=.*this run has"):
            fill([1], "resume", facts={**FACTS, **changed})
    assert doc_ids(open_store(tmp_path / "s")) == [0]
    fill([1], "resume")  # and the lock is free again


def test_a_writer_killed_before_its_manifest_is_no_obstacle(fill, tmp_path):
    (tmp_path / "s" / "shards").mkdir(parents=True)
    (tmp_path / "s" / "lock").write_text("{}")
    (tmp_path / "s" / ".manifest.json.tmp").write_text('{"sch')
    fill([0], "resume")
    assert len(open_store(tmp_path / "s")) == 1


def test_a_folder_with_something_else_is_left_alone(fill, tmp_path):
    (tmp_path / "s" / "shards").mkdir(parents=True)
    (tmp_path / "s" / "shards" / "thesis.tex").write_text("")
    with pytest.raises(FileExistsError, match="not empty and not a store"):
        fill([0], "overwrite")
    assert (tmp_path / "s" / "shards" / "thesis.tex").exists()


def test_the_size_limit(fill, tmp_path):
    taken = fill(range(40), max_bytes=9000)
    assert taken[0] and not taken[-1]
    assert taken == sorted(taken, reverse=True)
    assert len(open_store(tmp_path / "s")) == sum(taken)
    assert sum(p.stat().st_size for p in (tmp_path / "s" / "shards").iterdir()) < 15000


def test_half_written_shards_do_not_exist(fill, tmp_path):
    """Killed after the data file, before the index; or in the middle of either."""
    fill(range(4))
    shards = tmp_path / "s" / "shards"
    (shards / "r0-00001.jsonl").unlink()
    (shards / ".r0-00002.safetensors.tmp").write_bytes(b"half")
    store = open_store(tmp_path / "s")
    assert doc_ids(store) == [0, 1]
    assert store.problems == []
    fill([2, 3], "resume")
    again = open_store(tmp_path / "s")
    assert doc_ids(again) == [0, 1, 2, 3]
    assert not list(shards.glob(".*"))
    assert again.damaged() == []


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda s: os.truncate(s / "r0-00001.safetensors", 100), r"r0-00001\.safetensors has 100 of"),
        (lambda s: (s / "r0-00001.safetensors").unlink(), r"r0-00001\.safetensors is missing"),
        (lambda s: os.truncate(s / "r0-00001.jsonl", 700), r"r0-00001\.jsonl"),
        (lambda s: (s / "r0-00001.jsonl").write_text("{}"), r"r0-00001\.jsonl"),
    ],
)
def test_a_damaged_shard_is_named_once_and_the_rest_reads(damage, named, fill, tmp_path):
    fill(range(6))
    damage(tmp_path / "s" / "shards")
    store = open_store(tmp_path / "s")
    with pytest.warns(UserWarning, match=named) as said:
        assert doc_ids(store) == [0, 1, 4, 5]
        assert len(list(store.records(["logprob"]))) == 4
        assert len(list(store.records(["entropy"]))) == 4
    assert len(said) == len(store.problems) == 1


def test_a_data_file_of_nonsense_is_named_when_read(fill, tmp_path):
    fill(range(6))
    data = tmp_path / "s" / "shards" / "r0-00001.safetensors"
    data.write_bytes(b"\xff" * data.stat().st_size)
    store = open_store(tmp_path / "s")
    with pytest.warns(UserWarning, match=r"r0-00001\.safetensors: not readable"):
        assert sorted(r.key.doc_id for r in store.records(["logprob"])) == [0, 1, 4, 5]
    assert len(store.damaged()) == 1


def test_foreign_files_in_the_shards_folder(fill, tmp_path):
    fill(range(2))
    shards = tmp_path / "s" / "shards"
    (shards / "r0-notes.txt").write_text("mine")
    (shards / "r0-draft.jsonl").write_text('{"hello": 1}\n')
    (shards / "README").write_text("x")
    store = open_store(tmp_path / "s")
    with pytest.warns(UserWarning, match=r"r0-draft\.jsonl: not the index of a shard"):
        assert doc_ids(store) == [0, 1]
    fill([2], "resume")
    with pytest.warns(UserWarning, match=r"r0-draft"):
        assert doc_ids(open_store(tmp_path / "s")) == [0, 1, 2]
    assert (shards / "r0-notes.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"schema": 2}', "schema 2; this version reads up to 1: upgrade eval-ext"),
        ('{"schema": "x"}', "is not a manifest"),
        ('{"model": "m"}', "is not a manifest"),
        ("[]", "is not a manifest"),
        ('{"schema"', "is not a manifest"),
        ("", "is not a manifest"),
    ],
)
def test_a_manifest_that_cannot_be_read_is_named(content, said, fill, tmp_path):
    fill([0])
    (tmp_path / "s" / "manifest.json").write_text(content)
    with pytest.raises(ValueError, match=said) as caught:
        open_store(tmp_path / "s")
    assert "manifest.json" in str(caught.value)


def test_no_store(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"is not a store: it holds no manifest\.json"):
        open_store(tmp_path)


def test_a_failed_close_lets_the_next_writer_in(tmp_path, monkeypatch):
    writer = Writer(tmp_path / "s", FACTS)
    writer.add(record(0))

    def failing(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", failing)
    with pytest.raises(OSError, match="No space"):
        writer.close()
    monkeypatch.undo()
    writer.close()
    Writer(tmp_path / "s", FACTS, mode="resume").close()


def test_two_writers(tmp_path):
    first = Writer(tmp_path / "s", FACTS)
    for mode in ("resume", "overwrite"):
        with pytest.raises(BlockingIOError, match=f"process {os.getpid()}"):
            Writer(tmp_path / "s", FACTS, mode=mode)
    first.add(record(0))
    first.close()
    assert len(open_store(tmp_path / "s")) == 1


def test_a_reader_beside_the_writer(tmp_path):
    writer = Writer(tmp_path / "s", FACTS, shard_records=2)
    for i in range(5):
        writer.add(record(i))
    assert doc_ids(open_store(tmp_path / "s")) == [0, 1, 2, 3]
    writer.close()
    assert doc_ids(open_store(tmp_path / "s")) == [0, 1, 2, 3, 4]


def test_linking_keeps_the_rest_of_the_manifest(fill, tmp_path):
    fill([0])
    store = open_store(tmp_path / "s")
    before = open_store(tmp_path / "s").manifest
    store.link(tmp_path / "results.json", "one")
    after = store.manifest
    assert after["runs"][0].pop("results") == [str(tmp_path / "results.json")]
    assert after == before


def test_nothing_is_warned_about_a_sound_store(fill, tmp_path):
    fill(range(6))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(list(open_store(tmp_path / "s").records(["logprob"]))) == 6
