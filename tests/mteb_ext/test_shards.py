"""Shards: what is written comes back bit for bit; what is cut, flipped or foreign is told apart; no leftovers."""

import errno
import json
import os
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mteb_ext import shards
from mteb_ext.shards import Shard, View

MEAN, LAST = View("mean", "raw"), View("last", "final")


def digests(*names):
    return [name.encode().ljust(16, b".") for name in names]


def shard(n=3, layers=4, width=5, views=(MEAN, LAST), task="STS"):
    rng = np.random.default_rng(n)
    rows = {view: rng.normal(size=(layers, n, width)).astype(np.float32) for view in views}
    return Shard(digests(*(f"t{i}" for i in range(n))), rows, task)


def test_a_shard_comes_back_bit_for_bit(tmp_path):
    made = shard()
    made.rows[MEAN][0, 0, :4] = [np.nan, np.inf, -0.0, 1e-45]
    written = shards.write(tmp_path, made)
    again = shards.read(written.path)
    for held in (written, again):
        assert held.digests == made.digests
        assert held.task == "STS"
        assert held.size == written.path.stat().st_size
        assert held.rows.keys() == made.rows.keys()
        for view in made.rows:
            assert held.rows[view].tobytes() == made.rows[view].tobytes()
            assert held.damaged(view, range(4)) == []


def test_a_shard_is_a_safetensors_file_that_others_can_read(tmp_path):
    made = shard()
    read = load_file(shards.write(tmp_path, made).path)
    np.testing.assert_array_equal(read["mean/raw"], made.rows[MEAN])
    np.testing.assert_array_equal(read["last/final"], made.rows[LAST])
    assert read["digest"].tobytes() == b"".join(made.digests)


@pytest.mark.parametrize(("n", "width"), [(0, 5), (1, 1), (2, 0)])
def test_shards_of_few_rows_or_none(tmp_path, n, width):
    made = shard(n=n, width=width)
    held = shards.read(shards.write(tmp_path, made).path)
    assert held.rows[MEAN].shape == (4, n, width)
    assert len(held.digests) == n
    assert held.damaged(MEAN, range(4)) == []


def test_rows_of_another_precision_or_order_are_written_as_float32(tmp_path):
    rows = np.arange(24.0).reshape(4, 3, 2)[:, ::-1]
    held = shards.write(tmp_path, Shard(digests("a", "b", "c"), {MEAN: rows}, ""))
    np.testing.assert_array_equal(held.rows[MEAN], rows)
    assert held.rows[MEAN].dtype == np.float32


def test_mapped_rows_cannot_be_changed(tmp_path):
    held = shards.write(tmp_path, shard())
    with pytest.raises(ValueError, match="read-only"):
        held.rows[MEAN][0, 0, 0] = 1


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="open files are counted in /proc")
def test_no_file_stays_open(tmp_path):
    path = shards.write(tmp_path, shard()).path
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    held = [shards.read(path) for _ in range(50)]
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208
    assert all(one.rows[MEAN][3, 2, 4] == held[0].rows[MEAN][3, 2, 4] for one in held)


def test_names_follow_time_and_the_glob_knows_them(tmp_path):
    made = [shards.write(tmp_path, shard()).path for _ in range(20)]
    assert shards.paths(tmp_path) == made
    assert sorted(tmp_path.glob(shards.NAMES)) == made


def cut(path, keep):
    path.write_bytes(path.read_bytes()[:keep])


