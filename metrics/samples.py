"""The samples of a document, put side by side while records stream by in any order.

A document's samples are its generations in order of occurrence. What is compared is the answers' texts (equal filtered
answers, words in common), what other models made of them (the annex: embeddings, entailment), and numbers gathered
from each sample's own signals. A document is held until its last sample has come, then let go.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from metrics.core import Choice, Signal
from metrics.lexical import LEXICAL
from metrics.record import Key, Span
from metrics.signals.samples import AFFINITIES, CLUSTERINGS

GENERATED = "generate_until"
Available = dict[str, Tensor] | str
"""The signals of a record or of a document, or why it has none."""

REMEDY = {
    "answer": "no text of the answers is stored",
    "nli": "no NLI of the samples; make it with eval-ext samples --nli MODEL",
    "embedding": "no embeddings of the samples; make them with eval-ext samples --encoder MODEL",
    "bertscore": "no BERTScore of the samples; make it with eval-ext samples --bertscore MODEL",
    "relevance": "no relevance of tokens; make it with eval-ext samples --relevance MODEL",
}
"""Why something of the samples is not there."""

NEEDED = {
    **dict.fromkeys(LEXICAL, "answer"),
    "answer": "answer",
    "entailment": "nli",
    "contradiction": "nli",
    "sample_nli": "nli",
    "sample_text": "answer",
    "sample_embedding": "embedding",
    "token_relevance": "relevance",
}
"""Which of these a kind of cluster or affinity, or a signal, comes from; itself where not named."""


class Annex(Protocol):
    """What other models made of a store's texts."""

    def record(self, key: Key) -> Mapping[str, Tensor]:
        """Signals of one record over all its tokens: ``token_relevance``, where it was made."""
        ...

    def document(self, keys: Sequence[Key]) -> Mapping[str, Tensor]:
        """Of the samples with these keys, where made for all: ``embedding`` (sample, dim), ``nli`` (sample, sample, 3),
        ``bertscore`` (sample, sample), ``cluster_embedding`` and ``cluster_nli`` (sample).
        """
        ...

    def problems(self, key: Key) -> Mapping[str, str]:
        """Why what was made cannot be used for this record's document, by what `REMEDY` calls it."""
        ...


class NoAnnex:
    """An annex in which nothing was made."""

    def record(self, key: Key) -> Mapping[str, Tensor]:  # noqa: ARG002, D102
        return {}

    def document(self, keys: Sequence[Key]) -> Mapping[str, Tensor]:  # noqa: ARG002, D102
        return {}

    def problems(self, key: Key) -> Mapping[str, str]:  # noqa: ARG002, D102
        return {}


@dataclass(frozen=True)
class Beside:
    """What is known of a store's records besides what its shards hold.

    Attributes:
        answers: each generated record's answer as the task's filter reads it, or its text where there is none.
        texts: each generated record's whole answer.
        spans: further spans of records, such as ``exact`` and ``reasoning``.
        unmapped: why a record has no such span.
        annex: what other models made of the texts.
        incomparable: why the samples of a task cannot be compared, by task.
    """

    answers: Mapping[Key, str] = field(default_factory=dict)
    texts: Mapping[Key, str] = field(default_factory=dict)
    spans: Mapping[Key, Mapping[str, Span]] = field(default_factory=dict)
    unmapped: Mapping[Key, str] = field(default_factory=dict)
    annex: Annex = field(default_factory=NoAnnex)
    incomparable: Mapping[str, str] = field(default_factory=dict)


def of_samples(choice: Choice[Any], known: Mapping[str, Signal]) -> bool:
    """Whether a metric is one of a document's samples together."""
    return any("sample" in known[name].axes for name in choice.metric.needs)


