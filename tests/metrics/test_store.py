"""A store: modes, one writer, lazy readers, and damage that stays local."""

import os
import shutil
import warnings

import pytest
import torch

from metrics import shard
from metrics.lock import Lock
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
        ("[" * 100_000, "is not a manifest"),
        ('{"schema": 2, "seal": "crc32 00000000"}', "was edited or damaged"),
        ('{"schema": 1, "model": "m", "signals": {}, "runs": [{}]}', "no list of runs"),
        ('{"schema": 1, "model": "m", "signals": 5, "runs": []}', "no model or signals"),
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
    assert "manifest.json" in str(caught.value) and "\n" not in str(caught.value)


def test_a_manifest_edited_by_hand_is_named_and_can_be_accepted(fill, tmp_path):
    fill([0])
    manifest = tmp_path / "s" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"model": "m"', '"model": "n"'))
    with pytest.raises(ValueError, match=r"manifest\.json was edited or damaged .* delete its line \"seal\"") as caught:
        open_store(tmp_path / "s")
    assert "\n" not in str(caught.value)
    manifest.write_text("\n".join(line for line in manifest.read_text().split("\n") if '"seal"' not in line))
    assert open_store(tmp_path / "s").manifest["model"] == "n"
    fill([1], "resume", facts={**FACTS, "model": "n"})
    assert doc_ids(open_store(tmp_path / "s")) == [0, 1]
    assert '"seal"' in manifest.read_text()


@pytest.mark.parametrize("damage", ["missing", "cut"])
def test_records_survive_their_manifest(damage, fill, tmp_path):
    """The remedy that the message gives: the manifest of a store recorded with the same settings."""
    fill(range(4))
    manifest = tmp_path / "s" / "manifest.json"
    if damage == "cut":
        os.truncate(manifest, 20)
    else:
        manifest.unlink()
    with pytest.raises(
        (ValueError, FileNotFoundError), match=r"the records beside it are whole: restore it .*--limit 1"
    ):
        open_store(tmp_path / "s")
    other = Writer(tmp_path / "other", {**FACTS, "run_id": "two"})
    other.add(record(9))
    other.close()
    (tmp_path / "other" / "manifest.json").replace(manifest)
    assert doc_ids(open_store(tmp_path / "s")) == [0, 1, 2, 3]
    fill([4], "resume")
    store = open_store(tmp_path / "s")
    assert doc_ids(store) == [0, 1, 2, 3, 4]
    assert len(list(store.records(["logprob"]))) == 5 and store.problems == []


def test_a_shards_folder_that_is_gone_is_named(fill, tmp_path):
    fill([0])
    shutil.rmtree(tmp_path / "s" / "shards")
    with pytest.warns(UserWarning, match=r"s/shards is missing, and the records with it; restore it, or record again"):
        assert doc_ids(open_store(tmp_path / "s")) == []


@pytest.mark.parametrize("kind", ["folder", "dangling link", "pipe", "device"])
@pytest.mark.parametrize("which", ["r0-00001.jsonl", "r0-00001.safetensors"])
def test_something_else_in_the_place_of_a_file(which, kind, fill, tmp_path):
    fill(range(6))
    path = tmp_path / "s" / "shards" / which
    path.unlink()
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero" if kind == "device" else tmp_path / "nowhere")
    store = open_store(tmp_path / "s")
    with pytest.warns(UserWarning, match=which):
        assert doc_ids(store) == [0, 1, 4, 5]


def test_a_store_behind_links_is_read(fill, tmp_path):
    fill(range(4))
    for path in (tmp_path / "s" / "shards").iterdir():
        path.rename(tmp_path / path.name)
        path.symlink_to(tmp_path / path.name)
    (tmp_path / "link").symlink_to(tmp_path / "s")
    assert len(list(open_store(tmp_path / "link").records(["logprob"]))) == 4


def test_the_remedy_for_a_damaged_shard(fill, tmp_path):
    """Deleted and recorded again, the store is whole."""
    fill(range(4))
    data = tmp_path / "s" / "shards" / "r0-00001.safetensors"
    content = bytearray(data.read_bytes())
    content[-3] ^= 4
    data.write_bytes(content)
    store = open_store(tmp_path / "s")
    with pytest.warns(UserWarning, match=r"r0-00001\.safetensors: not readable .*differs from its checksum.*Delete"):
        assert len(list(store.records(["logprob", "entropy"]))) == 2
    for path in data.parent.glob("r0-00001.*"):
        path.unlink()
    fill([2, 3], "resume")
    store = open_store(tmp_path / "s")
    assert len(list(store.records(["logprob", "entropy"]))) == 4 and store.problems == []


def test_a_clock_that_goes_back_does_not_make_the_earlier_run_the_later(fill, tmp_path, monkeypatch):
    times = iter(["2026-01-02T00:00:00+00:00", "2026-01-02T01:00:00+00:00", *["2020-01-01T00:00:00+00:00"] * 2])
    monkeypatch.setattr("metrics.writer._now", lambda: next(times))
    fill(range(4))
    fill([2], "resume", value=100.0)
    store = open_store(tmp_path / "s")
    (one,) = store.records(["logprob"], [Key("t", 2, 0, 0, "generate_until")])
    assert one.signals["logprob"].tolist() == [98.0] * 4
    assert [run["started"][:4] for run in store.manifest["runs"]] == ["2026", "2020"]


NAMES = ("with space", "café 数 😀", "n" * 200, "a'b\"c$d")


@pytest.mark.parametrize("name", NAMES)
def test_any_name_of_a_store(name, tmp_path):
    for mode, number in (("new", 0), ("resume", 1)):
        writer = Writer(tmp_path / name / "s", FACTS, mode=mode)
        writer.add(record(number))
        writer.close()
    assert len(list(open_store(tmp_path / name / "s").records(["logprob"]))) == 2


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


def test_two_starts_at_once_lose_nothing(tmp_path, monkeypatch):
    """Another begins, records and ends between this one's first look and its lock."""

    def late(path, *arguments):
        monkeypatch.undo()
        first = Writer(tmp_path / "s", FACTS)
        first.add(record(0))
        first.close()
        return Lock(path, *arguments)

    monkeypatch.setattr("metrics.writer.Lock", late)
    with pytest.raises(FileExistsError, match="exists; give another store=DIR"):
        Writer(tmp_path / "s", {**FACTS, "run_id": "two"})
    assert doc_ids(open_store(tmp_path / "s")) == [0]
    Writer(tmp_path / "s", FACTS, mode="resume").close()  # and the lock is free again


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
