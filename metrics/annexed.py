"""The annex of a store as scoring asks for it: by record and by document, where it was made of these very texts."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from metrics.annex import FOLDER, KINDS, DamagedPart, Part, parts_of, read_clusters, samples_of
from metrics.meanings import equivalent, grouped
from metrics.record import Key
from metrics.samples import GENERATED, Annex, NoAnnex

OPEN = 16
"""Parts that are kept open at a time."""

STALE = "the annex was made of other texts; run eval-ext samples again"
DAMAGED = "a part of the annex is damaged; run eval-ext samples again"
PARTLY = "the annex holds only some of the documents; run eval-ext samples again"


def annex_of(store: Path, entries: Mapping[Key, Mapping[str, Any]]) -> Annex:
    """The annex of the store with these entries; of one without a folder for it, an annex in which nothing was made."""
    return Annexed(store, entries) if (store / FOLDER).is_dir() else NoAnnex()


class Annexed:
    """Reads an annex. What was made of other texts than the store holds now counts as not made, with the reason.

    A damaged part is named by one warning, and the rest is read.

    Raises:
        ValueError: parts of one kind were made by different models, or ``clusters.json`` is damaged.
    """

    def __init__(self, store: Path, entries: Mapping[Key, Mapping[str, Any]]) -> None:
        self._clusters = read_clusters(store)
        self._entries = entries
        self._open: list[Part] = []
        self._kinds: dict[str, _Kind] = {}
        for kind in KINDS:
            found = _Kind(store, kind)
            if found.places or found.damaged:
                self._kinds[kind] = found
        self._members: dict[tuple[str, int], list[Key]] = {}
        for key in sorted(entries):
            if key.kind == GENERATED and key.request == 0 and isinstance(entries[key]["answer"], str):
                self._members.setdefault(key[:2], []).append(key)
        self._told: dict[tuple[str, int], tuple[tuple[int, str], ...]] = {}

    def record(self, key: Key) -> Mapping[str, Tensor]:
        """``token_relevance`` of one record, over all its tokens."""
        values = self._values("relevance", key[:2])
        order = [member.occurrence for member in self._members.get(key[:2], ())]
        if values is None or key.occurrence not in order:
            return {}
        found = values[order.index(key.occurrence)]
        return {"token_relevance": found} if len(found) == self._entries[key]["token_count"] else {}

    def document(self, keys: Sequence[Key]) -> Mapping[str, Tensor]:
        """What was made of the samples with these keys, all samples of one document in order; see `metrics.samples`."""
        name = keys[0][:2]
        if list(keys) != self._members.get(name):
            return {}
        made: dict[str, Tensor] = {}
        for kind in self._kinds:
            values = self._values(kind, name) if kind != "relevance" else None
            if values is not None:
                made[kind] = torch.stack(values) if KINDS[kind] == "record" else values[0]
        told = [text for _, text in self._samples(name)]
        equal = torch.tensor([[a == b for b in told] for a in told])
        if "nli" in made:
            how = self._clusters["nli"]
            made["cluster_nli"] = grouped(equal | equivalent(made["nli"], how["equivalence"]), how["rule"])
        if "embedding" in made:
            how = self._clusters["embedding"]
            near = cosines(made["embedding"]) >= how["threshold"]
            made["cluster_embedding"] = grouped(equal | near, how["rule"])
        return made

    def problems(self, key: Key) -> Mapping[str, str]:
        """Why a kind of the annex cannot be used for this record's document, where some of that kind was made."""
        name, found = key[:2], {}
        for kind, held in self._kinds.items():
            if name not in held.places:
                found[kind] = DAMAGED if held.damaged else PARTLY
            elif held.samples(name) != self._samples(name):
                found[kind] = STALE
            elif held.at(name).path in held.damaged:
                found[kind] = DAMAGED
        return found

    def _samples(self, name: tuple[str, int]) -> tuple[tuple[int, str], ...]:
        if name not in self._told:
            self._told[name] = samples_of(self._members.get(name, ()), self._entries)
        return self._told[name]

    def _values(self, kind: str, name: tuple[str, int]) -> list[Tensor] | None:
        held = self._kinds.get(kind)
        if held is None or name not in held.places or held.samples(name) != self._samples(name):
            return None
        part = held.at(name)
        if part.path in held.damaged:
            return None
        if held.last[0] == name:
            return held.last[1]
        try:
            values = part.values(held.places[name][1])
        except DamagedPart as problem:
            held.spoilt(problem, part.path)
            return None
        held.last = name, values
        if part not in self._open:
            self._open.append(part)
            if len(self._open) > OPEN:
                self._open.pop(0).close()
        return values


class _Kind:
    """The parts of one kind: where each document is, the later part's where two have it."""

    def __init__(self, store: Path, kind: str) -> None:
        self.damaged: set[Path] = set()
        self.parts: list[Part] = []
        self.places: dict[tuple[str, int], tuple[int, int]] = {}
        self.last: tuple[tuple[str, int] | None, list[Tensor]] = None, []
        """The document that was read last: its records are asked for one after another."""
        for path in parts_of(store, kind):
            try:
                part = Part(path)
            except DamagedPart as problem:
                self.spoilt(problem, path)
                continue
            if self.parts and part.facts != self.parts[0].facts:
                raise ValueError(
                    f"{path} was made by {part.facts.get('model')} and {self.parts[0].path.name} by "
                    f"{self.parts[0].facts.get('model')}, or with other settings; run eval-ext samples with --redo"
                )
            for number, (task, doc_id, _) in enumerate(part.documents):
                self.places[task, doc_id] = len(self.parts), number
            self.parts.append(part)

    def at(self, name: tuple[str, int]) -> Part:
        return self.parts[self.places[name][0]]

    def samples(self, name: tuple[str, int]) -> tuple[tuple[int, str], ...]:
        part, number = self.places[name]
        return self.parts[part].documents[number][2]

    def spoilt(self, problem: DamagedPart, path: Path) -> None:
        self.damaged.add(path)
        warnings.warn(str(problem), stacklevel=2)


def cosines(vectors: Tensor) -> Tensor:
    """Cosine of each two rows, in float64; of a zero vector 0."""
    unit = torch.nn.functional.normalize(vectors.double(), dim=-1)
    return unit @ unit.mT
