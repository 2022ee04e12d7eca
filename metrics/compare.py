"""Two stores on the same documents: which documents those are, and what each store says of them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from metrics.cases import Case, cases
from metrics.core import Choice
from metrics.record import Key


class Document(NamedTuple):
    """A judged document of one store: its number and digest, and the request that stands for it."""

    doc_id: int
    doc_hash: str
    prompt_hash: str
    option: int
    kind: str
    answer: Any


@dataclass(frozen=True)
class Judged:
    """One task under one verdict in one store: scores, labels, and which document each of them is of."""

    case: Case
    documents: tuple[Document, ...]


@dataclass(frozen=True)
class Matching:
    """Documents of a task in two stores: `pairs` maps the first's number to the second's; the others by reason."""

    pairs: Mapping[int, int]
    only_first: Counter[str]
    only_second: Counter[str]


@dataclass(frozen=True)
class Pair:
    """One task under one verdict, judged in both stores: the two cases hold the same documents in the same order."""

    first: Case
    second: Case
    documents: tuple[tuple[Document, Document], ...]
    matching: Matching
    unlabelled: tuple[int, int]
    """Documents recorded in both stores that the first, the second has no label for."""

    @property
    def task(self) -> str:
        """The task's name."""
        return self.first.task

    @property
    def title(self) -> str:
        """Task and verdict; both verdicts where they have different names."""
        one, two = self.first.label, self.second.label
        return f"{self.task}, {one if one == two else f'{one} | {two}'}"

    @property
    def binary(self) -> bool:
        """Whether every answer is right or wrong in both stores."""
        return self.first.wrong is not None and self.second.wrong is not None


def match_documents(first: Mapping[int, str], second: Mapping[int, str]) -> Matching:
    """Match documents by digest: those of one number and digest, then those whose digest is unique among the rest.

    Documents without a digest match by number, if neither store has one. The others are counted by reason.

    Args:
        first: digest by document number in the first store.
        second: the same in the second.
    """
    pairs = {number: number for number, digest in first.items() if second.get(number) == digest}
    left1 = {n: h for n, h in first.items() if n not in pairs}
    left2 = {n: h for n, h in second.items() if n not in pairs}
    numbers1, numbers2 = _by_digest(left1), _by_digest(left2)
    for digest, (number, *more) in numbers1.items():
        others = numbers2.get(digest, [])
        if digest and not more and len(others) == 1:
            pairs[number] = others[0]
    taken = set(pairs.values())
    only1 = Counter(_why(n, h, second, numbers2) for n, h in left1.items() if n not in pairs)
    only2 = Counter(_why(n, h, first, numbers1) for n, h in left2.items() if n not in taken)
    return Matching(dict(sorted(pairs.items())), only1, only2)


