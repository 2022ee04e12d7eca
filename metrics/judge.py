"""A language model as judge of answers: what it is asked, what its replies mean, and which documents need no asking.

What is asked is as in the experiments on semantic entropy: in the context of the question, does the proposed answer
mean the same as the expected one, yes or no (Farquhar et al. 2024, Nature 630:625; `model_based_metric` of their code).
Unlike there, a reply has to begin with yes or no: theirs takes a "yes" or "no" anywhere in it ("cannot" holds one), and
calls the rest wrong.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from metrics.answers import UNMATCHED, Read
from metrics.logged import Logged, golds_of, question_of
from metrics.results import Steps

ONE = """\
You check an answer to a question against the expected answer.

Question: {question}
Expected answer: {gold}
Proposed answer: {answer}

In the context of the question, does the proposed answer mean the same as the expected answer?
Reply with yes or no only.
"""

SEVERAL = """\
You check an answer to a question against expected answers, any one of which is right.

Question: {question}
Expected answers:
{gold}
Proposed answer: {answer}

In the context of the question, does the proposed answer mean the same as any of the expected answers?
Reply with yes or no only.
"""

_FIELD = re.compile(r"\{(question|gold|answer)\}")
_VERDICT = re.compile(
    r"[\W_]*(yes|no)(?![^\W_])[\W_]*(?:(?:and|or)(?![^\W_])[\W_]*)?(?:(yes|no)(?![^\W_]))?", re.IGNORECASE
)


class Item(NamedTuple):
    """What is judged: equal items are judged once."""

    question: str
    golds: tuple[str, ...]
    answer: str


@dataclass(frozen=True)
class Wanted:
    """Which texts are judged.

    Attributes:
        question, gold: fields of the documents; None takes `metrics.logged`'s own choice.
        filter: judge what this filter of lm-eval picked; None judges the whole response.
        skip_exact: answers equal to a gold after `normalised` are right without asking.
    """

    question: str | None = None
    gold: str | None = None
    filter: str | None = None
    skip_exact: bool = False


@dataclass(frozen=True)
class Work:
    """What is to be judged, and what needs no judge.

    Attributes:
        asked: documents by item, in their order.
        known: documents whose label is known without asking, with it and the reason: ``empty``,
            ``unmatched`` or ``exact``.
        left_out: documents that cannot be judged, by reason.
        sources: where the questions of each task come from.
    """

    asked: dict[Item, list[Logged]]
    known: list[tuple[Logged, bool, str]]
    left_out: Counter[str]
    sources: dict[str, Counter[str]]


def unmatched(
    documents: Sequence[Logged], filter: str, filters: Mapping[str, Mapping[str, Steps]], read: Read
) -> tuple[set[tuple[str, int]], list[str]]:
    """The documents, by task and number, in which a filter matched nothing, so that what it logged is its fallback.

    Args:
        documents: what was logged.
        filter: the filter's name.
        filters: the steps of the filters of each task.
        read: applies a filter, as of `metrics.answers.read_answers`.

    Returns:
        Them, and a line for each task whose filter cannot be applied here, where what it logged is taken for an answer.
    """
    found: set[tuple[str, int]] = set()
    said: list[str] = []
    for task in dict.fromkeys(one.task for one in documents):
        texts = {one.doc_id: one for one in documents if one.task == task and one.response is not None}
        steps = filters.get(task, {}).get(filter)
        if steps is None or not texts:
            continue
        try:
            readings = read(steps, [one.response or "" for one in texts.values()], [one.doc for one in texts.values()])
        except ValueError as problem:
            said.append(f"{task}: filter '{filter}': {problem}; what it gives where it matches nothing is judged too")
            continue
        pairs = zip(texts.values(), readings, strict=True)
        found |= {
            (task, one.doc_id)
            for one, made in pairs
            if made.why == UNMATCHED and made.value == one.filtered.get(filter)
        }
    return found, said


def make_work(documents: Iterable[Logged], wanted: Wanted, fallbacks: Collection[tuple[str, int]] = ()) -> Work:
    """Sort documents into those to ask about, those known and those left out.

    An empty answer is wrong without asking, and so is a filter's fallback. A document without a text as answer
    (multiple choice), or without gold answer, is left out.

    Args:
        documents: what was logged.
        wanted: which texts are judged.
        fallbacks: task and number of the documents in which the filter matched nothing, from `unmatched`.

    Raises:
        ValueError: no document has been through the filter asked for, or one lacks a field asked for.
    """
    work = Work({}, [], Counter(), {})
    filters: set[str] = set()
    for one in documents:
        filters.update(one.filtered)
        answer = one.response if wanted.filter is None else one.filtered.get(wanted.filter)
        golds = golds_of(one, wanted.gold)
        if wanted.filter is not None and wanted.filter not in one.filtered:
            work.left_out[f"{one.task} has no filter {wanted.filter}"] += 1
        elif answer is None:
            work.left_out[f"{one.task}: the answer is not a text (multiple choice, or a log-likelihood)"] += 1
        elif not golds:
            work.left_out[f"{one.task}: no gold answer"] += 1
        elif not answer.strip():
            work.known.append((one, False, "empty"))
        elif (one.task, one.doc_id) in fallbacks:
            work.known.append((one, False, "unmatched"))
        elif wanted.skip_exact and normalised(answer) in set(map(normalised, golds)):
            work.known.append((one, True, "exact"))
        else:
            question, source = question_of(one, wanted.question)
            work.sources.setdefault(one.task, Counter())[source] += 1
            work.asked.setdefault(Item(question.strip(), golds, answer.strip()), []).append(one)
    if wanted.filter is not None and wanted.filter not in filters:
        raise ValueError(f"no task has the filter '{wanted.filter}'; the samples have {', '.join(sorted(filters))}")
    return work


def normalised(text: str) -> str:
    """Case, spaces, quotes around it and a full stop at its end put aside; "-5" stays another answer than "5"."""
    return " ".join(text.casefold().split()).strip("\"'“”‘’`").rstrip(".") or text.strip()


def check_template(template: str, name: str) -> str:
    """A template that names at least ``{gold}`` and ``{answer}``, returned as it is.

    Raises:
        ValueError: it does not.
    """
    missing = [f"{{{f}}}" for f in ("gold", "answer") if f"{{{f}}}" not in template]
    if missing:
        known = "{question}, {gold} and {answer}"
        raise ValueError(f"{name} lacks {' and '.join(missing)}; the fields of a prompt are {known}")
    return template


def prompt_of(item: Item, template: str | None = None) -> str:
    """The text that asks about an item; several gold answers stand one a line. Braces in the texts stay as they are."""
    several = len(item.golds) > 1
    gold = "\n".join(f"- {g}" for g in item.golds) if several else item.golds[0]
    texts = {"question": item.question, "gold": gold, "answer": item.answer}
    return _FIELD.sub(lambda found: texts[found[1]], template or (SEVERAL if several else ONE))


def verdict(reply: str) -> bool | None:
    """True for a reply that begins with yes, False for no, None for any other, such as "yes and no" or "not quite"."""
    found = _VERDICT.match(reply)
    if found is None or (found[2] and found[2].lower() != found[1].lower()):
        return None
    return found[1].lower() == "yes"


def key_of(model: str, prompt: str, settings: Mapping[str, Any]) -> str:
    """What a reply is kept under: SHA-256 of the model, the prompt and the settings of the request."""
    text = json.dumps([model, prompt, settings], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def label_rows(work: Work, replies: Mapping[Item, str], judge: str) -> tuple[list[dict[str, Any]], Counter[str]]:
    """One row a labelled document, in the order of task and number, and the unclear replies by what they say.

    Columns: task, doc_id, doc_hash, correct (0 or 1), by (``judge``, ``empty``, ``unmatched`` or ``exact``), judge.
    """
    found: list[tuple[Logged, bool, str]] = list(work.known)
    unclear: Counter[str] = Counter()
    for item, documents in work.asked.items():
        if item not in replies:
            continue
        decided = verdict(replies[item])
        if decided is None:
            unclear[replies[item]] += len(documents)
        else:
            found += [(one, decided, "judge") for one in documents]
    found.sort(key=lambda row: (row[0].task, row[0].doc_id))
    rows = [
        {"task": one.task, "doc_id": one.doc_id, "doc_hash": one.doc_hash, "correct": int(right), "by": by}
        for one, right, by in found
    ]
    return [{**row, "judge": judge} for row in rows], unclear
