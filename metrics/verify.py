"""Whether a store is whole: every shard against its checksum, the index against the data, and what runs left behind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from metrics import shard
from metrics.annex_keep import verify_annex
from metrics.manifest import processes, read_manifest
from metrics.record import Key


@dataclass
class Checked:
    """What a store holds and what is wrong with it. `damage` concerns shards, `problems` all else; one line each."""

    path: Path
    shards: int = 0
    entries: int = 0
    """Records in all shards, superseded ones included."""
    records: int = 0
    """Records that count: the latest of each key."""
    bytes: int = 0
    runs: int = 0
    damage: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def superseded(self) -> int:
        """Records of which a later one exists, as after a resumed run."""
        return self.entries - self.records


def verify(path: Path) -> Checked:
    """Read all of a store and say what is wrong with it; nothing is changed.

    Checked: the manifest; each shard's index and the checksum of its data; that every record's signals are there with
    as many entries as it has tokens, and its spans within; that each ended run has the records it noted; files that an
    interrupted write left; whether the last run ended, and whether it stopped recording early.
    """
    found = Checked(path)
    try:
        manifest = read_manifest(path)
    except (OSError, ValueError) as problem:
        found.problems.append(str(problem))
        return found
    folder = path / "shards"
    found.runs = len(manifest["runs"])
    found.bytes = sum(p.stat().st_size for p in folder.glob("*") if p.is_file())
    keys: set[Key] = set()
    by_run: Counter[int] = Counter()
    for index in sorted(folder.glob("*.jsonl"), key=lambda p: (len(p.name), p.name)):
        found.shards += 1
        try:
            header, entries = shard.read_index(index)
            if not shard.checksum(index):
                found.damage.append(f"{index.with_suffix('.safetensors')}: contents differ from their checksum")
                continue
            found.damage += _index_against_data(index, header, entries, _axes(manifest))
        except shard.DamagedShard as damage:
            found.damage.append(str(damage))
            continue
        found.entries += len(entries)
        by_run[header.get("run", 0)] += len(entries)
        keys.update(Key(*(entry[f] for f in Key._fields)) for entry in entries)
    found.records = len(keys)
    found.problems += [
        *_leftovers(folder),
        *verify_annex(path),
        *_runs(path, manifest["runs"], by_run, whole=not found.damage),
    ]
    return found


def _axes(manifest: Mapping[str, Any]) -> dict[str, Sequence[str]]:
    described = manifest["signals"] if isinstance(manifest["signals"], Mapping) else {}
    return {"tokens": ("token",), **{name: facts.get("axes", ()) for name, facts in described.items()}}


def _index_against_data(
    index: Path, header: Mapping[str, Any], entries: Sequence[Mapping[str, Any]], axes: Mapping[str, Sequence[str]]
) -> Iterator[str]:
    """One line a shard for the first record whose entry and signals do not belong together, with the number of such."""
    rows = shard.read(index, range(len(entries)), header["signals"])
    bad: list[str] = []
    for entry, signals in zip(entries, rows):
        why = _mismatch(entry, {name: tuple(value.shape) for name, value in signals.items()}, axes)
        if why:
            bad.append(f"task {entry['task']}, document {entry['doc_id']}: {why}")
    lacking = sorted(set(header["signals"]) - {name for signals in rows for name in signals})
    if lacking:
        yield f"{index}: its header names the signals {', '.join(lacking)}, which the data file lacks"
    if bad:
        yield f"{index}: {len(bad)} of {len(entries)} records do not fit their signals; the first: {bad[0]}"


def _mismatch(entry: Mapping[str, Any], shapes: Mapping[str, Sequence[int]], axes: Mapping[str, Sequence[str]]) -> str:
    tokens = entry["token_count"]
    for name, (start, stop) in entry["spans"].items():
        if not 0 <= start <= stop <= tokens:
            return f"span {name} is {start} to {stop} of {tokens} tokens"
    for name, shape in shapes.items():
        given = axes.get(name, ())
        expected = {"token": tokens, "step": tokens + 1}
        wrong = [a for a, size in zip(given, shape) if expected.get(a, size) != size]
        if given and len(given) != len(shape):
            return f"{name} has {len(shape)} axes where {len(given)} are described"
        if wrong:
            return f"{name} has {shape[list(given).index(wrong[0])]} entries where {expected[wrong[0]]} are due"
    return ""


def _leftovers(folder: Path) -> Iterator[str]:
    for path in sorted(p for p in folder.glob("*") if p.is_file()):
        if path.name.endswith(".tmp"):
            yield f"{path}: left by an interrupted write; delete it, unless the store is being written now"
        elif path.suffix == ".safetensors" and not path.with_suffix(".jsonl").exists():
            yield f"{path}: data without an index, left by an interrupted write; delete it, it holds no finished record"


def _runs(path: Path, runs: Sequence[Mapping[str, Any]], found: Mapping[int, int], *, whole: bool) -> Iterator[str]:
    """Problems of the runs. Only the last run's end matters: a resumed run finishes what earlier ones left."""
    for number, run in enumerate(runs):
        noted = sum(part["records"] for part in processes(run) if isinstance(part.get("records"), int))
        lost = noted - found.get(number, 0)
        if whole and lost > 0:
            yield (
                f"{path}: run {run['run_id'][:8]} wrote {noted} records, {lost} of them are gone; shards were deleted: "
                "run again with store_mode=resume"
            )
    if not runs:
        return
    last, parts = runs[-1], processes(runs[-1])
    who = f"{path}: run {last['run_id'][:8]}"
    ended = sum("ended" in part for part in parts)
    due = max(last.get("ranks", 1), len(parts))
    if ended < due:
        of = f" in {due - ended} of its {due} processes" if due > 1 else ""
        yield (
            f"{who} of {last['started']} did not end{of}: it still runs, or was killed; in that case run again with "
            "store_mode=resume"
        )
    for why in dict.fromkeys(part["stopped"] for part in parts if "stopped" in part):
        yield f"{who} stopped recording: {why}"
