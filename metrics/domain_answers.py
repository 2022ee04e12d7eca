"""Recorded answers with their questions and labels, as clusters of questions need them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from metrics.cases import LOWER, Case, among, cases, oriented
from metrics.core import Choice
from metrics.domains import Answers
from metrics.logged import Logged, question_of
from metrics.store import Store

LENGTH = "prompt_length"


class Verdict(NamedTuple):
    """Which verdict calls answers right; `none` uses no label."""

    tasks: tuple[str, ...] = ()
    label: str | None = None
    filter: str | None = None
    threshold: float | None = None
    none: bool = False


class Asked(NamedTuple):
    """Answers, their task and number, how many had no question, and where each task's questions come from."""

    answers: Answers
    keys: list[tuple[str, int]]
    lost: int
    sources: dict[str, Counter[str]]


def answers_of(
    store: Store,
    frame: pd.DataFrame,
    choice: Choice,
    verdict: Verdict,
    documents: Sequence[Logged],
    field: str | None = None,
) -> Asked:
    """The first sample of each recorded document, with its question from the log, its score and its label.

    Args:
        store: what was recorded; documents of store and log belong together by lm-eval's hash.
        frame: of the metric and `LENGTH`, with labels where there are any.
        choice: the metric.
        verdict: of which tasks, and what calls them right.
        documents: as logged.
        field: of the documents with the question.

    Raises:
        ValueError: no record is of these tasks or has a question, or a task has several verdicts or a graded one.
    """
    frame = frame.loc[frame["sample"] == 0].drop_duplicates(["task", "doc_id"])
    frame = frame.loc[frame["task"].isin(verdict.tasks)] if verdict.tasks else frame
    if frame.empty:
        raise ValueError(f"--task {', '.join(verdict.tasks) or 'any'}: {store.path} holds no record of it")
    logged = {(one.task, one.doc_hash or str(one.doc_id)): one for one in documents}
    hashes = {(key.task, key.doc_id): entry["doc_hash"] for key, entry in store.entries().items()}
    keys = list(zip(frame["task"], frame["doc_id"]))
    found = [logged.get((task, hashes[task, doc_id] or str(doc_id))) for task, doc_id in keys]
    kept = np.array([one is not None for one in found])
    if not kept.any():
        raise ValueError(f"no question belongs to a record of {store.path}; give the samples of its run by --samples")
    questions = [question_of(one, field) for one in found if one is not None]
    held = [key for key, keep in zip(keys, kept) if keep]
    sources: dict[str, Counter[str]] = {}
    for (task, _), (_, where) in zip(held, questions):
        sources.setdefault(task, Counter())[where] += 1
    made = Answers(
        np.asarray(frame["task"], dtype=str)[kept],
        [text for text, _ in questions],
        oriented(frame[choice.id].to_numpy(dtype=float), choice)[kept],
        frame[LENGTH].to_numpy(dtype=float)[kept],
        _wrong(frame, choice, verdict, keys)[kept],
    )
    return Asked(made, held, int((~kept).sum()), sources)


def _wrong(frame: pd.DataFrame, choice: Choice, verdict: Verdict, keys: Sequence[tuple[str, int]]) -> np.ndarray:
    """1 wrong, 0 right, NaN without a label, by the one binary verdict of each task."""
    wrong: dict[tuple[str, int], float] = {}
    if not verdict.none:
        found = cases(frame, [choice], threshold=verdict.threshold)
        for case in one_a_task([c for c in found if among((), verdict.label, verdict.filter)(c)]):
            assert case.wrong is not None
            wrong |= {(case.task, doc_id): float(bad) for doc_id, bad in zip(case.documents, case.wrong)}
    return np.array([wrong.get(key, np.nan) for key in keys])


def one_a_task(found: Sequence[Case]) -> list[Case]:
    """The one binary verdict of each task.

    Raises:
        ValueError: a task has several, or graded ones only.
    """
    by_task: dict[str, list[Case]] = {}
    for case in found:
        by_task.setdefault(case.task, []).append(case)
    chosen = []
    for task, several in by_task.items():
        binary = [case for case in several if case.wrong is not None]
        if not binary:
            names = ", ".join(case.verdict for case in several)
            raise ValueError(f"{task}: {names} is graded, so no answer is wrong; pass --threshold or --no-labels")
        if len(binary) > 1:
            names = ", ".join(case.label.removesuffix(LOWER) for case in binary)
            raise ValueError(f"{task} has several verdicts, {names}; name one by --label and --filter")
        chosen.append(binary[0])
    return chosen


def read_embeddings(path: Path, keys: Sequence[tuple[str, int]]) -> np.ndarray:
    """Vectors (n, d) of these tasks and documents from an .npz with arrays ``embeddings``, ``doc_id`` and ``task``.

    Raises:
        OSError: it cannot be read.
        ValueError: an array is missing or of another length, or a document has no vector; without ``task``, there are
            several tasks.
    """
    with np.load(path, allow_pickle=False) as held:
        missing = {"embeddings", "doc_id"} - set(held.files)
        if missing:
            raise ValueError(f"{path} lacks {' and '.join(sorted(missing))}; it has {', '.join(held.files)}")
        vectors, numbers = held["embeddings"], held["doc_id"]
        tasks = held["task"] if "task" in held.files else None
    if vectors.ndim != 2 or len(numbers) != len(vectors) or (tasks is not None and len(tasks) != len(vectors)):
        raise ValueError(
            f"{path}: embeddings {vectors.shape} and doc_id {numbers.shape}; give (n, d), and n of the others"
        )
    known = {task for task, _ in keys}
    if tasks is None and len(known) > 1:
        raise ValueError(f"{path} has no array task, and there are several: {', '.join(sorted(known))}")
    names = [str(t) for t in tasks] if tasks is not None else [next(iter(known))] * len(vectors)
    place = {(task, int(number)): i for i, (task, number) in enumerate(zip(names, numbers))}
    lost = [key for key in keys if key not in place]
    if lost:
        raise ValueError(f"{path} lacks {len(lost)} of {len(keys)} documents, the first {lost[0][0]} {lost[0][1]}")
    return vectors[[place[key] for key in keys]]
