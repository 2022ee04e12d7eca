"""One writer at a time, and a message that names the other."""

import getpass
import json
import os
import signal
import subprocess
import sys

import pytest

from metrics.lock import Lock

HOLD = "import sys, pathlib, time; from metrics.lock import Lock; "
HOLD += "lock = Lock(pathlib.Path(sys.argv[1])); print('held', flush=True); time.sleep(60)"


def test_the_second_is_told_who_is_first(tmp_path):
    first = Lock(tmp_path / "lock")
    with pytest.raises(BlockingIOError) as caught:
        Lock(tmp_path / "lock")
    said = str(caught.value)
    assert f"{tmp_path} is being written by process {os.getpid()} of {getpass.getuser()}" in said
    assert "wait for it to end, or give another store=DIR" in said
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


def test_a_user_without_a_name(tmp_path, monkeypatch):
    def nameless():
        raise KeyError("getpwuid(): uid not found: 4711")

    monkeypatch.setattr(getpass, "getuser", nameless)
    lock = Lock(tmp_path / "lock")
    assert json.loads((tmp_path / "lock").read_text())["user"] == str(os.getuid())
    lock.release()


def test_a_file_system_without_locks_says_so(tmp_path, monkeypatch):
    """And does not blame another process."""
    import metrics.lock

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
