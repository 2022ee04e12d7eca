"""One shard of a store: a safetensors file of ragged columns and a JSON-lines index of its records.

`name.safetensors` holds, for every signal, one flat array of all records' values end to end and an array
``signal/shape`` with one row of sizes a record (-1 where the record lacks the signal). Prompts repeat, so their tokens
are kept once and ``prompt_tokens/row`` says whose they are; a scalar that some records lack has such a column too, -1
for those. `name.jsonl` starts with a header that holds the size and
SHA-256 of the other file, then one line a record.

Both are written under a temporary name, flushed to the disk and renamed, the index last: **a shard exists when its
index does**, so a run killed at any moment leaves whole shards only.

Whatever is read is checked first: the header by the checksum in it (`metrics.seal`), the entries by a CRC-32 of their
lines, each column, when it is read, by a CRC-32 of its name, type, sizes and bytes. Shards written before the header
held these are read as they are, entries by their types.
"""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from metrics.record import Record, check_entry
from metrics.seal import SEAL, intact, seal

PROMPT = "prompt_tokens"
UNCHECKED = frozenset(("shard", "run", "records", "bytes", "sha256", "signals"))
"""Fields of the headers that hold no checksum of themselves."""

BROKEN = (SafetensorError, OSError, RuntimeError, ValueError, TypeError, LookupError, OverflowError)
"""What reading a data file of nonsense may raise."""


class DamagedShard(ValueError):
    """A shard that cannot be read; the message names the file, what is wrong, what is lost and what to do."""

    def __init__(self, path: Path, problem: str, records: int | None = None) -> None:
        lost = "its" if records is None else f"its {records}"
        super().__init__(
            f"{path}{problem}; {lost} records are left out. Delete {path.with_suffix('.*')} and run again with "
            "store_mode=resume to record them again"
        )


def write(folder: Path, name: str, records: Sequence[Record], run: int = 0) -> int:
    """Write records as the shard `name` of the store's run number `run`; returns its bytes on disk.

    Visible only when complete. Among records of one key the later run's counts, then the later shard's: runs are
    numbered, since clocks jump and the processes of a run number their shards each for itself.
    """
    columns = _columns(records)
    payload = save(columns)
    lines = [json.dumps(r.entry(), ensure_ascii=False) for r in records]
    body = "".join(f"{line}\n" for line in lines).encode(errors="surrogatepass")
    header = {
        "shard": name,
        "run": run,
        "records": len(records),
        "bytes": len(payload),
        "sha256": hashlib.sha256(payload).hexdigest(),
        "signals": sorted({n for r in records for n in r.signals}),
        "entries_crc32": zlib.crc32(body),
        "columns_crc32": {column: crc32(column, value) for column, value in columns.items()},
    }
    index = json.dumps(seal(header)).encode() + b"\n" + body
    replace(folder / f"{name}.safetensors", payload)
    replace(folder / f"{name}.jsonl", index)
    return len(payload) + len(index)


