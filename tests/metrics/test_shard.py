"""One shard: what goes in comes out, and whatever happens to its two files is noticed and named."""

import json
import random

import pytest
import torch

from metrics import shard
from metrics.record import Key, Record, Span


def record(i, **more):
    given = {
        "key": Key("t", i, 0, 0),
        "kind": "generate_until",
        "prompt_count": 3,
        "token_count": i,
        "spans": {"answer": Span(0, i), "generation": Span(0, i)},
        "answer": f"answer {i}",
        "prompt_hash": "p",
        "doc_hash": "d",
        "request_hash": "r",
        "signals": {
            "logprob": torch.arange(i, dtype=torch.float32) - i,
            "hidden": torch.full((2, i + 1, 3), float(i), dtype=torch.bfloat16),
            "prompt_tokens": torch.tensor([1, 2, i % 2], dtype=torch.int32),
            "scalar": torch.tensor(float(i)),
        },
    }
    return Record(**{**given, **more})


NAMES = ("logprob", "hidden", "prompt_tokens", "scalar")


@pytest.fixture
def written(tmp_path):
    shard.write(tmp_path, "r0-00000", [record(i) for i in (3, 0, 5, 1)])
    return tmp_path / "r0-00000.jsonl"


def test_what_goes_in_comes_out(written):
    header, entries = shard.read_index(written)
    assert header["records"] == 4
    found = shard.read(written, range(4), NAMES)
    for i, entry, signals in zip((3, 0, 5, 1), entries, found):
        again = Record.from_entry(json.loads(json.dumps(entry)), signals)
        expected = record(i)
        assert {**vars(again), "signals": None} == {**vars(expected), "signals": None}
        for name in NAMES:
            assert again.signals[name].dtype == expected.signals[name].dtype
            assert torch.equal(again.signals[name], expected.signals[name])


def test_rows_in_any_order_and_columns_that_some_lack(tmp_path):
    whole = {n: v for n, v in record(2).signals.items() if n != "scalar"}
    records = [record(2, signals=whole), record(4, signals={"logprob": torch.ones(4)}), record(1, signals={})]
    shard.write(tmp_path, "a", records)
    c, b, a = shard.read(tmp_path / "a.jsonl", [2, 1, 0], (*NAMES, "unknown"))
    assert set(a) == set(whole)
    assert b.keys() == {"logprob"}
    assert b["logprob"].tolist() == [1, 1, 1, 1]
    assert c == {}


def test_a_scalar_that_some_lack(tmp_path):
    """It has no sizes, so a row for each record says whose it is."""
    values = [None, torch.tensor(1.5), None, torch.tensor(2.5), torch.tensor(float("nan"))]
    shard.write(tmp_path, "a", [record(1, signals={} if v is None else {"scalar": v}) for v in values])
    found = shard.read(tmp_path / "a.jsonl", range(5), ["scalar"])
    assert [f.get("scalar") is None for f in found] == [True, False, True, False, False]
    assert [float(found[i]["scalar"]) for i in (1, 3)] == [1.5, 2.5]
    assert found[1]["scalar"].shape == ()


def test_equal_prompts_are_kept_once(tmp_path):
    shard.write(tmp_path, "a", [record(i, signals={"prompt_tokens": torch.arange(9000)}) for i in range(20)])
    assert (tmp_path / "a.safetensors").stat().st_size < 2 * 9000 * 8


@pytest.mark.parametrize("char", ["\u2028", "\u2029", "\x85", "\r", "\x0b", "\x1c", "\n", "\x00", "é😀", '"\\'])
def test_any_character_in_an_answer(char, tmp_path):
    shard.write(tmp_path, "a", [record(1, answer=f"x{char}y"), record(2)])
    _, entries = shard.read_index(tmp_path / "a.jsonl")
    assert [e["answer"] for e in entries] == [f"x{char}y", "answer 2"]


def test_numbers_survive(tmp_path):
    values = [[-0.1 - 0.2, True], [float("-inf"), False], 1e-300]
    shard.write(tmp_path, "a", [record(i, answer=v) for i, v in enumerate(values)])
    assert [e["answer"] for e in shard.read_index(tmp_path / "a.jsonl")[1]] == values


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda i, d: d.write_bytes(d.read_bytes()[:-7]), "bytes; its 4 records are left out. Delete "),
        (lambda i, d: d.unlink(), "is missing; its 4 records are left out. Delete "),
        (lambda i, d: d.write_bytes(b"x" * d.stat().st_size), None),
        (lambda i, d: i.write_bytes(i.read_bytes()[:-9]), "not the index of a shard"),
        (lambda i, d: i.write_text("".join(i.read_text().splitlines(True)[:-1])), "3 of 4 records"),
        (lambda i, d: i.write_text(""), "not the index of a shard"),
        (lambda i, d: i.write_bytes(b"\xff\xfe\x00"), "not the index of a shard"),
        (lambda i, d: i.write_text('{"a": 1}\n'), "not the index of a shard"),
        (lambda i, d: i.write_text('[1]\n"x"\n'), "not the index of a shard"),
        (
            lambda i, d: i.write_text(i.read_text().splitlines(True)[0] + '{"x": 1}\n' * 4),
            "records differ from their checksum",
        ),
        (lambda i, d: i.write_text(i.read_text().splitlines(True)[0] + "5\n" * 4), "not the index of a shard"),
    ],
)
def test_damage_is_named(damage, said, written):
    damage(written, written.with_suffix(".safetensors"))
    with pytest.raises(shard.DamagedShard) as caught:
        shard.read_index(written)
        shard.read(written, range(4), NAMES)
    assert "r0-00000" in str(caught.value)
    assert (said or "not readable") in str(caught.value)


def test_a_flipped_byte_raises_nothing_else_and_the_checksum_tells(written):
    data = written.with_suffix(".safetensors")
    good = data.read_bytes()
    rng = random.Random(0)
    assert shard.checksum(written)
    for _ in range(300):
        at = rng.randrange(len(good))
        data.write_bytes(good[:at] + bytes([good[at] ^ (1 << rng.randrange(8))]) + good[at + 1 :])
        assert not shard.checksum(written)
        try:
            shard.read(written, range(4), NAMES)
        except shard.DamagedShard as damage:
            assert "r0-00000.safetensors" in str(damage)


def test_the_index_comes_last(tmp_path, monkeypatch):
    replaced, replace = [], shard.replace
    monkeypatch.setattr(shard, "replace", lambda path, payload: (replaced.append(path.suffix), replace(path, payload)))
    shard.write(tmp_path, "a", [record(1)])
    assert replaced == [".safetensors", ".jsonl"]


def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch):
    def failing(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", failing)
    with pytest.raises(OSError, match="No space"):
        shard.write(tmp_path, "a", [record(1)])
    assert list(tmp_path.iterdir()) == []
