"""A folder of records: manifest, shards, one writer, any number of lazy readers.

::

    STORE/
      manifest.json             schema, model, plan, axes and units of every signal, one entry a run
      lock                      who is writing
      shards/r0-00000.jsonl     record index of a shard; the shard exists when this does
      shards/r0-00000.safetensors
"""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timezone
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metrics import shard
from metrics.lock import Lock
from metrics.record import Key, Record

if TYPE_CHECKING:
    import pandas as pd

SCHEMA = 1
MANIFEST = "manifest.json"


class Store:
    """Reads a store. Opening costs one small file; the index is read at first use, signals when asked for.

    Damage stays local: a shard that cannot be read is named in `problems` (and by one warning) and the rest is read.
    A record written twice, as after a resumed run, counts once: the later one.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.manifest = read_manifest(self.path)
        self.problems: list[str] = []

    @cached_property
    def _index(self) -> dict[Key, tuple[Path, int, dict[str, Any]]]:
        found: dict[Key, tuple[Path, int, dict[str, Any]]] = {}
        for path in _shards(self.path):
            try:
                _, entries = shard.read_index(path)
            except shard.DamagedShard as damage:
                self._report(str(damage))
                continue
            for row, entry in enumerate(entries):
                found[Key(*(entry[f] for f in Key._fields))] = (path, row, entry)
        return found

    def _report(self, problem: str) -> None:
        if problem not in self.problems:
            self.problems.append(problem)
            warnings.warn(problem, stacklevel=3)

    def __len__(self) -> int:
        return len(self._index)

    def entries(self) -> dict[Key, dict[str, Any]]:
        """Every record's index entry, without any signal."""
        return {key: entry for key, (_, _, entry) in self._index.items()}

    def records(self, signals: Sequence[str] = (), keys: Iterable[Key] | None = None) -> Iterator[Record]:
        """Records one shard at a time, with the signals asked for (none by default), for all keys or the given ones."""
        wanted = self._index if keys is None else {k: self._index[k] for k in keys if k in self._index}
        by_shard: dict[Path, list[tuple[int, dict[str, Any]]]] = {}
        for path, row, entry in wanted.values():
            by_shard.setdefault(path, []).append((row, entry))
        for path, rows in by_shard.items():
            try:
                values = shard.read(path, [row for row, _ in rows], signals) if signals else [{} for _ in rows]
            except shard.DamagedShard as damage:
                self._report(str(damage))
                continue
            for (_, entry), found in zip(rows, values):
                yield Record.from_entry(entry, found)

    def scores(
        self,
        metrics: str | Iterable[str] = "standard",
        *,
        labels: str | Path | Mapping[str, Any] | None = None,
        span: str = "answer",
        norm: str = "none",
    ) -> pd.DataFrame:
        """One row a document (a sample of it, with `repeats`), one column a metric, and the labels that are found.

        Args:
            metrics: names, ids or presets.
            labels: lm-eval's output folder or result file, what `simple_evaluate` returned, or a jsonl or csv file; by
                default the result files that the manifest points at, and no labels when there is none.
            span: ``answer`` (the scored text) or ``generation`` (with the stop string or end of sequence).
            norm: how the model's own choice among options is taken, as lm-eval's acc (``none``), acc_norm (``chars``)
                or acc_bytes (``bytes``) does; token metrics of multiple choice describe that option.

        Returns:
            A frame with columns task, doc_id, sample, option, kind, the metric ids, and one column
            ``label:METRIC@FILTER`` for each label. `frame.attrs["unscored"]` counts NaN scores by metric and reason.
        """
        from metrics.frame import score_frame

        return score_frame(self, metrics, labels=labels, span=span, norm=norm)

    def link(self, results: Path, run_id: str) -> None:
        """Note in the manifest which lm-eval result file belongs to a run."""
        before = next((run.get("results", []) for run in self.manifest["runs"] if run["run_id"] == run_id), [])
        update_run(self.path, run_id, results=[*before, str(results)])
        self.manifest = read_manifest(self.path)

    def damaged(self) -> list[str]:
        """Compare every shard with its checksum; returns one line for each that differs or cannot be read."""
        found = []
        for path in _shards(self.path):
            try:
                if not shard.checksum(path):
                    found.append(f"{path.with_suffix('.safetensors')}: contents differ from their checksum")
            except shard.DamagedShard as damage:
                found.append(str(damage))
        return found


def _shards(path: Path) -> list[Path]:
    """The indices of a store's shards in the order in which they were written, rank by rank."""
    return sorted((path / "shards").glob("*.jsonl"), key=lambda p: (len(p.name), p.name))


def open_store(path: str | Path) -> Store:
    """Open a store for reading.

    Raises:
        FileNotFoundError: no manifest there.
        ValueError: not a store, or written by a newer version.
    """
    return Store(path)


