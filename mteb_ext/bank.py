"""The bank: pooled rows of texts, all layers of them, from one forward pass.

Rows lie in memory until they fill it, then in memory-mapped shards on disk under a cap. When the cap is reached, whole
shards go: those of other models' banks beside it first, then those of other tasks, the oldest first. Several processes
may share a folder: each writes shards of its own under names of their own and finds those of the others; a shard that
was evicted under a reader stays mapped there until texts are asked for that neither it nor the reader's other shards
hold. A folder that is deleted is made again at the next write.
"""

from __future__ import annotations

import contextlib
import tempfile
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import repeat
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mteb_ext import shards
from mteb_ext.room import KEY, BankError, make_folder, make_room, remove
from mteb_ext.shards import Rows, Shard, View

__all__ = ["Bank", "BankError", "Reduce", "make_folder", "make_room"]

Reduce = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""(layers, n, d) rows -> (n, d') embeddings, each text by itself."""

PIECE = 64 << 20
"""Bytes of rows that are gathered at a time."""

SHARD = 32
"""A place is the number of a shard shifted by as many bits, and the row in it."""


class Bank:
    """Rows of one model under one set of options, by text.

    Args:
        folder: where shards lie, shared by processes and kept for later runs; None keeps rows in memory and, once
            they fill it, in unnamed files of the temporary folder, which go with this object or its process.
        memory: bytes that may be held in memory (without a folder).
        disk: bytes that shards may take; at least the shard being written is always kept.
        root: a folder of banks, this one among them, that `disk` is the limit of; None where it is this bank's alone.

    Attributes:
        evicted: digests of texts that were held and, in some view, no longer are.

    Raises:
        BankError: the folder cannot be made.
    """

    def __init__(
        self, folder: Path | None = None, *, memory: int = 2 << 30, disk: int = 20 << 30, root: Path | None = None
    ) -> None:
        self.folder, self.memory, self.disk, self.root = folder, memory, disk, root
        self.evicted: set[bytes] = set()
        self._shards: dict[int, Shard] = {}
        self._next = 0
        self._places: dict[View, dict[bytes, int]] = {}
        self._seen: set[Path] = set()
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        self._key: bytes | None = None
        if folder is not None:
            make_folder(folder)
            self._key = (folder / KEY).read_bytes() if (folder / KEY).is_file() else None
            self.refresh()

    def refresh(self) -> None:
        """Find shards that other processes have written since."""
        if self.folder is None:
            return
        for path in shards.paths(self.folder):
            if path in self._seen:
                continue
            self._seen.add(path)
            try:
                self._enter(shards.read(path))
            except FileNotFoundError:  # evicted by another process between listing and reading
                continue
            except ValueError as problem:
                warnings.warn(f"{problem}; its texts are encoded again, and it may be deleted", stacklevel=2)
            except OSError as problem:
                warnings.warn(f"{path} cannot be read ({problem}); its texts are encoded again", stacklevel=2)

    def missing(self, view: View, layers: Sequence[int], digests: Sequence[bytes]) -> list[int]:
        """Positions of the texts that lack sound rows of these layers; other processes' shards are looked for first."""
        places = self._find(view, digests)
        if self.folder is not None and (places < 0).any():
            self.refresh()
            places = self._find(view, digests)
            self._release(_numbers(places))
        damaged = [n for n in _numbers(places) if self._shards[n].damaged(view, layers)]
        for number in damaged:
            name = self._shards[number].path or "a shard of the temporary folder"
            warnings.warn(
                f"{name} is damaged; its {len(self._shards[number].digests)} texts are encoded again", stacklevel=2
            )
            self._drop(number)
        if damaged:
            places = self._find(view, digests)
        return np.flatnonzero(places < 0).tolist()

    def read(self, view: View, layers: Sequence[int], digests: Sequence[bytes], reduce: Reduce) -> NDArray[np.float32]:
        """`reduce` of the rows of texts that are all held, shard by shard, put into the order asked for.

        Raises:
            KeyError: a text is not held, or there are none.
        """
        places = self._find(view, digests)
        if not len(places) or places.min() < 0:
            raise KeyError(f"{(places < 0).sum()} of {len(places)} texts are not held in {view}")
        order = np.argsort(places, kind="stable")
        width = self._shards[int(places[0]) >> SHARD].rows[view].shape[2]
        size = max(1, PIECE // (4 * width * len(layers)))
        out: NDArray[np.float32] | None = None
        for start in range(0, len(order), size):
            at = order[start : start + size]
            made = reduce(self._gather(view, layers, places[at], width))
            if out is None:
                out = np.empty((len(order), made.shape[1]), np.float32)
            out[at] = made
        assert out is not None
        return out

    def add(self, digests: Sequence[bytes], rows: Mapping[View, Rows], task: str) -> None:
        """Take the rows of texts, then make room if there are too many.

        Raises:
            BankError: the disk is full or the folder cannot be written; what was held still is.
        """
        shard = Shard(list(digests), dict(rows), task)
        on_disk = self.folder or self._temporary
        newest = self._enter(self._write(shard) if on_disk else shard)
        if not on_disk and self.bytes > self.memory:
            self._spill()
        if self.folder or self._temporary:
            self._evict(task, newest)

    @property
    def bytes(self) -> int:
        """Bytes of all rows held, in memory or on disk."""
        return sum(shard.size for shard in self._shards.values())

    @property
    def texts(self) -> int:
        """The number of texts with a row in some view."""
        return len(set().union(*self._places.values()))

    def _find(self, view: View, digests: Sequence[bytes]) -> NDArray[np.int64]:
        """Where the texts' rows are; -1 for those not held."""
        held = self._places.get(view, {})
        return np.fromiter(map(held.get, digests, repeat(-1)), np.int64, len(digests))

    def _gather(self, view: View, layers: Sequence[int], places: NDArray[np.int64], width: int) -> NDArray[np.float32]:
        """Rows (layers, n, d) at ascending places."""
        out = np.empty((len(layers), len(places), width), np.float32)
        row = places & ((1 << SHARD) - 1)
        numbers, starts = np.unique(places >> SHARD, return_index=True)
        for number, start, end in zip(numbers.tolist(), starts, [*starts[1:], len(places)]):
            held = self._shards[number].rows[view]
            for i, layer in enumerate(layers):
                out[i, start:end] = held[layer, row[start:end]]
        return out

    def _enter(self, shard: Shard) -> int:
        number = self._next
        self._next += 1
        self._shards[number] = shard
        if shard.path is not None:
            self._seen.add(shard.path)
        first = number << SHARD
        for view in shard.rows:
            places = self._places.setdefault(view, {})
            places.update(zip(shard.digests, range(first, first + len(shard.digests))))
        return number

    def _drop(self, number: int) -> Shard:
        shard = self._shards.pop(number)
        first = number << SHARD
        for view in shard.rows:
            places = self._places[view]
            for place, digest in enumerate(shard.digests, first):
                if places.get(digest) == place:
                    del places[digest]
                    self.evicted.add(digest)
        return shard

    def _write(self, shard: Shard) -> Shard:
        private = self._temporary
        folder = self.folder if private is None else Path(private.name)
        assert folder is not None
        try:
            try:
                written = shards.write(folder, shard)
            except FileNotFoundError:  # somebody has deleted the folder
                self._remake(folder)
                written = shards.write(folder, shard)
        except BankError:
            raise
        except OSError as problem:
            raise BankError(
                f"the bank {folder} cannot be written: {problem.strerror or problem}; free space, lower the bank's "
                "limit or give it another folder, and run again: nothing finished is lost"
            ) from None
        if private is not None and written.path is not None:
            with contextlib.suppress(PermissionError):  # Windows removes it when it is no longer mapped
                written.path.unlink()  # it stays mapped, and a killed process leaves nothing
            written.path = None
        return written

    def _remake(self, folder: Path) -> None:
        make_folder(folder)
        if folder == self.folder and self._key is not None:
            (folder / KEY).write_bytes(self._key)

    def _spill(self) -> None:
        """Move everything from memory to disk, and stay there; all stays in memory if that fails."""
        self._temporary = tempfile.TemporaryDirectory(prefix="eval-ext-bank-", ignore_cleanup_errors=True)
        try:
            self._shards = {number: self._write(shard) for number, shard in self._shards.items()}
        except BaseException:
            self._temporary.cleanup()
            self._temporary = None
            raise

    def _evict(self, task: str, newest: int) -> None:
        if self.root is not None:
            make_room(self.root, self.disk, self.folder)
        excess = self.bytes - self.disk
        if excess <= 0:
            return
        for number in sorted(self._shards, key=lambda n: (self._shards[n].task == task, n)):
            if number == newest:
                continue
            shard = self._drop(number)
            excess -= shard.size
            if shard.path is not None:
                remove(shard.path)
            if excess <= 0:
                return

    def _release(self, needed: Collection[int]) -> None:
        """Let go of shards that another process has evicted: their space is taken for as long as they are mapped."""
        for number, shard in list(self._shards.items()):
            if number not in needed and shard.path is not None and not shard.path.exists():
                self._drop(number)


def _numbers(places: NDArray[np.int64]) -> list[int]:
    """The shards that held places are in."""
    return np.unique(places[places >= 0] >> SHARD).tolist()
