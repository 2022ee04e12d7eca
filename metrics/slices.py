"""Slices of a store: which of its records, and which of their signals."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from metrics import shard
from metrics.choosing import choose
from metrics.naming import unknown, words
from metrics.record import Key, Record
from metrics.store import Store

PRIVATE = ("tokens", "prompt_tokens", "top_tokens")
"""Signals from which the text can be read."""


@dataclass(frozen=True)
class Slice:
    """Keys and signal names of one store, in a fixed order; `text` is False when texts are left out."""

    store: Store
    keys: tuple[Key, ...]
    signals: tuple[str, ...]
    text: bool = True

    def records(self) -> Iterator[Record]:
        """The records, one shard of the source at a time, with the signals of the slice and no others."""
        if not self.signals:
            yield from map(self._plain, self.store.records(keys=self.keys))
            return
        for record in self.store.records(self.signals, self.keys):
            yield self._plain(record)

    def _plain(self, record: Record) -> Record:
        return record if self.text or not isinstance(record.answer, str) else replace(record, answer=None)

    def manifest(self) -> dict[str, Any]:
        """The source's manifest as it describes the slice; without schema, run id and runs, which are a writer's."""
        given = self.store.manifest
        described = {name: facts for name, facts in given["signals"].items() if name in self.signals}
        made = {k: v for k, v in given.items() if k not in ("schema", "run_id", "runs")}
        made |= {"signals": described, "store_text": bool(given.get("store_text", True) and self.text)}
        if not any("layer" in facts.get("axes", ()) for facts in described.values()):
            made["layers"] = []
        if "metrics" in given:
            made["metrics"] = [name for name in given["metrics"] if self._has(name)]
        return made

    def _has(self, metric: str) -> bool:
        """Whether the slice still holds what a metric needs of what the source held."""
        lost = self.store.manifest["signals"].keys() - set(self.signals)
        try:
            return not any(lost & set(choice.metric.needs) for choice in choose(metric))
        except ValueError:  # of another version
            return True


def cut(
    store: Store,
    *,
    tasks: str | Iterable[str] = (),
    signals: str | Iterable[str] = (),
    drop: str | Iterable[str] = (),
    text: bool = True,
) -> Slice:
    """The records and signals asked for; all where nothing is named.

    Args:
        store: the source.
        tasks: keep these tasks only; names joined by ``+``, or a list of them.
        signals: keep these signals only.
        drop: leave these signals out. Give `signals` or `drop`, not both.
        text: False leaves out the signals in `PRIVATE` and answers that are texts.

    Raises:
        ValueError: a name that the store does not hold, both `signals` and `drop`, or a private signal
            named without text.
    """
    entries = store.entries()
    held_tasks = list(dict.fromkeys(key.task for key in entries))
    held = recorded_signals(store)
    wanted, kept, dropped = words(tasks), words(signals), words(drop)
    if kept and dropped:
        raise ValueError(f"signals {'+'.join(kept)} to keep and {'+'.join(dropped)} to drop: give one of the two")
    for kind, names, known in (("task", wanted, held_tasks), ("signal", (*kept, *dropped), held)):
        for name in names:
            if name not in known:
                raise ValueError(f"{store.path}: {unknown(kind, name, known)}")
    private = [name for name in kept if name in PRIVATE]
    if private and not text:
        raise ValueError(f"signal {private[0]} holds text, which is to be left out; keep the text, or not this signal")
    names = [n for n in held if (n in kept if kept else n not in dropped) and (text or n not in PRIVATE)]
    keys = tuple(key for key in entries if not wanted or key.task in wanted)
    return Slice(store, keys, tuple(names), text)


def headers(store: Store) -> list[dict[str, Any]]:
    """The headers of the store's shards that can be read."""
    found = []
    for path in sorted((store.path / "shards").glob("*.jsonl")):
        try:
            found.append(shard.read_index(path)[0])
        except shard.DamagedShard:
            continue  # the store names it when its index is read
    return found


def recorded_signals(store: Store) -> list[str]:
    """Names of the signals in any shard of the store, in alphabetical order."""
    return sorted({name for header in headers(store) for name in header["signals"]})


def sizes(source: Slice) -> dict[str, float]:
    """Bytes that each signal of a slice takes; one pass over its records. Prompts count once, as a shard keeps them."""
    found = dict.fromkeys(source.signals, 0.0)
    prompts: set[int] = set()
    for record in source.records():
        for name, value in record.signals.items():
            if name == shard.PROMPT:
                content = hash(value.numpy().tobytes())
                if content in prompts:
                    continue
                prompts.add(content)
            found[name] += value.numel() * value.element_size()
    return found


def index_bytes(source: Slice) -> int:
    """Bytes that a slice's lines in the record index take."""
    entries = source.store.entries()
    total = 0
    for key in source.keys:
        entry = entries[key]
        plain = {**entry, "answer": None} if not source.text and isinstance(entry["answer"], str) else entry
        total += len(json.dumps(plain, ensure_ascii=False).encode(errors="surrogatepass")) + 1
    return total


def refuse_damaged(stores: Sequence[Store]) -> None:
    """Raise where a shard of a store differs from its checksum: a copy would carry a fresh checksum over it.

    Raises:
        ValueError: names the store, the first shard and the remedy.
    """
    for store in stores:
        damaged = store.damaged()
        if damaged:
            more = f" and {len(damaged) - 1} more" if len(damaged) > 1 else ""
            raise ValueError(
                f"{store.path} is damaged: {damaged[0]}{more}; record again what it held, or move the damaged files "
                "out of its folder shards"
            )


def setting(manifest: Mapping[str, Any], name: str) -> str:
    """A setting of a manifest in a few words, for messages: a mapping by its names."""
    value = manifest.get(name)
    if isinstance(value, Mapping):
        value = [k if isinstance(v, Mapping) else f"{k}={v}" for k, v in value.items()]
    shown = (", ".join(map(str, value)) or "none") if isinstance(value, list) else str(value)
    return shown if len(shown) < 120 else shown[:117] + "..."