def is_store(path: Path) -> bool:
    """Whether the folder holds a manifest."""
    return (path / MANIFEST).is_file()


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of the store at `path`, checked for its schema."""
    file = path / MANIFEST
    if not file.is_file():
        raise FileNotFoundError(f"{path} is not a store: it holds no {MANIFEST}; give the folder named by store=DIR")
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
        schema = int(manifest["schema"])
        if schema <= SCHEMA and not ({"model", "signals"} <= manifest.keys() and isinstance(manifest["runs"], list)):
            raise KeyError("model, signals or runs")
    except (ValueError, KeyError, TypeError) as problem:
        raise ValueError(f"{file} is not a manifest of eval-ext ({problem}); restore it or record again") from None
    if schema > SCHEMA:
        raise ValueError(f"{file} has schema {schema}; this version reads up to {SCHEMA}: upgrade eval-ext")
    return manifest


class Writer:
    """Appends records to a store: collects them and writes a shard when enough have come or enough time has passed.

    Args:
        path: the folder; made if need be.
        manifest: what describes the run; ``schema`` and ``runs`` are added here.
        mode: ``new`` refuses an existing store, ``resume`` appends to it, ``overwrite`` empties it first.
        rank: number of this process among several that write one store; it names the shards.
        max_bytes: stop recording at this size of the store.
        shard_bytes, shard_records, shard_seconds: a shard is written at the first of these.

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
        max_bytes: float | None = None,
        shard_bytes: int = 64 << 20,
        shard_records: int = 4096,
        shard_seconds: float = 10.0,
    ) -> None:
        if mode not in ("new", "resume", "overwrite"):
            raise ValueError(f"store_mode={mode} is not known; choose new, resume or overwrite")
        self.path = path
        self.run_id = str(manifest["run_id"])
        self.bytes = 0
        self.written = 0
        self._rank = rank
        self._max_bytes = max_bytes
        self._limits = (shard_bytes, shard_records, shard_seconds)
        self._pending: list[Record] = []
        self._pending_bytes = 0
        self._since = time.monotonic()
        self._open(manifest, mode)

    def _open(self, manifest: Mapping[str, Any], mode: str) -> None:
        exists = is_store(self.path)
        if exists and mode == "new":
            raise FileExistsError(
                f"store {self.path} exists; give another store=DIR, or store_mode=resume to go on with it, "
                "or store_mode=overwrite to replace it"
            )
        if not exists and self.path.is_dir() and not _barely_begun(self.path):
            raise FileExistsError(f"{self.path} is not empty and not a store; give an empty or new folder as store=DIR")
        (self.path / "shards").mkdir(parents=True, exist_ok=True)
        self._lock = Lock(self.path / "lock")
        run = {"run_id": self.run_id, "started": _now()}
        try:
            if exists and mode == "resume":
                before = read_manifest(self.path)
                _refuse_other(before, manifest, self.path)
                content = {**before, "runs": [*before["runs"], run]}
            else:
                for old in (self.path / "shards").iterdir():
                    old.unlink()
                content = {"schema": SCHEMA, **manifest, "runs": [run]}
            for left in (self.path / "shards").glob(".*.tmp"):
                left.unlink()
            shard.write_json(self.path / MANIFEST, content)
        except BaseException:
            self._lock.release()
            raise
        names = [p.stem.rsplit("-", 1)[1] for p in (self.path / "shards").glob(f"r{self._rank}-*")]
        self._next = 1 + max((int(n) for n in names if n.isdecimal()), default=-1)
        self.bytes = sum(p.stat().st_size for p in (self.path / "shards").iterdir())

    def add(self, record: Record) -> bool:
        """Take a record; False when the size limit has been reached and it was not recorded."""
        size = sum(v.numel() * v.element_size() for v in record.signals.values()) + 600
        if self._max_bytes is not None and self.bytes + self._pending_bytes + size > self._max_bytes:
            return False
        self._pending.append(record)
        self._pending_bytes += size
        most_bytes, most_records, seconds = self._limits
        due = time.monotonic() - self._since >= seconds
        if due or self._pending_bytes >= most_bytes or len(self._pending) >= most_records:
            self.flush()
        return True

    def flush(self) -> None:
        """Write what has been collected as a shard; nothing pending, no shard."""
        if self._pending:
            name = f"r{self._rank}-{self._next:05d}"
            self.bytes += shard.write(self.path / "shards", name, self._pending)
            self.written += len(self._pending)
            self._next += 1
            self._pending, self._pending_bytes = [], 0
        self._since = time.monotonic()

    def note(self, **facts: Any) -> None:
        """Add facts to this run's entry in the manifest."""
        update_run(self.path, self.run_id, **facts)

    def close(self) -> None:
        """Flush, mark the run as ended, and let the next writer in. Safe to call twice."""
        if self._lock is not None:
            try:
                self.flush()
                self.note(ended=_now(), records=self.written)
            finally:
                self._lock.release()
                self._lock = None


def update_run(path: Path, run_id: str, **facts: Any) -> None:
    """Add facts to the entry of a run in the manifest of the store at `path`."""
    manifest = read_manifest(path)
    for run in manifest["runs"]:
        if run["run_id"] == run_id:
            run.update(facts)
    shard.write_json(path / MANIFEST, manifest)


SAME = (
    *("model", "revision", "peft", "dtype", "max_length", "tokenizer_hash", "add_bos_token", "prefix_token"),
    *("chat_template_hash", "think_end_token", "signals", "layers", "raw_dtype", "store_text"),
    *("generation", "host_arguments"),
)
"""What has to agree for `resume`; a difference would mix two experiments in one store."""


def _refuse_other(before: Mapping[str, Any], now: Mapping[str, Any], path: Path) -> None:
    for name in SAME:
        if before.get(name) != now.get(name):
            raise ValueError(
                f"store {path} was recorded with {name}={_brief(before.get(name))}, this run has "
                f"{_brief(now.get(name))}; give another store=DIR, or the same settings"
            )


def _barely_begun(path: Path) -> bool:
    """Whether a folder holds no more than a writer that was killed before its manifest leaves, or nothing."""
    ours = all(p.name in ("lock", "shards", f".{MANIFEST}.tmp") for p in path.iterdir())
    shards = path / "shards"
    return ours and not (shards.exists() and any(shards.iterdir()))


def _brief(value: Any) -> str:
    if isinstance(value, dict):
        value = [k if isinstance(v, dict) else f"{k}={v}" for k, v in value.items()]
    text = (", ".join(map(str, value)) or "none") if isinstance(value, list) else str(value)
    return text if len(text) < 200 else text[:197] + "..."


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
