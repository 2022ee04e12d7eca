"""Merged and pruned stores hold what they should, whole or not at all, and the sources stay as they are."""

import pytest
import stores
import torch

from metrics import copying
from metrics.copying import merge, prune
from metrics.slices import cut
from metrics.store import open_store
from metrics.verify import verify


def digest(path):
    return {p.name: p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file() and p.name != "lock"}


def test_a_merge_of_tasks_is_both(tmp_path):
    one = stores.write(tmp_path / "a", map(stores.record, range(7)), results=["r1"])
    two = stores.write(tmp_path / "b", [stores.record(i, "u", tokens=i) for i in range(5)], results=["r2"])
    before = digest(one), digest(two)
    done = merge([open_store(one), open_store(two)], tmp_path / "new")
    assert (done.records, done.overlapping, done.replaced, done.dropped) == (12, 0, 0, ())
    new = open_store(tmp_path / "new")
    assert stores.contents(new) == stores.contents(open_store(one)) | stores.contents(open_store(two))
    (run,) = new.manifest["runs"]
    assert run["results"] == ["r1", "r2"] and run["records"] == 12 and "ended" in run
    assert [source["store"] for source in run["sources"]] == [str(one), str(two)]
    assert run["sources"][0]["runs"][0]["run_id"] == "one"
    assert (digest(one), digest(two)) == before
    checked = verify(tmp_path / "new")
    assert checked.records == 12 and not checked.damage and not checked.problems
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b", "new"]


def test_the_later_argument_counts_and_equal_records_are_silent(tmp_path):
    changed = stores.record(2)
    changed.signals["entropy"][1] += 1
    one = stores.write(tmp_path / "a", [*map(stores.record, range(4))], results=["r1", "r2"])
    two = stores.write(tmp_path / "b", [stores.record(1), changed, stores.record(3, answer="new")], results=["r1"])
    done = merge([open_store(one), open_store(two)], tmp_path / "new")
    assert (done.records, done.overlapping, done.replaced) == (4, 3, 2)
    new = open_store(tmp_path / "new")
    assert stores.contents(new) == stores.contents(open_store(one)) | stores.contents(open_store(two))
    assert new.manifest["runs"][0]["results"] == ["r2", "r1"]  # the later store's labels are read last
    back = merge([open_store(two), open_store(one)], tmp_path / "back")
    assert back.replaced == 2
    assert stores.contents(open_store(tmp_path / "back")) == stores.contents(open_store(one))


def test_a_resumed_store_counts_its_latest(tmp_path):
    one = stores.write(tmp_path / "a", [stores.record(0), stores.record(1)])
    stores.write(one, [stores.record(0, seed=5)], stores.facts("two"), mode="resume")
    stores.write(tmp_path / "b", [stores.record(9)])
    merge([open_store(one), open_store(tmp_path / "b")], tmp_path / "new")
    kept = stores.contents(open_store(tmp_path / "new"))
    assert len(kept) == 3 and kept == stores.contents(open_store(one)) | stores.contents(open_store(tmp_path / "b"))
    assert verify(one).superseded == 1 and verify(tmp_path / "new").superseded == 0


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"model": "other"}, "differ in model: m against other; merge only stores of one model"),
        ({"dtype": "bfloat16", "max_length": 7}, r"differ in dtype \(and in max_length\): float32 against bfloat16"),
        ({"names": ("logprob",)}, "differ in signals: .*; pass --common"),
        ({"layers": [0]}, "differ in layers: .*; pass --common"),
        ({"store_text": False}, "differ in store_text: True against False; leave the text out .* prune --no-text"),
    ],
)
def test_two_experiments_are_not_mixed(tmp_path, changed, says):
    one = stores.write(tmp_path / "a", [stores.record(0)])
    two = stores.write(tmp_path / "b", [stores.record(1)], stores.facts(**changed))
    with pytest.raises(ValueError, match=says):
        merge([open_store(one), open_store(two)], tmp_path / "new")
    if "model" in changed:
        with pytest.raises(ValueError, match="differ in model"):
            merge([open_store(one), open_store(two)], tmp_path / "new", common=True)
    assert not (tmp_path / "new").exists()


def test_common_keeps_what_all_have(tmp_path):
    some = ("logprob", "scalar", "lens_entropy")
    one = stores.write(tmp_path / "a", [stores.record(0)])
    two = stores.write(tmp_path / "b", [stores.record(1, names=some)], stores.facts(names=some, layers=[3, 4]))
    done = merge([open_store(one), open_store(two)], tmp_path / "new", common=True)
    assert done.dropped == ("entropy", "lens_entropy", "top_tokens")  # the lenses are of other layers
    new = open_store(tmp_path / "new")
    assert {n for r in new.records(["logprob", "scalar", "lens_entropy"]) for n in r.signals} == {"logprob", "scalar"}
    assert list(new.manifest["signals"]) == ["logprob", "scalar"] and new.manifest["layers"] == []


