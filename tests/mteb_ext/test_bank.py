"""The bank alone: rows bit for bit from memory, spilled and from disk; who is evicted; damage; a full disk; room."""

import errno
import os
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest

from mteb_ext import bank as bank_module
from mteb_ext import shards
from mteb_ext.bank import Bank, BankError, make_room
from mteb_ext.digest import text_digests
from mteb_ext.shards import View

MEAN, LAST = View("mean", "raw"), View("last", "final")
LAYERS, WIDTH = 3, 4
ROW = LAYERS * WIDTH * 4


def rows_of(names, view=MEAN):
    """Rows that follow from the text and the view alone."""
    seeds = [int.from_bytes(name[:4], "little") + (view == LAST) for name in names]
    made = [np.random.default_rng(seed).normal(size=(LAYERS, WIDTH)) for seed in seeds]
    return np.stack(made, 1).astype(np.float32)


def names_of(texts):
    return text_digests(texts)


def fill(bank, texts, task="A", views=(MEAN,)):
    names = names_of(texts)
    bank.add(names, {view: rows_of(names, view) for view in views}, task)


def served(bank, texts, view=MEAN, layers=(0, 1, 2)):
    found = bank.read(view, layers, names_of(texts), lambda rows: rows.transpose(1, 0, 2).reshape(rows.shape[1], -1))
    return found.reshape(len(texts), len(layers), WIDTH).transpose(1, 0, 2)


def check(bank, texts, view=MEAN, layers=(0, 1, 2)):
    assert bank.missing(view, layers, names_of(texts)) == []
    np.testing.assert_array_equal(
        served(bank, texts, view, layers).view(np.uint32), rows_of(names_of(texts), view)[list(layers)].view(np.uint32)
    )


def made(kind, folder, **limits):
    if kind == "memory":
        return Bank(**limits)
    return Bank(memory=1, **limits) if kind == "spilled" else Bank(folder / "bank", **limits)


KINDS = pytest.mark.parametrize("kind", ["memory", "spilled", "disk"])
TEXTS = [f"t{i}" for i in range(10)] + ["", " ", "\ud800 cut", "語🙂", "e\u0301", "\u00e9", "\0"]


@KINDS
def test_rows_come_back_bit_for_bit_in_the_order_asked_for(kind, tmp_path, monkeypatch):
    bank = made(kind, tmp_path)
    for start in range(0, len(TEXTS), 4):
        fill(bank, TEXTS[start : start + 4], views=(MEAN, LAST))
    for piece in (bank_module.PIECE, 3 * WIDTH * 4 * 2, 1):
        monkeypatch.setattr(bank_module, "PIECE", piece)
        check(bank, TEXTS)
        check(bank, TEXTS[::-1], LAST, (2, 0))
        check(bank, [TEXTS[3], TEXTS[12], TEXTS[3], TEXTS[0]], layers=(1,))
    assert bank.texts == len(TEXTS)


@KINDS
def test_what_is_not_held_is_said_by_position_and_never_read(kind, tmp_path):
    bank = made(kind, tmp_path)
    assert bank.missing(MEAN, [0], names_of(["a", "b"])) == [0, 1]
    assert bank.missing(MEAN, [0], []) == []
    fill(bank, ["b"])
    assert bank.missing(MEAN, [0], names_of(["a", "b", "c", "a"])) == [0, 2, 3]
    assert bank.missing(LAST, [0], names_of(["b"])) == [0]
    for view, texts in ((MEAN, ["b", "a"]), (LAST, ["b"]), (MEAN, [])):
        with pytest.raises(KeyError, match="not held"):
            served(bank, texts, view)


def test_a_view_may_come_later_from_another_shard(tmp_path):
    bank = Bank(tmp_path)
    fill(bank, ["a", "b"])
    fill(bank, ["b", "a", "c"], views=(LAST,))
    check(bank, ["a", "b"])
    check(bank, ["a", "b", "c"], LAST)
    assert bank.missing(MEAN, [0], names_of(["c", "a"])) == [0]


def test_prompts_and_texts_never_run_into_each_other():
    pairs = [("", "ab"), ("a", "b"), ("ab", ""), ("1:a", "b"), ("", "1:ab"), ("a", "\ud800"), ("a", "?")]
    assert len({text_digests([text], prompt)[0] for prompt, text in pairs}) == len(pairs)


