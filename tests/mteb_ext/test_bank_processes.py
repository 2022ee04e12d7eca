"""Several processes on one folder, and processes killed while they write: every row that is served is right."""

import inspect
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest

from mteb_ext import shards
from mteb_ext.bank import Bank
from mteb_ext.digest import text_digests
from mteb_ext.shards import View

VIEW = View("mean", "raw")
ROOT = Path(__file__).parents[2]


def rows_of(names, width):
    seeds = [int.from_bytes(name[:4], "little") for name in names]
    return np.stack([np.random.default_rng(s).normal(size=(2, width)) for s in seeds], 1).astype(np.float32)


def all_layers(rows):
    return rows.transpose(1, 0, 2).reshape(rows.shape[1], -1)


def check(bank, names, width):
    held = sorted(set(range(len(names))) - set(bank.missing(VIEW, [0, 1], names)))
    if held:
        found = bank.read(VIEW, [0, 1], [names[i] for i in held], all_layers)
        assert np.array_equal(found, all_layers(rows_of([names[i] for i in held], width))), "wrong rows"
    return len(held)


COMMON = "\n\n".join(
    [
        "import os, signal, sys, tempfile",
        "from pathlib import Path",
        "import numpy as np",
        "from mteb_ext import shards",
        "from mteb_ext.bank import Bank",
        "from mteb_ext.digest import text_digests",
        "from mteb_ext.shards import View",
        "VIEW = View('mean', 'raw')",
        *(inspect.getsource(function) for function in (rows_of, all_layers, check)),
    ]
)


def start(code, *arguments):
    return subprocess.Popen(
        [sys.executable, "-c", COMMON + textwrap.dedent(code), *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "error::UserWarning"},
    )


def ended(process, said=None):
    told, faults = process.communicate(said, timeout=60)
    assert process.returncode == 0, faults
    return told


def test_two_writers_and_readers_on_one_folder(tmp_path):
    together = """
        folder, seed = Path(sys.argv[1]), int(sys.argv[2])
        names = text_digests([f"t{i}" for i in range(60)])
        rng = np.random.default_rng(seed)
        bank = Bank(folder)
        passed = 0
        print("ready", flush=True)
        for turn in range(60):
            asked = [names[i] for i in rng.choice(60, 5, replace=False)]
            if new := [asked[i] for i in bank.missing(VIEW, [0, 1], asked)]:
                bank.add(new, {VIEW: rows_of(new, 8)}, f"task{seed}")
                passed += len(new)
            assert check(bank, asked, 8) == 5
        assert check(Bank(folder), names, 8) >= 55
        print(passed)
    """
    running = [start(together, tmp_path, seed) for seed in (1, 2)]
    passed = [int(ended(one).split()[-1]) for one in running]
    assert sum(passed) <= 120
    names = text_digests([f"t{i}" for i in range(60)])
    assert check(Bank(tmp_path), names, 8) >= 55


def test_two_processes_under_a_cap_that_evict_each_others_shards(tmp_path):
    capped = """
        folder, seed = Path(sys.argv[1]), int(sys.argv[2])
        names = text_digests([f"{seed}.{i}" for i in range(100)] + [f"{3 - seed}.{i}" for i in range(100)])
        bank = Bank(folder, disk=4000)
        for turn in range(100):
            bank.add(names[turn : turn + 1], {VIEW: rows_of(names[turn : turn + 1], 16)}, f"task{seed}")
            check(bank, names, 16)
            assert check(bank, names[turn : turn + 1], 16) == 1
        print(len(bank.evicted))
    """
    running = [start(capped, tmp_path, seed) for seed in (1, 2)]
    assert all(int(ended(one)) > 80 for one in running)
    assert sum(path.stat().st_size for path in shards.paths(tmp_path)) < 2 * 4000 + 2 * 1000
    assert list(tmp_path.glob(".*")) == []


