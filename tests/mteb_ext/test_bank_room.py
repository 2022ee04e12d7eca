"""Banks side by side under one limit, and banks that are deleted while they are in use."""

import json
import shutil

import numpy as np
import pytest

from mteb_ext.bank import Bank, BankError, make_room
from mteb_ext.digest import text_digests
from mteb_ext.shards import View

VIEW = View("mean", "raw")


def fill(bank, text, task="A"):
    name = text_digests([text])
    bank.add(name, {VIEW: np.full((2, 1, 64), len(text), np.float32)}, task)


def lacking(bank, texts):
    return bank.missing(VIEW, [0, 1], text_digests(texts))


def taken(root):
    return sum(path.stat().st_size for path in root.glob("*/*.safetensors"))


@pytest.fixture
def bank_of(tmp_path):
    """A function (name, disk) -> the bank of a model under one root."""

    def made(name, disk):
        folder = tmp_path / "root" / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "key.json").write_text(json.dumps({"model": name}))
        return Bank(folder, disk=disk, root=tmp_path / "root")

    return made


@pytest.fixture
def size(tmp_path):
    """Bytes of a shard."""
    bank = Bank(tmp_path / "one")
    fill(bank, "x")
    return bank.bytes


def test_a_second_bank_grows_at_the_cost_of_the_first(bank_of, tmp_path, size):
    root, cap = tmp_path / "root", 10 * size
    first = bank_of("a", cap)
    for i in range(10):
        fill(first, f"t{i}")
    assert taken(root) == cap
    second = bank_of("b", cap)
    for i in range(10):
        fill(second, f"t{i}")
        assert taken(root) == cap
        assert lacking(Bank(root / "a"), [f"t{j}" for j in range(10)]) == list(range(i + 1))  # its oldest go first
        assert lacking(second, [f"t{j}" for j in range(i + 1)]) == []
    fill(second, "t10")
    assert taken(root) == cap and lacking(second, ["t0", "t1", "t10"]) == [0]


def test_room_is_made_at_once_and_kept(bank_of, tmp_path, size):
    for name in "abc":
        fill(bank_of(name, 100 * size), "t")
    make_room(tmp_path / "root", 2 * size, tmp_path / "root/c")
    last = bank_of("c", 2 * size)
    for i in range(5):
        fill(last, f"u{i}")
        assert taken(tmp_path / "root") <= 2 * size


def test_a_bank_without_a_root_leaves_its_neighbours(bank_of, tmp_path, size):
    fill(bank_of("a", 100 * size), "t")
    alone = Bank(tmp_path / "root/b", disk=size)
    for i in range(3):
        fill(alone, f"t{i}")
    assert lacking(Bank(tmp_path / "root/a"), ["t"]) == []


def test_a_bank_deleted_in_use_is_made_again(bank_of, tmp_path, size):
    root = tmp_path / "root"
    bank = bank_of("a", 100 * size)
    fill(bank, "before")
    shutil.rmtree(root)
    fill(bank, "after")
    assert json.loads((root / "a/key.json").read_text()) == {"model": "a"}  # so that room can be made of it
    assert lacking(Bank(root / "a"), ["before", "after"]) == [0]
    assert lacking(bank, ["before", "after"]) == []  # what is mapped is still served
    assert make_room(root, 0, None) == size


def test_a_deleted_bank_that_cannot_be_made_again_is_one_line(tmp_path):
    bank = Bank(tmp_path / "bank")
    (tmp_path / "bank").rmdir()
    (tmp_path / "bank").write_text("a file in its place")
    with pytest.raises(BankError, match=r"^the bank .*bank cannot be (made|written): .*give it another folder"):
        fill(bank, "t")


def test_a_deleted_temporary_folder_is_made_again(tmp_path, monkeypatch):
    monkeypatch.setattr("mteb_ext.bank.tempfile.tempdir", str(tmp_path))
    bank = Bank(memory=0)
    fill(bank, "a")
    (folder,) = tmp_path.iterdir()
    folder.rmdir()
    fill(bank, "b")
    assert lacking(bank, ["a", "b"]) == []
