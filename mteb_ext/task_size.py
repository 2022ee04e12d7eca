"""How many texts a task encodes, from the statistics MTEB ships, without loading its data."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mteb.abstasks import AbsTask, AbsTaskClassification, AbsTaskClustering
from mteb.abstasks.aggregated_task import AbsTaskAggregate
from mteb.abstasks.regression import AbsTaskRegression

from tasks.embedding import FOLDERS, data_folder

Statistics = Mapping[str, Any]


@dataclass(frozen=True)
class TaskSize:
    """What one model encodes for one evaluation of a task.

    Attributes:
        texts: number of texts; None where no statistics ship with MTEB.
        characters: their length together.
        unique: each text of a column is counted once; otherwise rows are counted, for want of that number. A text
            that occurs in two columns, or in two subsets, counts twice in either case, so `texts` is an upper bound
            of the number of distinct texts, but for the training rows, of which it is the expected number.
    """

    texts: int | None
    characters: int | None
    unique: bool


def describe(task: AbsTask) -> TaskSize:
    """Estimate the size of `task` on its splits and subsets.

    A classifier reads the whole of the split that is scored, and of the training split only the rows that one of its
    E experiments draws: k of the c rows of a label each time, so c (1 - (1 - k/c)^E) are expected to be drawn at all.
    """
    if isinstance(task, AbsTaskAggregate):
        return _together([describe(part) for part in task.metadata.tasks])
    statistics = task.metadata.descriptive_stats or _shipped(task.metadata.name)
    columns: list[_Column] = []
    for split in task.eval_splits:
        for subset in task.hf_subsets:
            block = _block(task, statistics, split, subset)
            found = [_cut(task, column) for column in _columns(block)]
            if isinstance(task, AbsTaskClassification) and split != task.train_split:
                train = _block(task, statistics, task.train_split, subset)
                found += [_drawn(task, train, column) for column in _columns(train)] or [None]
            columns += [column for column in found if column]
            if not found or None in found:
                return TaskSize(None, None, False)
    characters = sum(column.texts * column.length for column in columns)
    return TaskSize(round(sum(c.texts for c in columns)), round(characters), all(c.unique for c in columns))


def _together(parts: Sequence[TaskSize]) -> TaskSize:
    texts = [part.texts for part in parts if part.texts is not None]
    characters = [part.characters for part in parts if part.characters is not None]
    if not parts or len(texts) < len(parts):
        return TaskSize(None, None, False)
    return TaskSize(sum(texts), sum(characters), all(part.unique for part in parts))


@dataclass(frozen=True)
class _Column:
    """Number of texts in one column, their mean length, and whether each is counted once."""

    texts: float
    length: float
    unique: bool


def _block(task: AbsTask, statistics: Statistics, split: str, subset: str) -> Statistics:
    """The statistics of one split of one subset; empty where there are none."""
    block = statistics.get(split) or {}
    if task.metadata.is_multilingual:
        return (block.get("hf_subset_descriptive_stats") or {}).get(subset) or {}
    return block


def _columns(block: Statistics) -> list[_Column]:
    columns = []
    for part in block.values():
        if isinstance(part, Mapping) and part.get("average_text_length") is not None:
            unique = part.get("unique_texts")
            rows = block.get("num_samples", 0) if unique is None else unique
            columns.append(_Column(rows, part["average_text_length"], unique is not None))
    return columns


def _cut(task: AbsTask, column: _Column) -> _Column:
    """The column after the sampling that MTEB's clustering does before it encodes."""
    if not isinstance(task, AbsTaskClustering):
        return column
    share, most = task.max_fraction_of_documents_to_embed, task.max_document_to_embed
    limit = column.texts if share is None and most is None else most if share is None else int(share * column.texts)
    return _Column(min(column.texts, limit or 0), column.length, column.unique)


def _drawn(task: AbsTaskClassification, train: Statistics, column: _Column) -> _Column | None:
    """The rows of the training split that some experiment draws; None where labels are not counted."""
    times = task.n_experiments
    if isinstance(task, AbsTaskRegression):
        return _Column(min(column.texts, task.n_samples * times), column.length, column.unique)
    labels = (train.get("label_statistics") or {}).get("labels")
    if not labels:
        return None
    counts = [label["count"] for label in labels.values() if label["count"]]
    expected = sum(c * (1 - (1 - min(task.samples_per_label, c) / c) ** times) for c in counts)
    return _Column(min(column.texts, expected), column.length, column.unique)


def _shipped(name: str) -> Statistics:
    """The statistics of a task of `tasks.embedding` in MTEB's form; empty for any other."""
    if name not in FOLDERS:
        return {}
    found = {}
    for path in data_folder(name).glob("*.jsonl"):
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        found[path.stem] = _counted(
            [row["text" if "text" in row else "sentences"] for row in rows],
            [row["label" if "label" in row else "labels"] for row in rows],
        )
    return found


def _counted(texts: Sequence[str], labels: Sequence[str | int]) -> Statistics:
    total = sum(map(len, texts))
    lengths = {"total_text_length": total, "average_text_length": total / len(texts), "unique_texts": len(set(texts))}
    counts = {str(label): {"count": count} for label, count in Counter(labels).items()}
    return {"num_samples": len(texts), "text_statistics": lengths, "label_statistics": {"labels": counts}}
