"""A store, or a slice of it, as a folder that NumPy alone can read: flat arrays with offsets, and one line a record."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from metrics.building import building
from metrics.labels import Labels
from metrics.record import Key, Record
from metrics.slices import Slice, refuse_damaged

README = """\
{records} records of the store {store} (model {model}).
Written by `eval-ext store export`; NumPy reads all of it, and no array needs pickle.

index.jsonl          one JSON object a record, in the order of all arrays: key, spans, answer, hashes
columns/NAME.npy     one number or name a record: the parts of the key, counts, ends of the spans, answers that are
                     numbers (loglikelihood, NaN for texts), labels (NaN where there is none)
signals/NAME.npy     all records' values of a signal end to end, flat
signals/NAME.offsets.npy   (records + 1): record i has values[offsets[i]:offsets[i + 1]]
signals/NAME.shape.npy     (records, axes): their sizes; -1 where the record lacks the signal
signals.json         axes, unit, type and meaning of each signal
manifest.json        the store's manifest: model, settings, runs

    import json
    import numpy as np
    i, name = 0, "{example}"
    values = np.load(f"signals/{{name}}.npy", mmap_mode="r")
    offsets = np.load(f"signals/{{name}}.offsets.npy")
    shape = np.load(f"signals/{{name}}.shape.npy")
    value = values[offsets[i]:offsets[i + 1]].reshape(shape[i]) if (shape[i] >= 0).all() else None
    entry = json.loads(open("index.jsonl", encoding="utf-8").read().split("\\n")[i])
    start, stop = entry["spans"]["answer"]   # tokens of the scored text, on the axis `token`

