"""One writer at a time: a lock file whose content names its owner."""

from __future__ import annotations

import getpass
import json
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None


class Lock:
    """An exclusive lock on a folder, held until `release` or until the process ends, however it ends.

    `option` is how the user names another folder, for the message.

    Where the system has `flock`, the kernel lets go of it when the process dies; elsewhere (Windows) a lock that a dead
    process left behind has to be deleted by hand, as the message says. A lock file that is deleted or replaced while
    it is being taken is taken again.

    Raises:
        BlockingIOError: somebody else holds it; the message names who, since when and what to do.
    """

    def __init__(self, path: Path, option: str = "store=DIR") -> None:
        self.path, self._option = path, option
        if fcntl is None:
            self._file = self._create()
        else:
            self._file = self._flock()
            while not self._in_place():  # deleted since it was opened: others would lock another file
                self._file.close()
                self._file = self._flock()
        self._file.seek(0)
        self._file.truncate()
        json.dump(_owner(), self._file)
        self._file.flush()

    def release(self) -> None:
        """Let the next writer in. Safe to call twice."""
        if not self._file.closed:
            if fcntl is None:
                self.path.unlink(missing_ok=True)
            self._file.close()

    def _flock(self):  # noqa: ANN202
        file = self.path.open("a+", encoding="utf-8")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # pyright: ignore[reportOptionalMemberAccess]
        except OSError as problem:
            file.close()
            raise (self._taken() if isinstance(problem, BlockingIOError) else problem) from None
        return file

    def _in_place(self) -> bool:
        try:
            return os.path.samestat(os.fstat(self._file.fileno()), self.path.stat())
        except FileNotFoundError:
            return False

    def _create(self):  # noqa: ANN202
        try:
            return os.fdopen(os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_RDWR), "w+", encoding="utf-8")
        except FileExistsError:
            raise self._taken() from None

    def _taken(self) -> BlockingIOError:
        here = fcntl is not None
        try:
            owner = json.loads(self.path.read_text(encoding="utf-8"))
            who = f"process {owner['pid']} of {owner['user']} on {owner['host']} since {owner['since']}"
            here = here and owner["host"] == socket.gethostname()
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            who = "another process"
        remedy = (
            "wait for it to end, or end it" if here else f"wait for it to end; if it no longer runs, delete {self.path}"
        )
        return BlockingIOError(
            f"{self.path.parent} is being written by {who}; {remedy}; or give another {self._option}"
        )


@contextmanager
def waiting(path: Path) -> Iterator[None]:
    """Hold an exclusive lock for a moment, after whoever holds it; without `flock` (Windows) there is none."""
    with path.open("a") as file:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _owner() -> dict[str, str | int]:
    try:
        user = getpass.getuser()
    except (KeyError, OSError, ImportError):  # a container's user may have a number and no name
        user = str(os.getuid()) if hasattr(os, "getuid") else "unknown"
    return {
        "pid": os.getpid(),
        "user": user,
        "host": socket.gethostname(),
        "since": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": " ".join(sys.argv),
    }
