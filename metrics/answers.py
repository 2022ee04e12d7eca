"""What a task's own filter reads in each recorded answer, and which tokens hold it.

lm-eval's filters turn a generated text into the answer that is judged. Here every sample is read by itself, so a filter
that selects among the samples of a document (`take_first`, `majority_vote`) has nothing to do. Equal readings are equal
answers; the tokens of a reading are the span ``exact``, those of the answer before it the span ``reasoning``.
"""

from __future__ import annotations

import re
import string
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

from metrics import providers
from metrics.labels import Labels
from metrics.pieces import Decode, NoTokenizer, find_tokenizer, open_tokenizer
from metrics.places import Tiles, end_before, reach, same_place, tokens_of
from metrics.record import Key, Record, Span
from metrics.results import Steps
from metrics.samples import GENERATED

FROM_FILTER = ("exact", "reasoning")
"""The spans that come from a filter's reading."""

UNMAPPED = "unmapped"
"""The column of a frame of scores that says why a unit has no such span."""

NOT_GENERATED = "not generated text, so no filter reads it"
NO_TEXT = "no text of the answer is stored"
UNKNOWN = "no result file of lm-eval names the task's filter"
LOST = "the tokens do not spell the answer"
NOT_READ = "the filter cannot be applied here, and its reading is not in the log"
ABSENT = "the filtered answer is not in the text"
EMPTY = "the filtered answer is empty"
UNMATCHED = "the filter matched nothing"
NO_TOKENIZER = "no tokenizer of the model is at hand, so the answer's tokens are not known"
"""Why a record has no such span."""


@dataclass(frozen=True)
class Answers:
    """What was read in the answers of a store, and where."""

    values: Mapping[Key, str] = field(default_factory=dict)
    spans: Mapping[Key, Mapping[str, Span]] = field(default_factory=dict)
    unmapped: Mapping[Key, str] = field(default_factory=dict)
    """Why a record has no such spans."""


class Reading(NamedTuple):
    """What a filter makes of a text: a value, and the characters ``[start, stop)`` of the text that it comes from."""

    value: str
    start: int = 0
    stop: int = 0
    why: str = ""
    """Why it comes from no characters of the text; empty where it does."""


Read = Callable[[Steps, Sequence[str], Sequence[Mapping[str, Any]]], list[Reading]]
"""Applies a filter to texts, each with its document; a ValueError says why it cannot be applied."""


def answers_of(
    entries: Mapping[Key, Mapping[str, Any]],
    labels: Labels | None,
    filter: str | None,
    *,
    manifest: Mapping[str, Any],
    fetch: Callable[[Sequence[str], Iterable[Key]], Iterable[Record]] | None,
) -> Answers:
    """What the tasks' filters read in the answers of a store and, with `fetch`, which tokens hold it.

    Args:
        entries: index entries by key.
        labels: as of `read_answers`.
        filter: as of `read_answers`.
        manifest: the store's, which tells where the tokenizer may be.
        fetch: reads records with the named signals.

    Raises:
        ValueError: no task has a filter of that name.
    """
    texts = {k: e["answer"] for k, e in entries.items() if k.kind == GENERATED and isinstance(e["answer"], str)}
    readings = read_answers(texts, labels, filter, providers.load("answers")) if texts else {}
    values = {key: reading.value for key, reading in readings.items()}
    if fetch is None:
        return Answers(values)
    rest = {key: NO_TEXT if key.kind == GENERATED else NOT_GENERATED for key in entries if key not in texts}
    found = [key for key, reading in readings.items() if not reading.why]
    try:
        decode, _ = open_tokenizer(find_tokenizer(manifest))
    except NoTokenizer:
        without = {key: reading.why or NO_TOKENIZER for key, reading in readings.items()}
        return Answers(values, unmapped={**rest, **without})
    spans, unmapped = map_answers(readings, fetch(["tokens"], found), decode)
    return Answers(values, spans, {**rest, **unmapped})


def read_answers(texts: Mapping[Key, str], labels: Labels | None, filter: str | None, read: Read) -> dict[Key, Reading]:
    """What the tasks' filters read in these texts.

    By the named filter, or the first of a task that has none of that name. Where the result of the run is not known,
    or the filter is a Python function, the reading is the whole text; in the second case the logged reading is looked
    for in the text. What is read is compared with what lm-eval logged, and a warning counts what differs.

    Args:
        texts: the recorded answers.
        labels: with the settings of the tasks, their documents and what was logged; None where nothing is known.
        filter: a filter's name.
        read: applies a filter.

    Raises:
        ValueError: no task has a filter of that name.
    """
    filters = labels.settings.filters if labels is not None else {}
    by_task: dict[str, list[Key]] = {}
    for key in texts:
        by_task.setdefault(key.task, []).append(key)
    names = {name for task in by_task for name in filters.get(task, {})}
    if filter is not None and filter not in names:
        raise ValueError(f"filter '{filter}' is not known; the results have {', '.join(sorted(names)) or 'none'}")
    found: dict[Key, Reading] = {}
    for task, keys in by_task.items():
        if labels is None or task not in filters:
            found.update((key, Reading(texts[key].strip(), why=UNKNOWN)) for key in keys)
            continue
        name = filter if filter is not None and filter in filters[task] else next(iter(filters[task]))
        logged = labels.filtered.get((task, name), {})
        found.update(_read_task({key: texts[key] for key in keys}, labels, name, filters[task][name], logged, read))
    return found


