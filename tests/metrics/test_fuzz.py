"""Damage of every kind in every file of a store: it is named in one line, or nothing that is read differs."""

import copy
import json
import random
import signal
import struct
import warnings
from collections import Counter
from contextlib import contextmanager

import pytest
import torch

from metrics import shard
from metrics.record import Key, Record, Span
from metrics.seal import SEAL
from metrics.store import open_store
from metrics.writer import Writer

SIGNALS = ("logprob", "top", "hidden", "prompt_tokens", "scalar", "absent")
ANSWERS = ("42", "é😀\u2028", [-1.5, True], -3.25, "", "\ud800 alone", [float("-inf"), False])
FACTS = {"run_id": "one", "model": "m", "signals": {"logprob": {"axes": ["token"]}}, "layers": [0, 1], "lr": 0.5}


def record(i):
    n = i % 5
    made = {
        "logprob": torch.linspace(-1 - i, 0, n),
        "top": torch.arange(n * 3, dtype=torch.int32).reshape(n, 3) + i,
        "hidden": torch.full((2, n + 1, 4), i / 3, dtype=torch.bfloat16),
        "prompt_tokens": torch.tensor([5, 6, i % 3], dtype=torch.int32),
        "scalar": torch.tensor(float("nan") if i == 2 else i),
    }
    return Record(
        key=Key(f"task{i % 2}", i, 0, 0),
        kind="generate_until",
        prompt_count=3,
        token_count=n,
        spans={"answer": Span(0, n // 2), "generation": Span(0, n)},
        answer=ANSWERS[i % len(ANSWERS)],
        prompt_hash="p" * 8,
        doc_hash=f"{i:08x}",
        request_hash="r" * 8,
        signals={k: v for k, v in made.items() if (i + len(k)) % 4},
    )


@pytest.fixture
def sound(tmp_path):
    """A store of two runs and three shards."""
    for mode, facts, numbers in (("new", FACTS, range(7)), ("resume", {**FACTS, "run_id": "two"}, range(6, 10))):
        writer = Writer(tmp_path / "s", facts, mode=mode, shard_records=4)
        for i in numbers:
            writer.add(record(i))
        writer.close()
    return tmp_path / "s"


def unsealed(folder):
    """The same store as it was written before there were checksums."""
    manifest = folder / "manifest.json"
    manifest.write_text(json.dumps({k: v for k, v in json.loads(manifest.read_text()).items() if k != SEAL}))
    for path in (folder / "shards").glob("*.jsonl"):
        header, body = path.read_bytes().split(b"\n", 1)
        old = {k: v for k, v in json.loads(header).items() if k in shard.UNCHECKED}
        path.write_bytes(json.dumps(old).encode() + b"\n" + body)
    return folder


def everything(folder, names=SIGNALS, *, verify=False):
    """All that a reader returns, comparable, and what it complained of."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        store = open_store(folder)
        found = {}
        for one in store.records(names):
            values = {
                n: (str(v.dtype), tuple(v.shape), v.reshape(-1).view(torch.uint8).tolist())
                for n, v in one.signals.items()
            }
            found[one.key] = (repr({**vars(one), "signals": None}), values)
        if verify:
            store.damaged()
    return store.manifest, found, store.problems


# ---------------------------------------------------------------- mutations of bytes


def flip(rng, data):
    at = rng.randrange(len(data))
    return data[:at] + bytes([data[at] ^ (1 << rng.randrange(8))]) + data[at + 1 :]


def several_flips(rng, data):
    for _ in range(rng.randint(2, 9)):
        data = flip(rng, data)
    return data


def delete(rng, data):
    at = rng.randrange(len(data))
    return data[:at] + data[at + rng.choice((1, 1, 2, 8, 100)) :]


def insert(rng, data):
    at = rng.randrange(len(data) + 1)
    what = rng.choice((b"\x00", b"\n", b" ", b"\xff\xfe", b"\xed\xa0\x80", b"\\ud800", b"9", b'"', b"[" * 5000))
    return data[:at] + what + data[at:]


def truncate(rng, data):
    return data[: rng.randrange(len(data))]


def empty(rng, data):
    return b""


def swap_blocks(rng, data):
    size = rng.choice((1, 4, 16, 64))
    a, b = sorted(rng.sample(range(max(len(data) - size, 2)), 2))
    if b - a < size:
        return data[:a] + data[b : b + size] + data[a:b] + data[b + size :]
    return data[:a] + data[b : b + size] + data[a + size : b] + data[a : a + size] + data[b + size :]


def zero_block(rng, data):
    at, size = rng.randrange(len(data)), rng.choice((1, 16, 512))
    return data[:at] + bytes(len(data[at : at + size])) + data[at + size :]


def repeat_line(rng, data):
    lines = data.split(b"\n")
    return b"\n".join([*lines[: rng.randrange(len(lines))], rng.choice(lines), *lines[rng.randrange(len(lines)) :]])


def change_digit(rng, data):
    digits = [i for i, c in enumerate(data) if 48 <= c <= 57]
    if not digits:
        return flip(rng, data)
    at = rng.choice(digits)
    return data[:at] + str((data[at] - 48 + rng.randint(1, 9)) % 10).encode() + data[at + 1 :]


BYTES = (flip, several_flips, delete, insert, truncate, empty, swap_blocks, zero_block, repeat_line, change_digit)


# ---------------------------------------------------------------- mutations of JSON

ODD = (
    *(None, True, -1, 0, 1, 2**63, -(2**70), 10**400, 0.5, 1e308, float("nan"), float("inf"), "", "x", "\ud800"),
    *([], {}, [[]], {"a": 1}, [1, 2], [-1, 5], [5, 1], "9" * 5000),
)


def places(value, path=()):
    """Every place in a JSON value, as the keys that lead to it."""
    yield path
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield from places(child, (*path, key))


def change_json(rng, text):
    """One value replaced, removed, renamed, doubled or nested."""
    value = copy.deepcopy(json.loads(text))
    path = rng.choice(list(places(value))[1:])
    parent = value
    for key in path[:-1]:
        parent = parent[key]
    last, old = path[-1], parent[path[-1]]
    what = rng.randrange(5)
    if what == 0:
        del parent[last]
    elif what == 1 and isinstance(parent, dict):
        parent[f"{last}x"] = parent.pop(last)
    elif what == 2:
        nested = json.dumps(value).replace(json.dumps(old), "[" * 100_000 + "]" * 100_000, 1)
        return nested.encode()
    elif what == 3 and isinstance(parent, dict):
        doubled = json.dumps(value)
        return f"{doubled[:-1]}, {json.dumps(str(path[0]))}: {json.dumps(rng.choice(ODD))}}}".encode()
    else:
        parent[last] = rng.choice(ODD)
    return json.dumps(value).encode()


def change_file(rng, data, name):
    """A mutation that knows what the file is."""
    if name.endswith(".safetensors"):
        (size,) = struct.unpack("<Q", data[:8])
        if rng.random() < 0.3:
            length = rng.choice((0, 1, size - 1, size + 1, size + 8, len(data), 2**31, 2**63, 2**64 - 1))
            return struct.pack("<Q", length) + data[8:]
        header = change_json(rng, data[8 : 8 + size])
        header += b" " * (-len(header) % 8)
        return struct.pack("<Q", len(header)) + header + data[8 + size :]
    if name == "manifest.json":
        return change_json(rng, data)
    lines = data.split(b"\n")
    at = rng.randrange(len(lines) - 1)
    lines[at] = change_json(rng, lines[at])
    return b"\n".join(lines)


def mutations(files, seed, number):
    """(file, new bytes) that differ from what is there."""
    rng = random.Random(seed)
    made = 0
    while made < number:
        path = rng.choice(list(files))
        old = files[path]
        new = change_file(rng, old, path.name) if rng.random() < 0.4 else rng.choice(BYTES)(rng, old)
        if new != old:
            made += 1
            yield path, new


@contextmanager
def within(seconds):
    """What hangs fails."""
    before = signal.signal(signal.SIGALRM, lambda *_: pytest.fail(f"still reading after {seconds} s"))
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def fuzz(folder, seed, number, *, equal):
    """Damage one file at a time and read everything; counts of what came of it, by kind of file."""
    files = {p: p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file() and not p.name.endswith("lock")}
    assert sorted({p.suffix for p in files}) == [".json", ".jsonl", ".safetensors"]
    read = {".json": (), ".jsonl": SIGNALS[:1], ".safetensors": SIGNALS}
    truths = {suffix: everything(folder, names, verify=True) for suffix, names in read.items()}
    assert all(len(truth) == 10 and problems == [] for _, truth, problems in truths.values())
    outcomes = Counter()
    for path, damaged in mutations(files, seed, number):
        path.write_bytes(damaged)
        assert path.read_bytes() != files[path]
        manifest, truth, _ = truths[path.suffix]
        try:
            with within(60):
                now, found, said = everything(folder, read[path.suffix], verify=sum(outcomes.values()) % 9 == 0)
        except (ValueError, OSError) as problem:
            assert path.name == "manifest.json", problem
            said = [str(problem)]
        else:
            lost = truth.keys() - found.keys()
            if equal:
                assert now == manifest
                assert all(truth[key] == found[key] for key in found), path
                assert bool(lost) <= bool(said), path
        for line in said:
            assert path.stem in line and "\n" not in line, line
            assert any(remedy in line for remedy in ("store_mode=resume", "restore", "delete its line", "upgrade"))
        outcomes[path.suffix, "noticed" if said else "harmless"] += 1
        path.write_bytes(files[path])
    assert everything(folder) == truths[".safetensors"]
    return outcomes


@pytest.mark.parametrize("number", [1500, pytest.param(10_000, marks=pytest.mark.slow)])
def test_whatever_is_changed_is_noticed_or_harmless(number, sound, capsys):
    outcomes = fuzz(sound, 0, number, equal=True)
    assert sum(outcomes.values()) == number
    for kind in (".json", ".jsonl", ".safetensors"):
        assert outcomes[kind, "noticed"] > 5 * outcomes[kind, "harmless"]
    with capsys.disabled():
        if number > 1500:
            print(f"\n{dict(outcomes)}")


@pytest.mark.parametrize("number", [300, pytest.param(10_000, marks=pytest.mark.slow)])
def test_a_store_without_checksums_is_read_and_its_damage_crashes_nothing(number, sound, capsys):
    before = everything(sound)
    assert everything(unsealed(sound)) == before
    outcomes = fuzz(sound, 1, number, equal=False)
    assert sum(outcomes.values()) == number
    with capsys.disabled():
        if number > 300:
            print(f"\n{dict(outcomes)}")


def test_the_comparison_can_fail(sound, monkeypatch):
    """Without the checksums the same damage is read wrongly."""
    unsealed(sound)
    with pytest.raises(AssertionError):
        fuzz(sound, 0, 1500, equal=True)