def _by_digest(documents: Mapping[int, str]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = defaultdict(list)
    for number, digest in documents.items():
        found[digest].append(number)
    return found


def _why(number: int, digest: str, other: Mapping[int, str], numbers: Mapping[str, Sequence[int]]) -> str:
    if digest and numbers.get(digest):
        return "the same document stands under several numbers"
    return "another document has its number" if number in other else "not recorded"


def recorded(entries: Mapping[Key, Mapping[str, Any]]) -> dict[str, dict[int, str]]:
    """Digest by document number, by task."""
    found: dict[str, dict[int, str]] = {}
    for key, entry in entries.items():
        found.setdefault(key.task, {})[key.doc_id] = entry["doc_hash"]
    return found


def judged(
    frame: pd.DataFrame,
    entries: Mapping[Key, Mapping[str, Any]],
    metrics: Sequence[Choice],
    *,
    threshold: float | None = None,
) -> dict[tuple[str, str], Judged]:
    """The cases of a score frame by task and verdict, with their documents.

    Args:
        frame: from `metrics.frame.score_frame`.
        entries: the index entries of the store.
        metrics: the metrics of the frame.
        threshold: see `metrics.cases.cases`.
    """
    kinds = {(key.task, key.doc_id, key.request, key.occurrence): key.kind for key in entries}
    found = {}
    for case in cases(frame, metrics, threshold=threshold):
        part = frame[(frame["task"] == case.task) & frame[f"label:{case.verdict}"].notna()]
        documents = []
        for number, option, sample, kind in zip(part["doc_id"], part["option"], part["sample"], part["kind"]):
            place = (case.task, int(number), int(option), int(sample))
            asked = "loglikelihood" if kind == "multiple_choice" else kind
            key = Key(*place, asked)
            entry = entries[key if key in entries else Key(*place, kinds[place])]
            answer = entry["answer"]
            documents.append(
                Document(int(number), entry["doc_hash"], entry["prompt_hash"], int(option), str(kind), answer)
            )
        found[case.task, case.verdict] = Judged(case, tuple(documents))
    return found


def pair_up(
    first: Mapping[tuple[str, str], Judged],
    second: Mapping[tuple[str, str], Judged],
    documents: tuple[Mapping[str, Mapping[int, str]], Mapping[str, Mapping[int, str]]],
) -> tuple[list[Pair], list[str]]:
    """Pair the verdicts of two stores, and say why others have no pair.

    Verdicts of one name belong together; where a task has none in common and one verdict on either side (labels of the
    user's own, say), these two do.

    Args:
        first: from `judged`.
        second: the same of the other store.
        documents: from `recorded`, of both stores.
    """
    pairs, alone = [], []
    for task in sorted({task for task, _ in (*first, *second)}):
        verdicts = [[v for t, v in side if t == task] for side in (first, second)]
        lacking = next((name for name, side in zip("AB", verdicts) if not side), None)
        if lacking:
            known = task in documents["AB".index(lacking)]
            alone.append(f"{task}: {'no labels in' if known else 'not recorded in'} {lacking}")
            continue
        names = [(v, v) for v in verdicts[0] if v in verdicts[1]]
        if not names and len(verdicts[0]) == len(verdicts[1]) == 1:
            names = [(verdicts[0][0], verdicts[1][0])]
        if not names:
            alone.append(f"{task}: no verdict in common; A has {', '.join(verdicts[0])}, B {', '.join(verdicts[1])}")
        matching = match_documents(documents[0][task], documents[1][task])
        pairs += [_pair(first[task, one], second[task, two], matching) for one, two in names]
    return pairs, alone


def _pair(first: Judged, second: Judged, matching: Matching) -> Pair:
    at1 = {document.doc_id: row for row, document in enumerate(first.documents)}
    at2 = {document.doc_id: row for row, document in enumerate(second.documents)}
    used = [(at1[one], at2[two]) for one, two in matching.pairs.items() if one in at1 and two in at2]
    unlabelled = (
        sum(one not in at1 for one in matching.pairs),
        sum(two not in at2 for two in matching.pairs.values()),
    )
    rows1, rows2 = (np.array([row[side] for row in used], dtype=int) for side in (0, 1))
    documents = tuple((first.documents[one], second.documents[two]) for one, two in used)
    return Pair(_rows(first.case, rows1), _rows(second.case, rows2), documents, matching, unlabelled)


def _rows(case: Case, rows: np.ndarray) -> Case:
    wrong = None if case.wrong is None else case.wrong[rows]
    scores = {name: score[rows] for name, score in case.scores.items()}
    return replace(case, scores=scores, quality=case.quality[rows], wrong=wrong)


def pair_frame(pair: Pair, metrics: Sequence[Choice]) -> pd.DataFrame:
    """One row a document that both stores judged: numbers, labels, answers and scores with the metrics' own signs."""
    one, two = pair.first, pair.second
    right: dict[str, Any] = {}
    for side, case in (("a", one), ("b", two)):
        right[f"label_{side}"] = case.quality if case.wrong is None else (~case.wrong).astype(float)
    columns: dict[str, Any] = {
        "task": [pair.task] * len(pair.documents),
        "verdict": [one.label] * len(pair.documents),
        "doc_id_a": [a.doc_id for a, _ in pair.documents],
        "doc_id_b": [b.doc_id for _, b in pair.documents],
        "doc_hash": [a.doc_hash for a, _ in pair.documents],
        **right,
        "answer_a": [answer_text(a) for a, _ in pair.documents],
        "answer_b": [answer_text(b) for _, b in pair.documents],
    }
    for choice in metrics:
        sign = 1 if choice.metric.higher == "uncertain" else -1
        for side, case in (("a", one), ("b", two)):
            if choice.id in case.scores:
                columns[f"{choice.id}:{side}"] = sign * case.scores[choice.id]
    return pd.DataFrame(columns)


def answer_text(document: Document) -> str:
    """What was answered, in words: the text, the chosen option, or the log-likelihood; empty where no text is kept."""
    if document.kind == "multiple_choice":
        return f"option {document.option}"
    answer = document.answer[0] if isinstance(document.answer, (list, tuple)) and document.answer else document.answer
    return "" if answer is None else str(answer)
