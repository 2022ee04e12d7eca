"""The one who fills a store: records come in, shards and a manifest go out."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from metrics import shard
from metrics.lock import Lock
from metrics.manifest import GATE, MANIFEST, SCHEMA, is_store, read_manifest, update_run
from metrics.record import Record


class Writer:
    """Appends records to a store: collects them and writes a shard when enough have come or enough time has passed.

    Args:
        path: the folder; made if need be.
        manifest: what describes the run; ``schema`` and ``runs`` are added here.
        mode: ``new`` refuses an existing store, ``resume`` appends to it, ``overwrite`` empties it first; ``join``
            is for every process but the first of several, once the first has opened the store for their common run.
        rank: number of this process among several that write one store; it names the shards.
        ranks: how many processes write the store together.
        max_bytes: size of the store at which recording stops; each process has an equal share of what is left.
        shard_bytes, shard_records: a shard is written at the first of these.
        shard_seconds: and at the end of a batch, when the last one is so long ago.

    Raises:
        FileExistsError: mode ``new`` and a store is there, or the folder holds something else.
        BlockingIOError: another process is writing it.
        ValueError: mode ``resume`` and the store was recorded with another model or plan.
    """

    def __init__(
        self,
        path: Path,
        manifest: Mapping[str, Any],
        *,
        mode: str = "new",
        rank: int = 0,
        ranks: int = 1,
        max_bytes: float | None = None,
        shard_bytes: int = 64 << 20,
        shard_records: int = 4096,
        shard_seconds: float = 10.0,
    ) -> None:
        if mode not in ("new", "resume", "overwrite", "join"):
            raise ValueError(f"store_mode={mode} is not known; choose new, resume or overwrite")
        self.path = path
        self.run_id = str(manifest["run_id"])
        self.bytes = 0
        self.written = 0
        self.rank = rank
        self.ranks = ranks
        self._limits = (shard_bytes, shard_records, shard_seconds)
        self._pending: list[Record] = []
        self._pending_bytes = 0
        self._since = time.monotonic()
        if mode == "join":
            self._join()
        else:
            self._open(manifest, mode)
        names = [p.stem.rsplit("-", 1)[1] for p in (self.path / "shards").glob(f"r{rank}-*")]
        self._next = 1 + max((int(n) for n in names if n.isdecimal()), default=-1)
        self.bytes = sum(p.stat().st_size for p in (self.path / "shards").glob("r*")) if mode != "overwrite" else 0
        self._max_bytes = None if max_bytes is None else self.bytes + (max_bytes - self.bytes) / ranks

    def _open(self, manifest: Mapping[str, Any], mode: str) -> None:
        if mode == "new":
            _refuse_existing(self.path)
        if not is_store(self.path) and self.path.is_dir() and not _barely_begun(self.path):
            raise FileExistsError(f"{self.path} is not empty and not a store; give an empty or new folder as store=DIR")
        (self.path / "shards").mkdir(parents=True, exist_ok=True)
        self._lock = Lock(self.path / "lock")
        run = {"run_id": self.run_id, "started": _now(), **({"ranks": self.ranks} if self.ranks > 1 else {})}
        try:
            if mode == "new":  # again: somebody may have come first
                _refuse_existing(self.path)
            for other in self.path.glob("lock-r*"):  # a process of an earlier run that outlived its first
                Lock(other).release()
            if mode == "resume" and is_store(self.path):
                before = read_manifest(self.path)
                _refuse_other(before, manifest, self.path)
                content = {**before, "runs": [*before["runs"], run]}
            else:
                for old in (self.path / "shards").iterdir():
                    old.unlink()
                content = {"schema": SCHEMA, **manifest, "runs": [run]}
            for left in (self.path / "shards").glob(".*.tmp"):
                left.unlink()
            self._run = len(content["runs"]) - 1
            shard.write_json(self.path / MANIFEST, content)
        except BaseException:
            self._lock.release()
            raise

    def _join(self) -> None:
        runs = [run["run_id"] for run in read_manifest(self.path)["runs"]]
        if self.run_id not in runs:
            raise ValueError(f"store {self.path} has no run {self.run_id} to join; its first process opens the store")
        self._run = runs.index(self.run_id)
        self._lock = Lock(self.path / f"lock-r{self.rank}")

    def add(self, record: Record) -> bool:
        """Take a record; False when the size limit has been reached and it was not recorded."""
        size = sum(v.numel() * v.element_size() for v in record.signals.values()) + 600
        if self._max_bytes is not None and self.bytes + self._pending_bytes + size > self._max_bytes:
            return False
        self._pending.append(record)
        self._pending_bytes += size
        most_bytes, most_records, _ = self._limits
        if self._pending_bytes >= most_bytes or len(self._pending) >= most_records:
            self.flush()
        return True

    def end_batch(self) -> None:
        """Write what has been collected if the last shard is long enough ago: whole batches, as soon as they end."""
        if time.monotonic() - self._since >= self._limits[2]:
            self.flush()

    def flush(self) -> None:
        """Write what has been collected as a shard; nothing pending, no shard."""
        if self._pending:
            name = f"r{self.rank}-{self._next:05d}"
            self.bytes += shard.write(self.path / "shards", name, self._pending, self._run)
            self.written += len(self._pending)
            self._next += 1
            self._pending, self._pending_bytes = [], 0
        self._since = time.monotonic()

    def note(self, **facts: Any) -> None:
        """Add facts to this run's entry in the manifest."""
        update_run(self.path, self.run_id, rank=self.rank, **facts)

    def close(self) -> None:
        """Flush, mark the run as ended, and let the next writer in. Safe to call twice."""
        if self._lock is not None:
            try:
                self.flush()
                self.note(ended=_now(), records=self.written)
            finally:
                self._lock.release()
                self._lock = None

    def discard(self) -> None:
        """Remove a store that this run began and has nothing in; any other, or another process's, is closed."""
        shards = self.path / "shards"
        if self._lock is None or self.rank or self._run or self._pending or any(shards.iterdir()):
            self.close()
            return
        (self.path / MANIFEST).unlink()
        self._lock.release()
        self._lock = None
        with suppress(OSError):  # what others put there stays
            shards.rmdir()
            (self.path / "lock").unlink(missing_ok=True)
            self.path.rmdir()