def test_memory_spills_to_files_that_nobody_else_sees_and_that_go(tmp_path, monkeypatch):
    monkeypatch.setattr(bank_module.tempfile, "tempdir", str(tmp_path))
    bank = Bank(memory=3 * ROW + 16 * 3)
    fill(bank, ["a", "b", "c"])
    assert list(tmp_path.iterdir()) == []
    fill(bank, ["d"], "B")
    (folder,) = tmp_path.iterdir()
    assert folder.name.startswith("eval-ext-bank-")
    fill(bank, ["e"])
    assert list(folder.iterdir()) == []  # mapped, without names: a killed process leaves no rows behind
    check(bank, ["e", "d", "c", "b", "a"])
    del bank
    assert list(tmp_path.iterdir()) == []


def test_a_spilled_bank_keeps_to_the_cap_too(tmp_path):
    bank = Bank(memory=0, disk=1)
    for text in "abc":
        fill(bank, [text])
    assert bank.missing(MEAN, [0], names_of("abc")) == [0, 1]
    assert bank.evicted == set(names_of("ab"))


@pytest.fixture
def size(tmp_path):
    """Bytes of a shard of one text."""
    bank = Bank(tmp_path / "size")
    fill(bank, ["x"])
    return bank.bytes


def test_other_tasks_go_first_then_the_oldest_and_never_the_newest(tmp_path, size):
    bank = Bank(tmp_path / "bank", disk=4 * size)
    for text, task in [("a1", "A"), ("b1", "B"), ("a2", "A"), ("b2", "B")]:
        fill(bank, [text], task)
    order = ["b1", "b2", "a1", "a2"]
    for i, new in enumerate(["a3", "a4", "a5", "a6"]):
        assert bank.evicted == set(names_of(order[:i]))
        fill(bank, [new], "A")
    assert bank.evicted == set(names_of(order))
    check(bank, ["a3", "a4", "a5", "a6"])
    assert len(shards.paths(tmp_path / "bank")) == 4
    fill(bank, [f"large{i}" for i in range(50)], "C")
    check(bank, [f"large{i}" for i in range(50)])
    assert len(shards.paths(tmp_path / "bank")) == 1


def test_a_text_that_a_newer_shard_holds_too_survives_the_older(tmp_path, size):
    bank = Bank(tmp_path / "bank", disk=2 * size)
    fill(bank, ["a"])
    fill(bank, ["a"])
    fill(bank, ["b"])
    check(bank, ["a", "b"])
    assert bank.evicted == set()


def test_a_second_bank_serves_what_the_first_wrote(tmp_path):
    first, second = Bank(tmp_path), Bank(tmp_path)
    fill(first, ["a", "b"], views=(MEAN, LAST))
    check(second, ["b", "a"], LAST)
    fill(second, ["c"])
    check(first, ["c", "a"])
    check(Bank(tmp_path), ["c", "b", "a"])


def test_a_shard_evicted_under_a_reader_is_read_on_and_let_go_when_others_are_asked_for(tmp_path, size):
    reader, writer = Bank(tmp_path / "bank"), Bank(tmp_path / "bank", disk=2 * size)
    for text in "ab":
        fill(writer, [text])
    check(reader, ["a", "b"])
    for text in "cd":
        fill(writer, [text])
    check(reader, ["a", "b"])
    check(reader, ["b", "c"])  # c has to be looked for: b is asked for, a is not
    assert reader.missing(MEAN, [0], names_of("abcd")) == [0]
    assert reader.evicted == set(names_of("a"))
    check(reader, ["b", "c", "d"])
    assert reader.bytes == 3 * size


@pytest.mark.parametrize("kind", ["cut", "garbage", "empty", "foreign", "folder"])
def test_what_is_no_shard_costs_one_warning_and_its_texts_only(tmp_path, kind):
    bank = Bank(tmp_path)
    fill(bank, ["a", "b"])
    fill(bank, ["c"])
    path = shards.paths(tmp_path)[0]
    content = {
        "cut": path.read_bytes()[:-1],
        "garbage": b"\xff" * 99,
        "empty": b"",
        "foreign": b"\x02" + b"\0" * 7 + b"{}",
    }
    path.unlink()
    if kind == "folder":
        path.mkdir()
    else:
        path.write_bytes(content[kind])
    (tmp_path / "notes.txt").write_text("not ours")
    with pytest.warns(UserWarning, match=r"encoded again") as told:
        again = Bank(tmp_path)
    assert len(told) == 1
    assert str(path) in str(told[0].message)
    assert "\n" not in str(told[0].message)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert again.missing(MEAN, [0], names_of("abc")) == [0, 1]
        fill(again, ["a", "b"])
        check(again, ["a", "b", "c"])


