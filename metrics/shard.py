"""One shard of a store: a safetensors file of ragged columns and a JSON-lines index of its records.

`name.safetensors` holds, for every signal, one flat array of all records' values end to end and an array
``signal/shape`` with one row of sizes a record (-1 where the record lacks the signal). Prompts repeat, so their tokens
are kept once and ``prompt_tokens/row`` says whose they are. `name.jsonl` starts with a header that holds the size and
SHA-256 of the other file, then one line a record.

Both are written under a temporary name, flushed to the disk and renamed, the index last: **a shard exists when its
index does**, so a run killed at any moment leaves whole shards only.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from metrics.record import Key, Record

PROMPT = "prompt_tokens"
KEYS = {*Key._fields, "spans", "doc_hash", "request_hash"}


class DamagedShard(ValueError):
    """A shard that cannot be read; the message names the file, what is wrong and what is lost."""


def write(folder: Path, name: str, records: Sequence[Record], run: int = 0) -> int:
    """Write records as the shard `name` of the store's run number `run`; returns its bytes on disk.

    Visible only when complete. Among records of one key the later run's counts, then the later shard's: runs are
    numbered, since clocks jump and the processes of a run number their shards each for itself.
    """
    columns = _columns(records)
    payload = save(columns)
    data = folder / f"{name}.safetensors"
    _replace(data, payload)
    header = {
        "shard": name,
        "run": run,
        "records": len(records),
        "bytes": len(payload),
        "sha256": hashlib.sha256(payload).hexdigest(),
        "signals": sorted({n for r in records for n in r.signals}),
    }
    lines = [json.dumps(header), *(json.dumps(r.entry(), ensure_ascii=False) for r in records)]
    index = ("\n".join(lines) + "\n").encode()
    _replace(folder / f"{name}.jsonl", index)
    return len(payload) + len(index)


def read_index(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Header and entries of the index `path`.

    Raises:
        DamagedShard: not JSON lines, or fewer entries than the header says, or the data file is missing or has
            another size.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")  # splitlines would cut answers at other line ends
        header, *entries = [json.loads(line) for line in lines if line]
        promised, size = int(header["records"]), int(header["bytes"])
        if not all(entry.keys() >= KEYS for entry in entries):
            raise ValueError("a record without its key")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as problem:
        raise DamagedShard(f"{path}: not the index of a shard ({problem}); its records are left out") from None
    if len(entries) != promised:
        raise DamagedShard(f"{path}: {len(entries)} of {promised} records; the file was cut, its records are left out")
    data = path.with_suffix(".safetensors")
    found = data.stat().st_size if data.exists() else None
    if found != size:
        state = "is missing" if found is None else f"has {found} of {size} bytes"
        raise DamagedShard(f"{data} {state}: its {promised} records are left out")
    return header, entries


def read(path: Path, rows: Sequence[int], names: Sequence[str]) -> list[dict[str, Tensor]]:
    """The signals `names` of the records `rows` of the shard with index `path`; a signal a record lacks is absent.

    Only the columns asked for are read.

    Raises:
        DamagedShard: the data file is not readable safetensors.
    """
    data = path.with_suffix(".safetensors")
    found: list[dict[str, Tensor]] = [{} for _ in rows]
    try:
        with safe_open(data, framework="pt") as file:
            held = set(file.keys())
            for name in names:
                if name not in held:
                    continue
                values = file.get_tensor(name)
                shapes = file.get_tensor(f"{name}/shape")
                sizes = shapes.clamp(min=0).prod(-1) if shapes.shape[1] else torch.ones(len(shapes), dtype=torch.long)
                stops = sizes.cumsum(0).tolist()
                owner = file.get_tensor(f"{name}/row").tolist() if f"{name}/row" in held else range(len(shapes))
                for out, row in zip(found, rows):
                    at = owner[row]
                    shape = shapes[at].tolist() if at >= 0 else [-1]
                    if -1 not in shape:
                        stop = stops[at]
                        out[name] = values[stop - int(sizes[at]) : stop].reshape(shape)
    except (SafetensorError, OSError, RuntimeError, IndexError, OverflowError) as problem:
        raise DamagedShard(f"{data}: not readable ({problem}); its records are left out") from None
    return found


def checksum(path: Path) -> bool:
    """Whether the data file of the shard with index `path` still has the SHA-256 that the index holds."""
    header, _ = read_index(path)
    digest = hashlib.sha256()
    with path.with_suffix(".safetensors").open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest() == header["sha256"]


def _columns(records: Sequence[Record]) -> dict[str, Tensor]:
    columns: dict[str, Tensor] = {}
    for name in sorted({n for r in records for n in r.signals}):
        values = [r.signals.get(name) for r in records]
        if name == PROMPT:
            values, columns[f"{name}/row"] = _distinct(values)
        first = next(v for v in values if v is not None)
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


def _replace(path: Path, payload: bytes) -> None:
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
    """Write a JSON file that is never seen half written."""
    _replace(path, (json.dumps(content, indent=2, ensure_ascii=False, default=str) + "\n").encode())
