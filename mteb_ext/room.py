"""Room for banks: their folders, and which shards go when all of them together reach the limit."""

from __future__ import annotations

import contextlib
from pathlib import Path

from mteb_ext import shards

KEY = "key.json"
"""The file of a bank's folder that says whose rows these are."""


class BankError(OSError):
    """A bank's folder cannot be made or written."""


def make_folder(folder: Path) -> None:
    """Make the folder of a bank, and those above it.

    Raises:
        BankError: it cannot be made, or a file of that name is in the way.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise BankError(
            f"the bank {folder} cannot be made: {problem.strerror}; give it another folder, as in EVAL_EXT_BANK=FOLDER"
        ) from None


def make_room(root: Path, cap: int, keep: Path | None) -> int:
    """Remove the oldest shards of all banks under `root` until they take at most `cap` bytes; the bytes removed.

    The bank `keep` counts and loses nothing. Only files named as shards are, in folders that have a bank's key, go.

    Raises:
        BankError: a shard cannot be removed.
    """
    kept = None if keep is None else keep.resolve()
    excess, others = -cap, []
    for path in root.glob(f"*/{shards.NAMES}"):
        with contextlib.suppress(FileNotFoundError):  # evicted meanwhile
            size = path.stat().st_size
            excess += size
            if path.parent.resolve() != kept and (path.parent / KEY).is_file():
                others.append((path.name, size, path))
    removed = 0
    for _, size, path in sorted(others):
        if removed >= excess:
            break
        remove(path)
        removed += size
    return removed


def remove(path: Path) -> None:
    """Remove a shard; one that is gone already will do.

    Raises:
        BankError: it cannot be removed.
    """
    try:
        path.unlink(missing_ok=True)
    except OSError as problem:
        raise BankError(
            f"shard {path} cannot be removed to make room: {problem.strerror}; give the bank another folder"
        ) from None
