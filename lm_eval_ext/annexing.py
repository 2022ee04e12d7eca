"""Making a store's annex: which documents lack it, what has to be asked of a model for them, each thing once.

A *recipe* is one kind of the annex and how it is made. Documents are taken some at a time: what is asked for them is
gathered, equal things once, asked in one go, and put together into a part (`metrics.annex`), so that what a killed run
had written is not asked again.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from lm_eval_ext.environment import versions
from metrics.annex import Made, parts_of, samples_of, whole_part, write_part
from metrics.record import Key
from metrics.samples import GENERATED

GROUP = 512
"""Things asked in one go, at least, unless no more are left: some batches, so that like lengths meet. No more documents
than this are taken at a time, should they want little."""

PART_BYTES, PART_SECONDS = 16 << 20, 20.0
"""A part is written when it has so many bytes, or so long after the last one."""

REMEMBERED = 256 << 20
"""Bytes of answers that are remembered for documents to come."""

Ask = Callable[[Sequence[Any]], Sequence[Tensor]]


@dataclass(frozen=True)
class Document:
    """The samples of one document: their keys in order of occurrence, and their answers without outer white space."""

    keys: tuple[Key, ...]
    texts: tuple[str, ...]
    question: str = ""

    def asked(self, text: str) -> str:
        """An answer behind its question, where there is one."""
        return f"{self.question} {text}" if self.question else text


@dataclass(frozen=True)
class Recipe:
    """How one kind of the annex is made.

    Attributes:
        kind: one of `metrics.annex.KINDS`.
        facts: what makes it: model, revision and all that its values depend on.
        wants: what has to be asked for a document, equal things several times.
        ask: the model's answers to different things, in their order.
        put: what is kept of a document, given the answer to each thing it wants.
    """

    kind: str
    facts: Mapping[str, Any]
    wants: Callable[[Document], Sequence[Hashable]]
    ask: Ask
    put: Callable[[Document, Callable[[Any], Tensor]], Sequence[Tensor]]


@dataclass(frozen=True)
class Work:
    """What is left to do of a recipe: its documents, the things they want, and how many of these differ."""

    recipe: Recipe
    documents: Sequence[Document]
    done: int
    wanted: int
    distinct: int


def documents_of(entries: Mapping[Key, Mapping[str, Any]], questions: Mapping[tuple[str, str], str]) -> list[Document]:
    """The generated documents of a store whose answers are texts.

    Args:
        entries: index entries by key.
        questions: by task and hash of the document.
    """
    members: dict[tuple[str, int], list[Key]] = {}
    for key in sorted(entries):
        if key.kind == GENERATED and key.request == 0 and isinstance(entries[key]["answer"], str):
            members.setdefault(key[:2], []).append(key)
    return [
        Document(
            tuple(keys),
            tuple(entries[key]["answer"].strip() for key in keys),
            questions.get((task, entries[keys[0]]["doc_hash"]), ""),
        )
        for (task, _), keys in members.items()
    ]


def work(
    store: Path,
    recipe: Recipe,
    documents: Sequence[Document],
    entries: Mapping[Key, Mapping[str, Any]],
    *,
    redo: bool = False,
    dry: bool = False,
) -> Work:
    """What is left to do. Parts that are damaged, with `redo` all of them, count as not there and are removed.

    Args:
        store: the store's folder.
        recipe: what is to be made.
        documents: all that it is to be made of.
        entries: index entries by key.
        redo: make everything anew.
        dry: remove nothing.

    Raises:
        ValueError: what is there was made by another model or with other settings.
    """
    done: dict[tuple[str, int], tuple[tuple[int, str], ...]] = {}
    for path in parts_of(store, recipe.kind):
        part = None if redo else whole_part(path)
        if part is None:
            if not dry:
                path.unlink()
            continue
        if part.facts != _plain(recipe.facts):
            raise ValueError(f"{path.parent}: {_difference(recipe.kind, part.facts, recipe.facts)}")
        done.update({(task, doc_id): samples for task, doc_id, samples in part.documents})
    left = [d for d in documents if done.get(d.keys[0][:2]) != samples_of(d.keys, entries)]
    wanted, different = 0, set()
    for document in left:
        wants = recipe.wants(document)
        wanted += len(wants)
        different.update(map(hash, wants))
    return Work(recipe, left, len(documents) - len(left), wanted, len(different))


def _plain(facts: Mapping[str, Any]) -> Any:
    """As JSON gives them back."""
    return json.loads(json.dumps(facts))


def _difference(kind: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    name = next(n for n in (*now, *before) if before.get(n) != _plain(now).get(n))
    return (
        f"its {kind} was made with {name}={before.get(name)}, and {now.get(name)} is asked for; "
        "pass --redo to make it anew, or the same as before"
    )


def make(
    store: Path,
    todo: Work,
    entries: Mapping[Key, Mapping[str, Any]],
    progress: Callable[[int], object],
    *,
    seconds: float = PART_SECONDS,
) -> None:
    """Do what is left, part by part; `progress` is called with the number of documents that were done.

    Raises:
        ValueError: the model gives values that are not finite.
        OSError: a part cannot be written.
    """
    pending: list[Made] = []
    since = time.monotonic()
    try:
        for group, known in _groups(todo):
            for document in group:
                values = tuple(todo.recipe.put(document, known.__getitem__))
                pending.append(Made(*document.keys[0][:2], samples_of(document.keys, entries), values))
            size = sum(value.numel() * 4 for one in pending for value in one.values)
            if size >= PART_BYTES or time.monotonic() - since >= seconds:
                write_part(store, todo.recipe.kind, pending, todo.recipe.facts, versions())
                pending, since = [], time.monotonic()
            progress(len(group))
    finally:  # also what was made before an error or Ctrl-C
        if pending:
            write_part(store, todo.recipe.kind, pending, todo.recipe.facts, versions())


def _groups(todo: Work) -> Iterator[tuple[list[Document], dict[Any, Tensor]]]:
    """Documents some at a time, with the answers to all that they want."""
    known: dict[Any, Tensor] = {}
    group: list[Document] = []
    new: dict[Any, None] = {}
    for number, document in enumerate(todo.documents, 1):
        group.append(document)
        new.update(dict.fromkeys(want for want in todo.recipe.wants(document) if want not in known))
        if len(new) >= GROUP or len(group) >= GROUP or number == len(todo.documents):
            things = list(new)
            known.update(zip(things, todo.recipe.ask(things) if things else ()))
            yield group, known
            group, new = [], {}
            if sum(value.numel() for value in known.values()) * 4 > REMEMBERED:
                known = {}