def test_a_reader_goes_on_with_shards_that_another_process_evicted(tmp_path):
    names = text_digests(["a", "b"])
    reader = Bank(tmp_path)
    writer = """
        bank = Bank(Path(sys.argv[1]), disk=1)
        names = text_digests(["a", "b"])
        bank.add(names, {VIEW: rows_of(names, 8)}, "A")
        print("held", flush=True)
        input()
        bank.add(text_digests(["c"]), {VIEW: rows_of(text_digests(["c"]), 8)}, "B")
        assert bank.evicted == set(names)
    """
    process = start(writer, tmp_path)
    assert process.stdout.readline() == "held\n"
    assert check(reader, names, 8) == 2
    ended(process, "go\n")
    assert len(shards.paths(tmp_path)) == 1
    assert check(reader, names, 8) == 2
    assert check(Bank(tmp_path), names, 8) == 0


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_a_kill_at_any_moment_of_writing_loses_no_whole_shard(tmp_path):
    endless = """
        bank = Bank(Path(sys.argv[1]))
        block = rows_of(text_digests(["x"]), 20_000)
        for turn in range(10**6):
            names = text_digests([f"t{turn}"])
            bank.add(names, {VIEW: block}, "A")
            print(turn, flush=True)
    """
    running = [(start(endless, tmp_path / str(i)), i) for i in range(3)]
    for process, i in running:
        for _ in range(i + 1):
            assert process.stdout.readline()
        time.sleep(0.0013 * i)
        process.send_signal(signal.SIGKILL)
        written = i + 1 + len(process.communicate()[0].split())
        folder = tmp_path / str(i)
        bank = Bank(folder)
        assert bank.texts >= written
        names = text_digests([f"t{turn}" for turn in range(bank.texts)])
        assert bank.missing(VIEW, [0, 1], names) == []
        block = rows_of(text_digests(["x"]), 20_000)
        for name in names:
            np.testing.assert_array_equal(bank.read(VIEW, [1], [name], lambda rows: rows[0]), block[1])
        for left in folder.glob(".*.tmp"):
            os.utime(left, (0, 0))
        assert Bank(folder).texts == bank.texts
        assert list(folder.glob(".*.tmp")) == []


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_a_kill_in_the_middle_of_a_write(tmp_path):
    killed = """
        bank, moment = Bank(Path(sys.argv[1])), sys.argv[2]
        names = text_digests(["a", "b"])
        bank.add(names[:1], {VIEW: rows_of(names[:1], 8)}, "A")

        def die(*_, **__):
            os.kill(os.getpid(), signal.SIGKILL)

        if moment == "replace":
            Path.replace = die
        elif moment == "open":
            shards._head = die
        else:
            head = shards._head
            shards._head = lambda *given: head(*given)[: 100]
            shards.read = die
        bank.add(names[1:], {VIEW: rows_of(names[1:], 8)}, "A")
    """
    moments = ("open", "write", "replace")
    for process, folder in [(start(killed, tmp_path / moment, moment), tmp_path / moment) for moment in moments]:
        faults = process.communicate(timeout=60)[1]
        assert process.returncode == -signal.SIGKILL, faults
        (left,) = folder.glob(".*.tmp")
        bank = Bank(folder)
        names = text_digests(["a", "b"])
        assert bank.missing(VIEW, [0, 1], names) == [1]
        assert check(bank, names[:1], 8) == 1
        assert left.exists()  # it might be another process's, still writing
        os.utime(left, (0, 0))
        assert bank.missing(VIEW, [0, 1], names) == [1]
        assert not left.exists()


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_a_killed_process_leaves_no_rows_in_the_temporary_folder(tmp_path):
    spilled = """
        tempfile.tempdir = sys.argv[1]
        bank = Bank(memory=0)
        names = text_digests(["a", "b"])
        for name in names:
            bank.add([name], {VIEW: rows_of([name], 8)}, "A")
        assert check(bank, names, 8) == 2
        os.kill(os.getpid(), signal.SIGKILL)
    """
    process = start(spilled, tmp_path)
    faults = process.communicate(timeout=60)[1]
    assert process.returncode == -signal.SIGKILL, faults
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