def read_index(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Header and entries of the index `path`.

    Raises:
        DamagedShard: not JSON lines, or not what was written, or fewer entries than the header says, or the data file
            is missing or has another size.
    """
    try:
        with _open(path) as file:
            header = _header(file)
            body = file.read()
        lines = [line for line in body.split(b"\n") if line]  # splitlines would cut answers at other line ends
        promised, size = header["records"], header["bytes"]
        if len(lines) != promised:
            raise ValueError(f"{len(lines)} of {promised} records: the file was cut")
        if SEAL in header and zlib.crc32(body) != header["entries_crc32"]:
            raise ValueError("its records differ from their checksum")
        entries = [json.loads(line.decode(errors="surrogatepass")) for line in lines]
        if SEAL not in header:
            for entry in entries:
                check_entry(entry)
    except (OSError, ValueError, RecursionError) as problem:
        raise DamagedShard(path, f": not the index of a shard ({problem})") from None
    data = path.with_suffix(".safetensors")
    found = data.stat().st_size if data.is_file() else None
    if found != size:
        state = " is missing" if found is None else f" has {found} of {size} bytes"
        raise DamagedShard(data, state, promised)
    return header, entries


def read(path: Path, rows: Sequence[int], names: Sequence[str]) -> list[dict[str, Tensor]]:
    """The signals `names` of the records `rows` of the shard with index `path`; a signal a record lacks is absent.

    Only the columns asked for are read, and checked.

    Raises:
        DamagedShard: the data file is not readable safetensors, or not what was written.
    """
    data = path.with_suffix(".safetensors")
    found: list[dict[str, Tensor]] = [{} for _ in rows]
    try:
        with _open(path) as index:
            header = _header(index)
        _open(data).close()
        with safe_open(data, framework="pt") as file:
            held = _Columns(file, header.get("columns_crc32"))
            for name in names:
                if name in held:
                    for out, value in zip(found, _values(held, name, rows)):
                        if value is not None:
                            out[name] = value
    except BROKEN as problem:
        raise DamagedShard(data, f": not readable ({problem})") from None
    return found


class _Columns:
    """The columns of an open data file, each checked as it is read."""

    def __init__(self, file: Any, sums: Mapping[str, int] | None) -> None:
        self._file, self._sums = file, sums
        self._names = frozenset(file.keys() if sums is None else sums)

    def __contains__(self, name: str) -> bool:
        return name in self._names

    def __getitem__(self, name: str) -> Tensor:
        value = self._file.get_tensor(name)
        if self._sums is not None and crc32(name, value) != self._sums[name]:
            raise ValueError(f"{name} differs from its checksum")
        return value

    def table(self, name: str, dims: int) -> Tensor:
        """A column of indices."""
        value = self[name]
        if value.dtype != torch.int64 or value.ndim != dims:
            raise ValueError(f"{name} has type {value.dtype} and {value.ndim} dimensions")
        return value


def _values(held: _Columns, name: str, rows: Sequence[int]) -> list[Tensor | None]:
    values, shapes = held[name], held.table(f"{name}/shape", 2)
    sizes = shapes.clamp(min=0).prod(-1) if shapes.shape[1] else torch.ones(len(shapes), dtype=torch.int64)
    stops = sizes.cumsum(0).tolist()
    owner = held.table(f"{name}/row", 1).tolist() if f"{name}/row" in held else range(len(shapes))
    found: list[Tensor | None] = []
    for row in rows:
        at = owner[row]
        shape = shapes[at].tolist() if at >= 0 else [-1]
        stop = stops[at]
        found.append(None if -1 in shape else values[stop - int(sizes[at]) : stop].reshape(shape))
    return found


def checksum(path: Path) -> bool:
    """Whether the data file of the shard with index `path` still has the SHA-256 that the index holds.

    Raises:
        DamagedShard: the index is damaged, or the data file cannot be read.
    """
    header, _ = read_index(path)
    digest = hashlib.sha256()
    data = path.with_suffix(".safetensors")
    try:
        with data.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError as problem:
        raise DamagedShard(data, f": not readable ({problem})") from None
    return digest.hexdigest() == header.get("sha256")


def _open(path: Path) -> BinaryIO:
    if not path.is_file():  # a pipe would be waited for, a device read for ever
        raise FileNotFoundError("no such file" if not path.exists() else "no regular file")
    return path.open("rb")


def _header(file: BinaryIO) -> dict[str, Any]:
    """The first line of an index, checked.

    Raises:
        ValueError: not the header that was written.
    """
    try:
        header = json.loads(file.readline().decode())
        if not isinstance(header, dict):
            raise ValueError("no header")
        if not header.keys() <= UNCHECKED and not intact(header):
            raise ValueError("its header differs from its checksum")
    except RecursionError:
        raise ValueError("its header nests too deep") from None
    for name in ("records", "bytes"):
        if type(header.get(name)) is not int:
            raise ValueError(f"its header has {name}={header.get(name)!r}")
    if type(header.setdefault("run", 0)) is not int:
        raise ValueError(f"its header has run={header['run']!r}")
    return header


def crc32(name: str, value: Tensor) -> int:
    """CRC-32 of a column: its name, type and sizes, then its bytes."""
    described = zlib.crc32(f"{name} {value.dtype} {list(value.shape)} ".encode(errors="surrogatepass"))
    return zlib.crc32(value.contiguous().reshape(-1).view(torch.uint8).numpy().data, described)


def _columns(records: Sequence[Record]) -> dict[str, Tensor]:
    columns: dict[str, Tensor] = {}
    for name in sorted({n for r in records for n in r.signals}):
        values = [r.signals.get(name) for r in records]
        first = next(v for v in values if v is not None)
        if name == PROMPT:
            values, columns[f"{name}/row"] = _distinct(values)
        elif first.ndim == 0 and any(v is None for v in values):  # a scalar has no sizes to tell a missing one by
            values, columns[f"{name}/row"] = _present(values)
        columns[name] = torch.cat([v.reshape(-1) for v in values if v is not None]).contiguous()
        missing = [-1] * first.ndim
        shapes = [list(v.shape) if v is not None else missing for v in values]
        columns[f"{name}/shape"] = torch.tensor(shapes, dtype=torch.int64).reshape(len(values), first.ndim)
    return columns


def _distinct(values: Sequence[Tensor | None]) -> tuple[list[Tensor], Tensor]:
    rows: dict[bytes, int] = {}
    kept: list[Tensor] = []
    owner = []
    for value in values:
        if value is None:
            owner.append(-1)
            continue
        content = value.numpy().tobytes()
        if content not in rows:
            rows[content] = len(kept)
            kept.append(value)
        owner.append(rows[content])
    return kept, torch.tensor(owner, dtype=torch.int64)


def _present(values: Sequence[Tensor | None]) -> tuple[list[Tensor], Tensor]:
    owner, kept = [], []
    for value in values:
        owner.append(-1 if value is None else len(kept))
        if value is not None:
            kept.append(value)
    return kept, torch.tensor(owner, dtype=torch.int64)


def replace(path: Path, payload: bytes) -> None:
    """Write a file under a temporary name, flush it to the disk and rename it: it is never seen half written."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(payload)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file with a checksum in it, never seen half written."""
    text = json.dumps(seal(content), indent=2, ensure_ascii=False)
    replace(path, f"{text}\n".encode(errors="surrogatepass"))