def test_flipped_bits_are_noticed_where_they_are_read_and_encoded_again(tmp_path):
    first = Bank(tmp_path)
    fill(first, ["a", "b"])
    fill(first, ["c"])
    path = shards.paths(tmp_path)[0]
    content = bytearray(path.read_bytes())
    at = content.index(rows_of(names_of(["a", "b"]))[1].tobytes())
    content[at + 5] ^= 1
    path.write_bytes(content)
    bank = Bank(tmp_path)
    check(bank, ["a", "b", "c"], layers=(0, 2))
    with pytest.warns(UserWarning, match=r"is damaged; its 2 texts are encoded again") as told:
        assert bank.missing(MEAN, [0, 1], names_of("abc")) == [0, 1]
    assert len(told) == 1
    assert bank.evicted == set(names_of("ab"))
    fill(bank, ["b", "a"])
    check(bank, ["a", "b", "c"])
    check(Bank(tmp_path), ["a", "b", "c"])


@pytest.mark.parametrize("kind", ["disk", "spilled"])
def test_a_full_disk_is_one_line_with_the_remedy_and_loses_nothing(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(bank_module.tempfile, "tempdir", str(tmp_path))
    bank = Bank(tmp_path / "bank") if kind == "disk" else Bank(memory=1000)
    fill(bank, ["a", "b"])

    def full(self, target):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self))

    with monkeypatch.context() as broken:
        broken.setattr(Path, "replace", full)
        with pytest.raises(BankError, match=r"cannot be written: No space left .*free space, lower") as caught:
            fill(bank, [f"more{i}" for i in range(20)])
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, OSError)
    assert list(tmp_path.rglob("*.tmp")) == []
    assert [path.name for path in tmp_path.iterdir()] == (["bank"] if kind == "disk" else [])
    check(bank, ["b", "a"])
    fill(bank, [f"more{i}" for i in range(20)])
    check(bank, ["more7", "a"])


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root writes anywhere")
def test_a_read_only_folder_is_read(tmp_path):
    fill(Bank(tmp_path), ["a"])
    tmp_path.chmod(0o555)
    bank = Bank(tmp_path)
    check(bank, ["a"])
    with pytest.raises(BankError, match="cannot be written"):
        fill(bank, ["b"])
    tmp_path.chmod(0o755)


def test_a_file_in_the_place_of_the_folder_is_one_line(tmp_path):
    (tmp_path / "file").write_text("x")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(BankError, match=r"cannot be made: .*give it another folder"):
            Bank(folder)


def banks(root, count=3, each=2):
    """Banks whose shards were written in turns: bank 0, 1, 2, 0, 1, 2."""
    held = [Bank(root / f"bank{i}") for i in range(count)]
    for i in range(count):
        (root / f"bank{i}" / "key.json").write_text("{}")
    for turn in range(each):
        for bank in held:
            fill(bank, [f"t{turn}"])
    return held


def left(root):
    return [len(shards.paths(folder)) for folder in sorted(root.iterdir()) if folder.is_dir()]


def test_room_is_made_from_the_oldest_of_others(tmp_path, size):
    root = tmp_path / "root"
    banks(root)
    keep = root / "bank0"
    assert make_room(root, 6 * size, keep) == 0
    assert make_room(root, 6 * size - 1, keep) == size
    assert left(root) == [2, 1, 2]
    assert make_room(root, 3 * size, keep) == 2 * size
    assert left(root) == [2, 0, 1]
    assert make_room(root, 0, keep) == size
    assert left(root) == [2, 0, 0]
    assert make_room(root, 0, None) == 2 * size
    assert make_room(root / "absent", 0, None) == 0


def test_room_is_never_made_of_what_is_not_a_banks(tmp_path, size):
    root = tmp_path / "root"
    (bank, _) = banks(root, 2, 1)
    (root / "bank0" / "key.json").unlink()
    (root / "model").mkdir()
    (root / "model" / "key.json").write_text("{}")
    (root / "model" / "model.safetensors").write_bytes(b"weights")
    assert make_room(root, 0, None) == size
    assert left(root) == [1, 0, 1]
    check(bank, ["t0"])


def test_room_is_made_while_others_make_it_too(tmp_path, size, monkeypatch):
    root = tmp_path / "root"
    banks(root)
    unlink, stat = Path.unlink, Path.stat

    def gone_before(self, **options):
        if self.suffix == shards.SUFFIX and unlink is not None and self.name == first.name:
            unlink(self)
        return stat(self, **options)

    first = shards.paths(root / "bank0")[0]
    monkeypatch.setattr(Path, "stat", gone_before)
    assert make_room(root, 4 * size, None) == size
    monkeypatch.undo()
    removed = []
    monkeypatch.setattr(
        Path, "unlink", lambda self, missing_ok=False: (removed.append(self), unlink(self), unlink(self, missing_ok))
    )
    assert make_room(root, 0, None) == 4 * size
    assert left(root) == [0, 0, 0]
    shutil.rmtree(root)
