"""One writer at a time, and a message that names the other."""

import getpass
import json
import os
import signal
import subprocess
import sys

import pytest

import metrics.lock
from metrics.lock import Lock

HOLD = "import sys, pathlib, time; from metrics.lock import Lock; "
HOLD += "lock = Lock(pathlib.Path(sys.argv[1])); print('held', flush=True); time.sleep(60)"


def test_the_second_is_told_who_is_first(tmp_path):
    first = Lock(tmp_path / "lock")
    with pytest.raises(BlockingIOError) as caught:
        Lock(tmp_path / "lock")
    said = str(caught.value)
    assert f"{tmp_path} is being written by process {os.getpid()} of {getpass.getuser()}" in said
    assert "wait for it to end, or end it; or give another store=DIR" in said
    assert "delete" not in said  # the kernel lets go of it, and a second writer would get in
    first.release()
    Lock(tmp_path / "lock").release()


def test_release_twice(tmp_path):
    lock = Lock(tmp_path / "lock")
    lock.release()
    lock.release()


def test_it_goes_with_its_process_however_that_ends(tmp_path):
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path / "lock")], stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(BlockingIOError, match=f"process {holder.pid} of"):
        Lock(tmp_path / "lock")
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    holder.stdout.close()
    lock = Lock(tmp_path / "lock")
    assert json.loads((tmp_path / "lock").read_text())["pid"] == os.getpid()
    lock.release()


@pytest.mark.parametrize("content", ["", "[1]", "not json", '{"pid": 1}'])
def test_a_lock_that_does_not_tell_its_owner(content, tmp_path):
    first = Lock(tmp_path / "lock")
    (tmp_path / "lock").write_text(content)
    with pytest.raises(BlockingIOError, match="is being written by another process"):
        Lock(tmp_path / "lock")
    first.release()


def test_a_lock_of_another_machine_may_have_to_be_deleted(tmp_path):
    first = Lock(tmp_path / "lock")
    owner = json.loads((tmp_path / "lock").read_text())
    (tmp_path / "lock").write_text(json.dumps({**owner, "host": "elsewhere"}))
    with pytest.raises(BlockingIOError, match=r"on elsewhere since .*; if it no longer runs, delete .*lock; or give"):
        Lock(tmp_path / "lock")
    first.release()


def test_a_lock_file_deleted_while_it_is_taken(tmp_path, monkeypatch):
    """The second opens the file, the first deletes it, a third makes another: the second may not believe its own."""
    flock, taken = metrics.lock.fcntl.flock, []

    def late(file, how):
        if not taken:
            (tmp_path / "lock").unlink()
            taken.append(True)
        flock(file, how)

    monkeypatch.setattr(metrics.lock.fcntl, "flock", late)
    second = Lock(tmp_path / "lock")
    with pytest.raises(BlockingIOError, match=f"process {os.getpid()}"):
        Lock(tmp_path / "lock")
    second.release()


BOTH = """
import pathlib, sys, time
from metrics.lock import Lock
print("ready", flush=True)
sys.stdin.readline()
try:
    lock = Lock(pathlib.Path(sys.argv[1]))
except BlockingIOError as problem:
    print(problem)
else:
    print("held", flush=True)
    time.sleep(60)
"""


def test_of_processes_that_start_at_once_one_gets_it(tmp_path):
    command = [sys.executable, "-c", BOTH, str(tmp_path / "lock")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    started = [subprocess.Popen(command, **pipes) for _ in range(3)]
    assert [p.stdout.readline() for p in started] == ["ready\n"] * 3
    for process in started:
        process.stdin.write("go\n")
        process.stdin.flush()
    said = [p.stdout.readline() for p in started]
    assert sorted(s == "held\n" for s in said) == [False, False, True]
    assert sum("is being written by" in s for s in said) == 2
    for process in started:
        process.kill()
        process.communicate()


def test_a_user_without_a_name(tmp_path, monkeypatch):
    def nameless():
        raise KeyError("getpwuid(): uid not found: 4711")

    monkeypatch.setattr(getpass, "getuser", nameless)
    lock = Lock(tmp_path / "lock")
    assert json.loads((tmp_path / "lock").read_text())["user"] == str(os.getuid())
    lock.release()


def test_a_file_system_without_locks_says_so(tmp_path, monkeypatch):
    """And does not blame another process."""

    def unsupported(*_):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(metrics.lock.fcntl, "flock", unsupported)
    with pytest.raises(OSError, match="No locks available"):
        Lock(tmp_path / "lock")


def test_without_flock_the_file_itself_is_the_lock(tmp_path, monkeypatch):
    monkeypatch.setattr("metrics.lock.fcntl", None)
    first = Lock(tmp_path / "lock")
    with pytest.raises(BlockingIOError, match=f"process {os.getpid()} of"):
        Lock(tmp_path / "lock")
    first.release()
    assert not (tmp_path / "lock").exists()
    Lock(tmp_path / "lock").release()
