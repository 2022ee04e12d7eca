"""What is damaged, missing or left over is named; a whole store has no problem."""

import json

import pytest
import stores
import torch

from metrics import shard
from metrics.manifest import update_run
from metrics.record import Span
from metrics.verify import verify


@pytest.fixture
def store(tmp_path):
    return stores.write(tmp_path / "s", [*map(stores.record, range(7)), stores.record(7, tokens=0)])


def first(store, ending):
    return store / "shards" / f"r0-00000{ending}"


def test_a_whole_store(store):
    found = verify(store)
    assert (found.shards, found.entries, found.records, found.superseded, found.runs) == (3, 8, 8, 0, 1)
    assert found.damage == found.problems == []
    assert found.bytes == sum(p.stat().st_size for p in (store / "shards").iterdir())


def test_superseded_records_are_counted_and_no_problem(store):
    stores.write(store, [stores.record(2, seed=1)], stores.facts("two"), mode="resume")
    found = verify(store)
    assert (found.entries, found.records, found.superseded, found.runs) == (9, 8, 1, 2)
    assert not found.damage and not found.problems


def test_flipped_bits_a_cut_index_and_missing_data_are_named(store):
    data = first(store, ".safetensors")
    content = bytearray(data.read_bytes())
    content[-3] ^= 4
    data.write_bytes(content)
    index = store / "shards" / "r0-00001.jsonl"
    index.write_text("".join(index.read_text().splitlines(keepends=True)[:2]))
    (store / "shards" / "r0-00002.safetensors").unlink()
    found = verify(store)
    assert len(found.damage) == 3 and not found.problems
    assert [name in line for name, line in zip(("r0-00000", "r0-00001", "r0-00002"), found.damage)] == [True] * 3


def test_an_index_that_does_not_fit_its_data(tmp_path):
    """Written so, as by a bug: the checksums agree, the contents do not belong together."""
    odd = [stores.record(0), stores.record(1, token_count=9), stores.record(2, spans={"answer": Span(1, 5)})]
    found = verify(stores.write(tmp_path / "s", odd))
    (line,) = found.damage
    assert "2 of 3 records do not fit their signals; the first: task t, document 1" in line
    assert "has 4 entries where 9 are due" in line or "has 5 entries where 10 are due" in line


def test_a_signal_of_another_number_of_axes(tmp_path):
    odd = stores.record(0)
    odd.signals["entropy"] = torch.ones(4, 2)
    (line,) = verify(stores.write(tmp_path / "s", [odd])).damage
    assert "entropy has 2 axes where 1 are described" in line


def test_leftovers(store):
    (store / "shards" / ".r0-00009.jsonl.tmp").write_text("{")
    first(store, ".jsonl").rename(store / "elsewhere")
    found = verify(store)
    assert any(".r0-00009.jsonl.tmp: left by an interrupted write; delete it" in line for line in found.problems)
    assert any("r0-00000.safetensors: data without an index" in line for line in found.problems)
    assert any("run one wrote 8 records, 3 of them are gone" in line for line in found.problems)


def test_deleted_shards_are_missed(store):
    for ending in (".jsonl", ".safetensors"):
        first(store, ending).unlink()
    (line,) = verify(store).problems
    assert "wrote 8 records, 3 of them are gone; shards were deleted" in line


def test_only_the_last_runs_end_matters(tmp_path):
    store = stores.write(tmp_path / "s", [stores.record(0)], end=False)
    (line,) = verify(store).problems
    assert "run one of" in line and "did not end" in line and "store_mode=resume" in line
    stores.write(store, [stores.record(1)], stores.facts("two"), mode="resume")
    assert verify(store).problems == []


def test_a_run_that_stopped_recording(store):
    stores.write(store, [], stores.facts("two"), mode="resume", results=())
    update_run(store, "two", stopped="disk full")
    assert verify(store).problems == [f"{store}: run two stopped recording: disk full"]


def test_every_process_of_a_run_counts(store):
    update_run(store, "one", ranks=2)
    (line,) = verify(store).problems
    assert "did not end in 1 of its 2 processes" in line
    update_run(store, "one", processes={"1": {"ended": "now", "records": 2, "stopped": "disk full"}})
    lost, stopped = verify(store).problems
    assert "run one wrote 10 records, 2 of them are gone" in lost and stopped.endswith(
        "run one stopped recording: disk full"
    )


def test_what_is_no_store(tmp_path):
    (tmp_path / "manifest.json").write_text(json.dumps({"schema": 1}))
    for path in (tmp_path / "nowhere", tmp_path):
        (line,) = verify(path).problems
        assert str(path) in line


def test_nothing_is_changed(store):
    before = {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in store.rglob("*") if p.is_file()}
    verify(store)
    assert before == {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in store.rglob("*") if p.is_file()}


def test_a_header_that_names_what_the_data_lacks(tmp_path, monkeypatch):
    store = stores.write(tmp_path / "s", [stores.record(0)])
    read = shard.read
    monkeypatch.setattr(
        shard,
        "read",
        lambda p, rows, names: [{k: v for k, v in r.items() if k != "entropy"} for r in read(p, rows, names)],
    )
    (line,) = verify(store).damage
    assert "names the signals entropy, which the data file lacks" in line