class Documents:
    """Gathers the samples of documents.

    Args:
        keys: of all units that are scored, with their kinds.
        metrics: metrics of samples.
        beside: what stands beside the records.
        known: the catalogue of signals.
    """

    def __init__(
        self,
        keys: Iterable[tuple[Key, str]],
        metrics: Sequence[Choice[Any]],
        beside: Beside,
        known: Mapping[str, Signal],
    ) -> None:
        self._beside = beside
        self._known = known
        self._needs = sorted({name for c in metrics for name in c.metric.needs})
        self._gathered = [n for n in self._needs if known[n].gathered]
        self._kinds = {str(c.options[o]) for c in metrics for o in ("clusters", "affinity") if o in c.options}
        self._members: dict[tuple[Any, ...], list[int]] = {}
        self._keys: list[Key] = []
        for row, (key, kind) in enumerate(keys):
            self._keys.append(key)
            self._members.setdefault((key.task, key.doc_id, kind), []).append(row)
        self._kind = {row: name[2] for name, rows in self._members.items() for row in rows}
        most: Counter[tuple[str, str]] = Counter()
        for (task, _, kind), rows in self._members.items():
            most[task, kind] = max(most[task, kind], len(rows))
        self._most = most
        self._come: dict[tuple[Any, ...], dict[int, Available]] = {}

    def add(self, row: int, available: Available) -> list[tuple[int, Available]]:
        """A unit has come: each unit of its document with the document's signals, once the last one has come."""
        key = self._keys[row]
        name = (key.task, key.doc_id, self._kind[row])
        come = self._come.setdefault(name, {})
        come[row] = available if isinstance(available, str) else self._entry(available)
        rows = self._members[name]
        if len(come) < len(rows):
            return []
        whole = self._whole(name, self._come.pop(name))
        return [
            (r, whole if isinstance(whole, str) else {**whole, "sample_index": torch.tensor(i)})
            for i, r in enumerate(rows)
        ]

    def _entry(self, available: dict[str, Tensor]) -> Available:
        """One sample's part of what is gathered."""
        found: dict[str, Tensor] = {"token_count": available["token_count"]}
        for name in self._gathered:
            signal = self._known[name]
            assert signal.compute is not None
            if all(need in available for need in signal.needs):
                found[name] = signal.compute(*(available[need] for need in signal.needs))
        return found

    def _whole(self, name: tuple[Any, ...], come: Mapping[int, Available]) -> Available:
        task, _, kind = name
        rows = self._members[name]
        if kind != GENERATED:
            return "not generated"
        if self._most[task, kind] < 2:
            return "one sample a document; record with repeats"
        if why := self._beside.incomparable.get(task):
            return why
        if len(rows) < self._most[task, kind]:
            return f"only {len(rows)} of {self._most[task, kind]} samples are recorded"
        missing = [entry for entry in come.values() if isinstance(entry, str)]
        if missing:
            return f"of a sample: {missing[0]}"
        entries = [entry for entry in (come[row] for row in rows) if not isinstance(entry, str)]
        keys = [self._keys[row] for row in rows]
        made = self._texts(keys)
        made["token_count"] = torch.stack([entry["token_count"] for entry in entries]).min()
        for signal in self._gathered:
            if all(signal in entry for entry in entries):
                made[signal] = torch.stack([entry[signal] for entry in entries])
        return made

    def _texts(self, keys: Sequence[Key]) -> dict[str, Tensor]:
        """What the texts of the samples give, and the annex; only what some metric asks for."""
        beside, made = self._beside, {}
        annexed = beside.annex.document(keys)
        for name in ("sample_nli", "sample_embedding"):
            if name in self._needs and name.removeprefix("sample_") in annexed:
                made[name] = annexed[name.removeprefix("sample_")]
        if "sample_text" in self._needs:
            texts = [beside.texts.get(key) for key in keys]
            made |= {} if None in texts else {"sample_text": clusters(texts)}
        if "sample_clusters" in self._needs:
            made["sample_clusters"] = torch.stack([self._clusters(kind, keys, annexed) for kind in CLUSTERINGS])
        if "sample_affinity" in self._needs:
            made["sample_affinity"] = torch.stack([self._affinity(kind, keys, annexed) for kind in AFFINITIES])
        return made

    def _clusters(self, kind: str, keys: Sequence[Key], annexed: Mapping[str, Tensor]) -> Tensor:
        nothing = torch.full((len(keys),), torch.nan, dtype=torch.float64)
        if kind not in self._kinds:
            return nothing
        if kind == "answer":
            answers = [self._beside.answers.get(key) for key in keys]
            return nothing if None in answers else clusters(answers)
        return annexed[f"cluster_{kind}"].double() if f"cluster_{kind}" in annexed else nothing

    def _affinity(self, kind: str, keys: Sequence[Key], annexed: Mapping[str, Tensor]) -> Tensor:
        nothing = torch.full((len(keys), len(keys)), torch.nan, dtype=torch.float64)
        if kind not in self._kinds:
            return nothing
        if kind in LEXICAL:
            texts = [self._beside.texts.get(key) for key in keys]
            known = [text for text in texts if text is not None]
            return torch.from_numpy(LEXICAL[kind](known)) if len(known) == len(keys) else nothing
        if kind in ("entailment", "contradiction") and "nli" in annexed:
            place = 0 if kind == "entailment" else 2
            mean = (annexed["nli"][..., place].double() + annexed["nli"][..., place].double().mT) / 2
            return mean if kind == "entailment" else 1 - mean
        if kind == "embedding" and "embedding" in annexed:
            vectors = annexed["embedding"].double()
            unit = vectors / vectors.norm(dim=-1, keepdim=True)
            return (1 + unit @ unit.mT) / 2
        return annexed[kind].double() if kind in annexed else nothing


def clusters(answers: Sequence[object]) -> Tensor:
    """A number for each answer, the same for equal ones, from 0 in order of first appearance."""
    numbers: dict[object, int] = {}
    return torch.from_numpy(np.array([numbers.setdefault(a, len(numbers)) for a in answers], dtype=float))


def why_lacking(choice: Choice[Any], available: Mapping[str, Tensor], known: Mapping[str, Signal]) -> str:
    """Why a metric of samples cannot be computed of these signals; empty where it can be tried."""
    for name in choice.metric.needs:
        if name not in available:
            from_text = [n for n in known[name].needs if n in NEEDED] if known[name].gathered else [name]
            if from_text and from_text[0] in NEEDED:
                return REMEDY[NEEDED[from_text[0]]]
            lost = [n for n in known[name].needs if known[n].cost != "free"]
            return f"signal '{lost[0] if lost else name}' was not recorded of every sample"
        of_tokens = any("token" in known[need].axes for need in known[name].needs)
        if known[name].gathered and of_tokens and available["token_count"] == 0:
            return "a sample is empty; --span generation counts its end"
    for option, signal, kinds in (
        ("clusters", "sample_clusters", CLUSTERINGS),
        ("affinity", "sample_affinity", AFFINITIES),
    ):
        kind = str(choice.options.get(option))
        if signal in choice.metric.needs and kind in kinds and available[signal][kinds.index(kind)].isnan().all():
            return REMEDY[NEEDED.get(kind, kind)]
    return ""