def test_a_cut_shard_is_refused_wherever_it_is_cut(tmp_path):
    whole = shards.write(tmp_path, shard()).path.read_bytes()
    path = tmp_path / f"x{shards.SUFFIX}"
    for keep in {0, 1, 7, 8, 9, 100, len(whole) // 2, len(whole) - 1}:
        path.write_bytes(whole[:keep])
        with pytest.raises(ValueError, match=r"x\.safetensors is not a whole shard of a bank"):
            shards.read(path)


def test_bytes_after_the_end_are_refused(tmp_path):
    path = shards.write(tmp_path, shard()).path
    path.write_bytes(path.read_bytes() + b"more")
    with pytest.raises(ValueError, match="not a whole shard"):
        shards.read(path)


@pytest.mark.parametrize("content", [b"\xff" * 300, b"{}" * 50, (2).to_bytes(8, "little") + b"[]", b"\0" * 64])
def test_garbage_is_refused_in_one_line(tmp_path, content):
    path = tmp_path / "garbage.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="garbage") as caught:
        shards.read(path)
    assert "\n" not in str(caught.value)


def crc(array, sum_of=zlib.crc32):
    return sum_of(np.ascontiguousarray(array).tobytes())


def foreign(rows, digest, sums=None, metadata=None):
    names = {"mean/raw": rows, "digest": digest}
    made = {name: [crc(layer) for layer in rows] if name != "digest" else [crc(digest)] for name in names}
    return names, metadata or {"task": "t", "sums": json.dumps(sums or made)}


ROWS, DIGEST = np.ones((2, 3, 4), np.float32), np.zeros((3, 16), np.uint8)


@pytest.mark.parametrize(
    ("tensors", "metadata"),
    [
        foreign(ROWS, DIGEST, metadata={"format": "pt"}),
        foreign(ROWS, DIGEST, metadata={"task": "t", "sums": "[1]"}),
        foreign(ROWS, DIGEST, metadata={"task": "t", "sums": "7"}),
        foreign(ROWS, DIGEST, metadata={"task": "t", "sums": "{"}),
        foreign(ROWS, DIGEST, sums={"digest": [1], "mean/raw": [0, 0]}),
        foreign(ROWS, DIGEST, sums={"digest": [crc(DIGEST)], "mean/raw": [0]}),
        foreign(ROWS, DIGEST, sums={"digest": [crc(DIGEST)], "mean/raw": 5}),
        foreign(ROWS, DIGEST, sums={"digest": [crc(DIGEST)]}),
        foreign(ROWS, DIGEST[:2]),
        foreign(ROWS[0], DIGEST),
        ({"weight": ROWS}, {"task": "t", "sums": "{}"}),
        ({"digest": DIGEST, "a/b/c": ROWS}, {"task": "t", "sums": json.dumps({"digest": [crc(DIGEST)], "a/b/c": [1]})}),
    ],
)
def test_whole_safetensors_files_of_others_are_refused(tmp_path, tensors, metadata):
    path = tmp_path / "model.safetensors"
    save_file(tensors, path, metadata=metadata)
    with pytest.raises(ValueError, match="not a whole shard of a bank"):
        shards.read(path)


def test_the_file_those_refusals_start_from_is_accepted(tmp_path):
    tensors, metadata = foreign(ROWS, DIGEST)
    save_file(tensors, tmp_path / "a.safetensors", metadata=metadata)
    assert shards.read(tmp_path / "a.safetensors").damaged(MEAN, [0, 1]) == []


def flip(path, offset):
    content = bytearray(path.read_bytes())
    content[offset] ^= 4
    path.write_bytes(content)


def test_a_flipped_bit_is_noticed_in_its_layer_alone(tmp_path):
    made = shard(n=6, views=(MEAN,))
    path = shards.write(tmp_path, made).path
    at = path.read_bytes().index(made.rows[MEAN][2].tobytes())
    flip(path, at + 17)
    held = shards.read(path)
    assert held.damaged(MEAN, [0, 1, 3]) == []
    assert held.damaged(MEAN, [3, 2, 1]) == [2]
    assert held.damaged(MEAN, [2]) == [2]
    assert held.damaged(LAST, [0]) == []


def test_a_flipped_bit_in_the_digests_is_noticed_at_once(tmp_path):
    made = shard()
    path = shards.write(tmp_path, made).path
    flip(path, path.read_bytes().index(b"".join(made.digests)) + 20)
    with pytest.raises(ValueError, match="its digests are damaged"):
        shards.read(path)


def test_a_flipped_bit_in_the_head_never_gives_other_rows(tmp_path):
    made = shard(views=(MEAN,))
    path = shards.write(tmp_path, made).path
    whole = path.read_bytes()
    refused = 0
    for offset in range(0, 8 + int.from_bytes(whole[:8], "little"), 2):
        path.write_bytes(whole)
        flip(path, offset)
        try:
            held = shards.read(path)
        except ValueError:
            refused += 1
            continue
        for layer in range(4):
            same = MEAN in held.rows and held.rows[MEAN][layer].tobytes() == made.rows[MEAN][layer].tobytes()
            assert same or MEAN not in held.rows or held.damaged(MEAN, [layer])
        assert held.digests == made.digests
    assert refused > 50


def test_each_layer_is_summed_once(tmp_path, monkeypatch):
    held = shards.read(shards.write(tmp_path, shard()).path)
    summed = []
    monkeypatch.setattr(shards.zlib, "crc32", lambda rows: (summed.append(1), crc(rows))[1])
    for _ in range(3):
        assert held.damaged(MEAN, [1, 2]) == []
    assert len(summed) == 2


def test_a_missing_file_and_a_folder_raise_os_errors(tmp_path):
    with pytest.raises(FileNotFoundError):
        shards.read(tmp_path / "none.safetensors")
    (tmp_path / "folder.safetensors").mkdir()
    with pytest.raises(OSError, match=r"No such device|directory"):
        shards.read(tmp_path / "folder.safetensors")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a full device is needed")
@pytest.mark.parametrize("problem", ["write", "replace", "interrupt"])
def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch, problem):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def interrupted(*_):
        raise KeyboardInterrupt

    if problem == "write":
        opened = Path.open

        def device(self, *args, **kwargs):
            opened(self, *args, **kwargs).close()
            return opened(Path("/dev/full"), "wb")

        monkeypatch.setattr(Path, "open", device)
    else:
        monkeypatch.setattr(Path, "replace", full if problem == "replace" else interrupted)
    with pytest.raises(KeyboardInterrupt if problem == "interrupt" else OSError):
        shards.write(tmp_path, shard())
    assert list(tmp_path.iterdir()) == []


def test_leftovers_go_when_they_are_old_and_are_never_listed(tmp_path):
    held = shards.write(tmp_path, shard()).path
    old, new = (tmp_path / f".{name}.safetensors.tmp" for name in ("old", "new"))
    other = tmp_path / "notes.txt"
    for path in (old, new, other):
        path.write_bytes(b"half")
        os.utime(path, (time.time() - (shards.STALE + 60) * (path != new),) * 2)
    assert shards.paths(tmp_path) == [held]
    assert not old.exists()
    assert new.exists()
    assert other.exists()


def test_leftovers_that_cannot_be_removed_do_not_stand_in_the_way(tmp_path, monkeypatch):
    held = shards.write(tmp_path, shard()).path
    old = tmp_path / ".old.safetensors.tmp"
    old.write_bytes(b"half")
    os.utime(old, (0, 0))

    def refuse(self, missing_ok=False):
        raise PermissionError(errno.EROFS, "Read-only file system", str(self))

    monkeypatch.setattr(Path, "unlink", refuse)
    assert shards.paths(tmp_path) == [held]
    assert shards.paths(tmp_path / "absent") == []
