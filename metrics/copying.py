"""New stores out of old ones: several merged, or one cut down. The sources are only read.

Records stream from shard to shard: one shard of a source and one of the new store are in memory at a time, and the
indices of the sources. The new store appears whole or not at all (`metrics.building`).
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from metrics.annex_keep import copy_annex
from metrics.building import building
from metrics.record import Key
from metrics.slices import Slice, cut, recorded_signals, refuse_damaged, setting
from metrics.store import Store
from metrics.writer import Writer, differing

ORIGIN = ("model", "device", "batch_size", "libraries", "python", "git")
"""What is noted of each source beside its runs: it may differ between stores that belong together."""


@dataclass(frozen=True)
class Merged:
    """What a merge did: records written, keys in several sources, those that differed there, and signals left out."""

    records: int
    overlapping: int
    replaced: int
    dropped: tuple[str, ...]


def prune(source: Slice, out: Path) -> int:
    """Write a slice of a store as a store of its own; returns its records. Superseded records are never copied.

    The annex goes along where the texts do of which it was made.

    Raises:
        ValueError: the source is damaged, or the slice is empty.
        FileExistsError: `out` is there.
    """
    if not source.keys:
        raise ValueError(f"{source.store.path}: nothing is left to keep; choose other tasks")
    refuse_damaged([source.store])
    annex = source.store.path if source.text else None
    return _write([source], out, source.manifest(), "prune", annex)


def merge(stores: Sequence[Store], out: Path, *, common: bool = False) -> Merged:
    """Write the records of several stores of one model and settings as one store.

    A key in several stores counts once: the later store's. Result files that the sources' runs name are kept, the later
    store's last, so that labels are found.

    Args:
        stores: two or more; settings are compared by `metrics.writer.differing`.
        out: the new store.
        common: where stores differ in their signals or layers, keep the signals that all have, and none by layer where
            the layers differ.

    Raises:
        ValueError: fewer than two stores, a store given twice, a damaged one, or settings that would mix two
            experiments; the message names the setting.
        FileExistsError: `out` is there.
    """
    _refuse_few(stores)
    _refuse_mixed(stores, common=common)
    refuse_damaged(stores)
    dropped = _uncommon_signals(stores) if common else []
    slices = [cut(store, drop=[n for n in dropped if n in recorded_signals(store)]) for store in stores]
    last = {key: number for number, part in enumerate(slices) for key in part.keys}
    overlapping = sum(len(part.keys) for part in slices) - len(last)
    replaced = _replaced(slices, last)
    parts = [
        Slice(part.store, tuple(key for key in part.keys if last[key] == number), part.signals)
        for number, part in enumerate(slices)
    ]
    described = {name: facts for part in slices for name, facts in part.manifest()["signals"].items()}
    written = _write(parts, out, {**slices[0].manifest(), "signals": described}, "merge")
    return Merged(written, overlapping, replaced, tuple(dropped))


def _write(
    parts: Sequence[Slice], out: Path, manifest: Mapping[str, Any], made_by: str, annex: Path | None = None
) -> int:
    with building(out) as folder:
        writer = Writer(folder, {**manifest, "run_id": uuid.uuid4().hex}, shard_seconds=float("inf"))
        try:
            for part in parts:
                for record in part.records():
                    writer.add(record)
                _refuse_lost(part)
            sources = [_origin(part.store) for part in parts]
            writer.note(made_by=f"eval-ext store {made_by}", results=_results(parts), sources=sources)
        finally:
            writer.close()
        if annex is not None:
            copy_annex(annex, folder, {key.task for part in parts for key in part.keys})
        return writer.written


def _refuse_lost(part: Slice) -> None:
    """A shard that became unreadable while it was copied would leave a hole."""
    if part.store.problems:
        raise ValueError(f"{part.store.path}: {part.store.problems[0]}; nothing was written")


def _results(parts: Iterable[Slice]) -> list[str]:
    named = [path for part in parts for run in part.store.manifest["runs"] for path in run.get("results", ())]
    return list(reversed(dict.fromkeys(reversed(named))))


def _origin(store: Store) -> dict[str, Any]:
    facts = {name: store.manifest[name] for name in ORIGIN if name in store.manifest}
    return {"store": str(store.path.absolute()), **facts, "runs": store.manifest["runs"]}


def _refuse_few(stores: Sequence[Store]) -> None:
    if len(stores) < 2:
        raise ValueError("a merge takes two stores or more; eval-ext store prune copies one")
    places = [store.path.resolve() for store in stores]
    for store, place in zip(stores, places):
        if places.count(place) > 1:
            raise ValueError(f"{store.path} is given twice; name each store once")


def _refuse_mixed(stores: Sequence[Store], *, common: bool) -> None:
    first, free = stores[0], ("signals", "layers")
    for store in stores[1:]:
        odd = differing(first.manifest, store.manifest)
        barred = [name for name in odd if not (common and name in free)]
        if barred:
            name = barred[0]
            remedy = "merge only stores of one model with the same settings, and look at others with eval-ext compare"
            if set(barred) <= set(free):
                remedy = "pass --common to keep the signals that all of them have"
            elif barred == ["store_text"]:
                remedy = "leave the text out of the other too: eval-ext store prune --no-text"
            also = f" (and in {', '.join(barred[1:])})" if len(barred) > 1 else ""
            raise ValueError(
                f"{first.path} and {store.path} differ in {name}{also}: {setting(first.manifest, name)} against "
                f"{setting(store.manifest, name)}; {remedy}"
            )


def _uncommon_signals(stores: Sequence[Store]) -> list[str]:
    """Names of signals that not all stores have, or not described alike, or not of the same layers."""
    held = [recorded_signals(store) for store in stores]
    everything = sorted({name for names in held for name in names})
    layers = [store.manifest.get("layers") for store in stores]

    def same(name: str) -> bool:
        described = [store.manifest["signals"].get(name, {}) for store in stores]
        by_layer = "layer" in described[0].get("axes", ())
        alike = all(other == described[0] for other in described)
        return alike and not (by_layer and any(other != layers[0] for other in layers))

    return [name for name in everything if not (all(name in names for names in held) and same(name))]


def _replaced(slices: Sequence[Slice], last: Mapping[Key, int]) -> int:
    """How many records of earlier stores differ from the later one that counts."""
    shared = {key for number, part in enumerate(slices) for key in part.keys if last[key] != number}
    winners: dict[Key, bytes] = {}
    for number, part in enumerate(slices):
        winners |= _digests(part, [key for key in part.keys if key in shared and last[key] == number])
    found = 0
    for number, part in enumerate(slices):
        earlier = _digests(part, [key for key in part.keys if last[key] != number])
        found += sum(digest != winners[key] for key, digest in earlier.items())
    return found


def _digests(part: Slice, keys: Sequence[Key]) -> dict[Key, bytes]:
    """A digest of all that is recorded under each key."""
    found = {}
    for record in Slice(part.store, tuple(keys), part.signals).records() if keys else ():
        digest = hashlib.sha256(repr(sorted(record.entry().items())).encode(errors="surrogatepass"))
        for name, value in sorted(record.signals.items()):
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.contiguous().view(-1).view(torch.uint8).numpy().tobytes() if value.numel() else b"")
        found[record.key] = digest.digest()
    return found
