"""Labels: verdicts joined to records by key."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from metrics.record import Key
from metrics.results import Settings
from metrics.verdicts import LabelName, Verdict


@dataclass
class Labels:
    """Verdicts joined to records.

    `values` maps a label name to (task, doc_id) to value; `unused` counts verdicts without a record, by reason, and
    `skipped` names lm-eval metrics that are not one number a document.
    """

    values: dict[LabelName, dict[tuple[str, int], float]]
    fields: dict[tuple[str, int], Mapping[str, Any]]
    unused: Counter[str]
    skipped: Counter[str]
    settings: Settings = field(default_factory=lambda: Settings())
    documents: dict[tuple[str, int], Mapping[str, Any]] = field(default_factory=dict)
    """The documents themselves, by (task, doc_id)."""
    filtered: dict[tuple[str, str], dict[int, Any]] = field(default_factory=dict)
    """What lm-eval logged as filtered answers, by (task, filter), then doc_id."""


def join(
    verdicts: Iterable[Verdict | LabelName],
    entries: Mapping[Key, Mapping[str, Any]],
    settings: Settings | None = None,
) -> Labels:
    """Match verdicts to recorded documents.

    By task and document number when the document's hash agrees; otherwise by hash, where it names one document of the
    task (with lm-eval's ``--samples`` the log and the requests number documents differently). The logged prompt has to
    be the recorded one, and as many requests have to be recorded as the log shows. What matches nothing is counted, not
    dropped in silence.
    """
    recorded: dict[tuple[str, int], dict[str, Any]] = {}
    by_hash: dict[tuple[str, str], set[int]] = defaultdict(set)
    for key, entry in entries.items():
        document = recorded.setdefault((key.task, key.doc_id), {"doc": entry["doc_hash"], "prompts": set(), "n": set()})
        by_hash[key.task, entry["doc_hash"]].add(key.doc_id)
        document["n"].add((key.kind, key.request))
        if key.request == 0:
            document["prompts"].add(entry["prompt_hash"])
    tasks = {task for task, _ in recorded}
    labels = Labels({}, {}, Counter(), Counter(), settings or Settings())
    for verdict in verdicts:
        if isinstance(verdict, LabelName):
            labels.skipped[str(verdict)] += 1
            continue
        task = verdict.task or (next(iter(tasks)) if len(tasks) == 1 else "")
        doc_id = _document(task, verdict, recorded, by_hash)
        why = _why(task, verdict, doc_id, tasks, recorded)
        if why:
            labels.unused[why] += 1
        else:
            assert doc_id is not None
            labels.values.setdefault(verdict.name, {})[task, doc_id] = verdict.value
            labels.fields[task, doc_id] = verdict.fields
            labels.documents[task, doc_id] = verdict.document
            if verdict.filtered is not None:
                labels.filtered.setdefault((task, verdict.name.filter), {})[doc_id] = verdict.filtered
    return labels


def _document(
    task: str,
    verdict: Verdict,
    recorded: Mapping[tuple[str, int], Mapping[str, Any]],
    by_hash: Mapping[tuple[str, str], set[int]],
) -> int | None:
    at = recorded.get((task, verdict.doc_id))
    if at is not None and (not verdict.doc_hash or at["doc"] == verdict.doc_hash):
        return verdict.doc_id
    same = by_hash.get((task, verdict.doc_hash), set()) if verdict.doc_hash else set()
    return next(iter(same)) if len(same) == 1 else None


def _why(
    task: str,
    verdict: Verdict,
    doc_id: int | None,
    tasks: set[str],
    recorded: Mapping[tuple[str, int], Mapping[str, Any]],
) -> str:
    """Why a verdict cannot be used; empty when it can."""
    if not task:
        return "no task column, and the store holds several tasks"
    if task not in tasks:
        return f"task '{task}' is not in the store"
    if doc_id is None:
        if (task, verdict.doc_id) in recorded:
            return f"{task}: another document was recorded under that number"
        return (
            f"{task}: never reached the model (a harness cache hit), or recording had stopped, or its shard is damaged"
        )
    document = recorded[task, doc_id]
    if verdict.prompt_hash and document["prompts"] and verdict.prompt_hash not in document["prompts"]:
        return f"{task}: recorded with another prompt (few-shot, system prompt or chat template)"
    if len(document["n"]) < verdict.requests:
        return f"{task}: not every option was recorded"
    if math.isnan(verdict.value):
        return f"{task}: the label is NaN"
    return ""