def test_one_store_and_one_store_twice_are_refused(tmp_path):
    one = stores.write(tmp_path / "a", [stores.record(0)])
    with pytest.raises(ValueError, match="two stores or more"):
        merge([open_store(one)], tmp_path / "new")
    (tmp_path / "b").mkdir()
    with pytest.raises(ValueError, match="given twice"):
        merge([open_store(one), open_store(tmp_path / "b" / ".." / "a")], tmp_path / "new")


def test_damage_is_not_carried_over(tmp_path):
    one = stores.write(tmp_path / "a", [stores.record(0)])
    two = stores.write(tmp_path / "b", [stores.record(1)])
    data = next((two / "shards").glob("*.safetensors"))
    flipped = bytearray(data.read_bytes())
    flipped[-1] ^= 1
    data.write_bytes(flipped)
    with pytest.raises(ValueError, match=r"b is damaged: .*r0-00000"):
        merge([open_store(one), open_store(two)], tmp_path / "new")
    with pytest.raises(ValueError, match="b is damaged"):
        prune(cut(open_store(two)), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_an_interrupted_merge_leaves_nothing(tmp_path, monkeypatch):
    one = stores.write(tmp_path / "a", map(stores.record, range(5)))
    two = stores.write(tmp_path / "b", [stores.record(i, "u") for i in range(5)])
    add, seen = copying.Writer.add, []

    def stop(self, record):
        seen.append(record.key)
        if len(seen) == 7:
            self.flush()  # shards are on the disk by now
            raise KeyboardInterrupt
        return add(self, record)

    monkeypatch.setattr(copying.Writer, "add", stop)
    with pytest.raises(KeyboardInterrupt):
        merge([open_store(one), open_store(two)], tmp_path / "new")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b"]


def test_a_place_that_is_taken_is_left_alone(tmp_path):
    one = stores.write(tmp_path / "a", [stores.record(0)])
    with pytest.raises(FileExistsError, match="not an empty folder; give another --out"):
        prune(cut(open_store(one), text=False), one)
    (tmp_path / "empty").mkdir()
    prune(cut(open_store(one), text=False), tmp_path / "empty")
    assert len(open_store(tmp_path / "empty")) == 1


def test_pruned_values_are_the_sources_own(tmp_path):
    one = stores.write(tmp_path / "a", [*map(stores.record, range(6)), stores.record(0, "u")])
    kept = prune(cut(open_store(one), tasks="t", signals="lens_entropy+scalar+tokens"), tmp_path / "new")
    before, after = stores.contents(open_store(one)), stores.contents(open_store(tmp_path / "new"))
    assert kept == 6 and {key.task for key in after} == {"t"}
    for key, (entry, values) in after.items():
        assert entry == before[key][0]
        assert values == {n: before[key][1][n] for n in ("lens_entropy", "scalar", "tokens")}
    assert open_store(tmp_path / "new").manifest["layers"] == [0, 1]


def test_a_pruned_store_can_be_gone_on_with(tmp_path):
    one = stores.write(tmp_path / "a", map(stores.record, range(3)))
    prune(cut(open_store(one), signals="logprob"), tmp_path / "new")
    plan = stores.facts("more", names=("logprob",), layers=[])
    stores.write(tmp_path / "new", [stores.record(8, names=("logprob",))], plan, mode="resume")
    assert len(open_store(tmp_path / "new")) == 4 and not verify(tmp_path / "new").problems


def test_an_empty_slice_is_refused(tmp_path):
    one = stores.write(tmp_path / "a", [])
    with pytest.raises(ValueError, match="nothing is left to keep"):
        prune(cut(open_store(one)), tmp_path / "new")


def test_one_shard_at_a_time_is_in_memory(tmp_path, monkeypatch):
    stores.write(tmp_path / "a", (stores.record(i, tokens=50) for i in range(40)), shard_records=4)
    stores.write(tmp_path / "b", (stores.record(i, "u", tokens=50) for i in range(40)), shard_records=4)
    alive, most, read = [0], [0], copying.Slice.records
    writer = copying.Writer
    monkeypatch.setattr(copying, "Writer", lambda *a, **k: writer(*a, **{**k, "shard_records": 8}))

    def counted(self):
        for one in read(self):
            alive[0] += 1
            yield one

    flush = writer.flush

    def flushed(self):
        most[0], alive[0] = max(most[0], alive[0]), 0
        flush(self)

    monkeypatch.setattr(copying.Slice, "records", counted)
    monkeypatch.setattr(writer, "flush", flushed)
    merge([open_store(tmp_path / "a"), open_store(tmp_path / "b")], tmp_path / "new")
    assert most[0] <= 9 and len(open_store(tmp_path / "new")) == 80
    assert torch.is_tensor(next(iter(open_store(tmp_path / "new").records(["entropy"]))).signals["entropy"])