def _read_task(
    texts: Mapping[Key, str], labels: Labels, name: str, steps: Steps, logged: Mapping[int, Any], read: Read
) -> dict[Key, Reading]:
    task = next(iter(texts)).task
    documents = [labels.documents.get((task, key.doc_id), {}) for key in texts]
    try:
        found = dict(zip(texts, read(steps, list(texts.values()), documents)))
    except ValueError as problem:
        warnings.warn(f"{task}: filter '{name}': {problem}; whole answers are compared", stacklevel=5)
        return {key: _logged(text, logged.get(key.doc_id), key) for key, text in texts.items()}
    options = labels.settings.exact_match.get(task, {})
    differ = _differing(found, logged, any(step.get("function") == "majority_vote" for step in steps))
    if differ:
        warnings.warn(
            f"{task}: filter '{name}' reads {differ} of {len(logged)} answers otherwise than lm-eval logged them; "
            "another version of lm-eval, or answers that were changed",
            stacklevel=5,
        )
    return {key: reading._replace(value=canonical(reading.value, options)) for key, reading in found.items()}


def _logged(text: str, value: Any, key: Key) -> Reading:
    """The whole text, at the place of the logged reading."""
    if value is None or key.occurrence > 0:
        return Reading(text.strip(), why=NOT_READ)
    return locate(text, as_text(_first(value)))._replace(value=text.strip())


def locate(text: str, value: str) -> Reading:
    """A reading of this value at its last place in the text, white space at its ends aside."""
    wanted = value.strip()
    start = text.rfind(wanted)
    if not wanted or start < 0:
        return Reading(value, why=EMPTY if not wanted else ABSENT)
    return Reading(value, start, start + len(wanted))


def _differing(found: Mapping[Key, Reading], logged: Mapping[int, Any], vote: bool) -> int:
    """How many documents were read otherwise than logged: their first sample, or with a vote all samples."""
    own: dict[int, set[str]] = {}
    for key, reading in found.items():
        if vote or key.occurrence == 0:
            own.setdefault(key.doc_id, set()).add(reading.value)
    return sum(as_text(_first(logged[doc])) not in values for doc, values in own.items() if doc in logged)


def _first(value: Any) -> Any:
    """The first sample's, where a filter keeps several."""
    return value[0] if isinstance(value, list) and value else value


def as_text(value: Any) -> str:
    """A filter's value as a text; most are."""
    return value if isinstance(value, str) else str(value)


def canonical(value: str, options: Mapping[str, Any]) -> str:
    """What lm-eval's exact_match compares under its options, without white space at the ends.

    In its order: `regexes_to_ignore` removed, then `ignore_case`, `ignore_punctuation`, `ignore_numbers`.
    """
    for pattern in options.get("regexes_to_ignore") or ():
        value = re.sub(pattern, "", value)
    if options.get("ignore_case"):
        value = value.lower()
    if options.get("ignore_punctuation"):
        value = value.translate(str.maketrans("", "", string.punctuation))
    if options.get("ignore_numbers"):
        value = value.translate(str.maketrans("", "", string.digits))
    return value.strip()


def spans_of(ids: Sequence[int], text: str, reading: Reading, tiles: Sequence[Tiles]) -> dict[str, Span] | None:
    """The spans ``exact`` and ``reasoning`` among the tokens of an answer, None where they do not spell its text.

    ``exact`` is the smallest range of tokens that holds what was read. ``reasoning`` begins with the answer and holds
    the text before it, without the white space in between; it has no tokens where there is none. A token that holds
    text of both belongs to both. White space is not compared, since a text decoded elsewhere may have more or less.

    Args:
        ids: the answer's tokens.
        text: the answer.
        reading: what was read in it.
        tiles: ways to spell ids, the first that gives the text counts.
    """
    for way in tiles:
        if found := way.find(ids, text, reading.start, reading.stop):
            return dict(zip(FROM_FILTER, found))
    for way in tiles:
        whole = way.spell(ids)
        place = same_place(text, reading.start, reading.stop, whole)
        if place is not None:
            before = reach(ids, whole, end_before(whole, place[0]), way.spell) if text[: reading.start].strip() else 0
            return {"exact": tokens_of(ids, whole, *place, way.spell), "reasoning": Span(0, before)}
    return None


def ways(decode: Decode) -> list[Tiles]:
    """How an answer may be spelled: without special tokens, as lm-eval decodes most, or with them."""
    return [Tiles(partial(decode, special=special)) for special in (False, True)]


def map_answers(
    readings: Mapping[Key, Reading], records: Iterable[Record], decode: Decode
) -> tuple[dict[Key, dict[str, Span]], dict[Key, str]]:
    """The spans of records in which something was read, and why the others have none.

    Args:
        readings: by record.
        records: with the signal ``tokens``, in any order.
        decode: of the tokenizer that made them.
    """
    spans: dict[Key, dict[str, Span]] = {}
    tiles = ways(decode)
    unmapped = {key: reading.why for key, reading in readings.items() if reading.why}
    for record in records:
        reading = readings[record.key]
        if reading.why:
            continue
        if "answer" not in record.spans or "tokens" not in record.signals:
            unmapped[record.key] = "the record has no answer" if "answer" not in record.spans else "no tokens are kept"
            continue
        start, stop = record.spans["answer"]
        found = spans_of(record.signals["tokens"][start:stop].tolist(), record.answer, reading, tiles)
        if found is None:
            unmapped[record.key] = LOST
        else:
            spans[record.key] = {name: Span(start + a, start + b) for name, (a, b) in found.items()}
    return spans, unmapped