The axis `token` has one entry a token of the continuation; `step` has one more. A span is half open.
A label is that of the document, and stands with all requests of its first sample.
{notes}"""

COLUMNS = ("task", "kind", "doc_id", "request", "occurrence", "prompt_count", "token_count", "truncated")


@dataclass
class _Column:
    """One signal on its way to disk: values are appended, the header is written at the end."""

    file: BinaryIO
    dtype: np.dtype[Any]
    axes: int
    widened: bool
    count: int = 0
    offsets: list[int] = field(default_factory=lambda: [0])
    shapes: list[tuple[int, ...]] = field(default_factory=list)

    def lack(self, records: int) -> None:
        self.offsets += [self.count] * records
        self.shapes += [(-1,) * self.axes] * records

    def append(self, name: str, value: np.ndarray) -> None:
        if value.dtype != self.dtype or value.ndim != self.axes:
            raise ValueError(
                f"signal {name} is {value.dtype} with {value.ndim} axes in one record and {self.dtype} with "
                f"{self.axes} in another; export the tasks one by one with --tasks"
            )
        self.file.write(np.ascontiguousarray(value).tobytes())
        self.count += value.size
        self.offsets.append(self.count)
        self.shapes.append(value.shape)


def export(source: Slice, out: Path, labels: Labels | None = None) -> int:
    """Write a slice as arrays in one pass; returns the number of records.

    One shard of the source is in memory at a time, and a few numbers a record. Values keep their type, but bfloat16,
    which NumPy lacks, becomes float32 without loss, and the README says so. The folder appears whole or not at all.

    Raises:
        ValueError: a damaged source, no record, or a type that NumPy lacks.
        FileExistsError: `out` is there.
    """
    if not source.keys:
        raise ValueError(f"{source.store.path}: there is no record to export; choose other tasks")
    refuse_damaged([source.store])
    with building(out) as folder:
        (folder / "columns").mkdir()
        (folder / "signals").mkdir()
        entries, columns = _stream(source, folder)
        for name, values in (_columns(entries) | _labels(entries, labels)).items():
            np.save(folder / "columns" / f"{name}.npy", values, allow_pickle=False)
        _describe(folder, source, columns, len(entries))
    return len(entries)


def _stream(source: Slice, folder: Path) -> tuple[list[dict[str, Any]], dict[str, _Column]]:
    columns: dict[str, _Column] = {}
    entries: list[dict[str, Any]] = []
    try:
        with (folder / "index.jsonl").open("w", encoding="utf-8", errors="surrogatepass", newline="\n") as index:
            for record in source.records():
                index.write(json.dumps(record.entry(), ensure_ascii=False) + "\n")
                _append(record, columns, folder, len(entries))
                entries.append(_small(record))
        if source.store.problems:
            raise ValueError(f"{source.store.path}: {source.store.problems[0]}; nothing was written")
        for name, column in columns.items():
            _finish(folder, name, column)
    finally:
        for column in columns.values():
            column.file.close()
    return entries, columns


def _append(record: Record, columns: dict[str, _Column], folder: Path, before: int) -> None:
    for name, value in record.signals.items():
        array = _array(name, value)
        if name not in columns:
            file = (folder / "signals" / f"{name}.npy").open("wb")
            columns[name] = _Column(file, array.dtype, array.ndim, value.dtype == torch.bfloat16)
            _header(columns[name])
            columns[name].lack(before)
        columns[name].append(name, array)
    for name in columns.keys() - record.signals.keys():
        columns[name].lack(1)


def _array(name: str, value: Tensor) -> np.ndarray:
    if value.dtype == torch.bfloat16:
        return value.float().numpy()
    try:
        return value.numpy()
    except TypeError:
        raise ValueError(
            f"signal {name} has type {value.dtype}, which NumPy lacks; leave it out of --signals"
        ) from None


def _header(column: _Column) -> None:
    """Write the header of a flat array; NumPy leaves room in it for any length, so it can be written again."""
    described = {"descr": np.lib.format.dtype_to_descr(column.dtype), "fortran_order": False, "shape": (column.count,)}
    np.lib.format.write_array_header_1_0(column.file, described)


def _finish(folder: Path, name: str, column: _Column) -> None:
    start = column.file.tell() - column.count * column.dtype.itemsize
    column.file.seek(0)
    _header(column)
    if column.file.tell() != start:
        raise ValueError(f"signal {name}: the header of its array grew from {start} to {column.file.tell()} bytes")
    np.save(folder / "signals" / f"{name}.offsets.npy", np.array(column.offsets, dtype=np.int64))
    shapes = np.array(column.shapes, dtype=np.int64).reshape(len(column.shapes), column.axes)
    np.save(folder / "signals" / f"{name}.shape.npy", shapes)


def _small(record: Record) -> dict[str, Any]:
    """What the columns need of a record."""
    answer = record.answer
    entry: dict[str, Any] = {name: getattr(record.key, name, None) for name in Key._fields}
    entry |= {n: getattr(record, n) for n in COLUMNS if n not in entry}
    entry |= {f"{name}_{end}": at for name, span in record.spans.items() for end, at in zip(("start", "stop"), span)}
    scored = isinstance(answer, (list, tuple))
    number = answer[0] if scored else answer
    entry["loglikelihood"] = float(number) if isinstance(number, (int, float)) else np.nan
    return entry


def _columns(entries: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    names = list(dict.fromkeys(name for entry in entries for name in entry))
    return {name: np.array([entry.get(name, -1) for entry in entries]) for name in names}


def _labels(entries: Sequence[Mapping[str, Any]], labels: Labels | None) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}
    for label, values in (labels.values if labels is not None else {}).items():
        name = "label_" + re.sub(r"[^A-Za-z0-9_.@-]", "_", str(label))
        while name in found:
            name += "_"
        found[name] = np.array(
            [values.get((e["task"], e["doc_id"]), np.nan) if e["occurrence"] == 0 else np.nan for e in entries],
            dtype=np.float64,
        )
    return found


def _describe(folder: Path, source: Slice, columns: Mapping[str, _Column], records: int) -> None:
    manifest = source.store.manifest
    described = {
        name: {**manifest["signals"].get(name, {}), "dtype": str(column.dtype)} for name, column in columns.items()
    }
    (folder / "signals.json").write_text(json.dumps(described, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    text = json.dumps(manifest, indent=2, ensure_ascii=False, default=str) + "\n"
    (folder / "manifest.json").write_text(text, encoding="utf-8")
    widened = [name for name, column in columns.items() if column.widened]
    notes = f"\nWidened from bfloat16 to float32, without loss: {', '.join(widened)}.\n" if widened else ""
    example = next((n for n in columns if n not in ("prompt_tokens", "tokens")), next(iter(columns), "NAME"))
    made = README.format(
        records=records, store=source.store.path, model=manifest["model"], example=example, notes=notes
    )
    (folder / "README.txt").write_text(made, encoding="utf-8")