def _refuse_existing(path: Path) -> None:
    if is_store(path):
        raise FileExistsError(
            f"store {path} exists; give another store=DIR, or store_mode=resume to go on with it, "
            "or store_mode=overwrite to replace it"
        )


SAME = (
    *("model", "revision", "weights", "peft", "dtype", "quantization", "max_length", "tokenizer_hash", "add_bos_token"),
    *("prefix_token", "chat_template_hash", "think_end_token", "signals", "layers", "raw_dtype", "lens", "store_text"),
    *("generation", "host_arguments"),
)
"""What has to agree for `resume`; a difference would mix two experiments in one store."""


LATER = ("weights", "quantization")
"""Of these, what older stores do not note; only those that do are compared."""


def differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """The settings in which two manifests would mix two experiments."""
    known = [name for name in SAME if name not in LATER or (name in one and name in other)]
    return [name for name in known if one.get(name) != other.get(name)]


def _refuse_other(before: Mapping[str, Any], now: Mapping[str, Any], path: Path) -> None:
    for name in differing(before, now):
        raise ValueError(
            f"store {path} was recorded with {name}={_brief(before.get(name))}, this run has "
            f"{_brief(now.get(name))}; give another store=DIR, or the same settings"
        )


def _barely_begun(path: Path) -> bool:
    """Whether a folder holds no more than a writer that was killed before its manifest leaves, or nothing."""
    known = ("lock", "shards", GATE, f".{MANIFEST}.tmp")
    ours = all(p.name in known or p.name.startswith("lock-r") for p in path.iterdir())
    shards = path / "shards"
    return ours and not (shards.exists() and any(shards.iterdir()))


def _brief(value: Any) -> str:
    if isinstance(value, dict):
        value = [k if isinstance(v, dict) else f"{k}={v}" for k, v in value.items()]
    text = (", ".join(map(str, value)) or "none") if isinstance(value, list) else str(value)
    return text if len(text) < 200 else text[:197] + "..."


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
