"""Scores made elsewhere, by a probe or by somebody else's method, as metrics beside ours.

A file has one row a document, or a sample of it: columns ``doc_id``, ``task`` where there are several, ``sample`` (0 if
absent), and any number of columns of scores, of which a high one means uncertain. A column that has the name of one of
our metrics, as in what `eval-ext score` writes, has that metric's direction.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from metrics.answers import UNMAPPED
from metrics.choosing import choose
from metrics.core import Choice, Metric, metrics

TAKES = "takes"
"""The column that says what a score of the file takes: ``1 answer + pass``."""

NAMES = ("task", "doc_id", "sample", "option", "kind", UNMAPPED, TAKES)
"""Columns that say whose the scores are, or which `eval-ext score` writes beside them."""

BESIDE = ("label:", "doc:")
"""What names of further columns that are no scores begin with."""


@dataclass(frozen=True)
class Outside:
    """A column of a file: scores by (task, document, sample); a task of "" stands for the only one there is."""

    path: Path
    scores: Mapping[tuple[str, int, int], float]
    takes: str = ""
    """What such a score takes, where the file says so."""

    def __call__(self, *_: Any) -> float:
        """No signal gives such a score.

        Raises:
            TypeError: always; `column` looks it up.
        """
        raise TypeError(f"scores of {self.path} are looked up, not computed")

    def column(self, frame: pd.DataFrame) -> list[float]:
        """The scores of a frame's rows, NaN where the file has none.

        Raises:
            ValueError: the file names no task, and the frame holds several; or it has no score of any row.
        """
        tasks = sorted(set(frame["task"]))
        unnamed = any(task == "" for task, _, _ in self.scores)
        if unnamed and len(tasks) > 1:
            raise ValueError(f"{self.path} has no column task, and there are several: {', '.join(tasks)}; add it")
        rows = zip(frame["task"], frame["doc_id"], frame["sample"])
        found = [self.scores.get(("" if unnamed else task, doc, sample), math.nan) for task, doc, sample in rows]
        if all(map(math.isnan, found)):
            theirs = ", ".join(sorted({task for task, _, _ in self.scores} - {""})) or "none named"
            raise ValueError(f"{self.path} has no score of these documents, of {', '.join(tasks)}; its tasks: {theirs}")
        return found


def read_scores(path: Path) -> list[Choice[Metric]]:
    """Each column of scores as a metric without needs; one that has the name of ours gets the file's behind it, and the
    direction of ours.

    Raises:
        ValueError: no column doc_id, none of scores, a value that is no number, or a document twice.
        OSError: the file cannot be read.
    """
    frame = _read(path)
    if "doc_id" not in frame:
        raise ValueError(f"{path}: no column doc_id; it has {', '.join(map(str, frame.columns))}")
    names = [str(c) for c in frame.columns if c not in NAMES and not str(c).startswith(BESIDE)]
    if not names:
        raise ValueError(f"{path}: no column of scores beside {', '.join(map(str, frame.columns))}")
    keys = _keys(path, frame)
    takes = str(frame[TAKES].iloc[0]) if TAKES in frame and len(frame) else ""
    made = []
    for name in names:
        try:
            values = frame[name].astype(float).tolist()
        except (ValueError, TypeError):
            raise ValueError(f"{path}: column {name} holds a value that is no number; leave the column out") from None
        ours = _ours(name)
        called, higher = (f"{name}@{path.stem}", ours.higher) if ours else (name, "uncertain")
        compute = Outside(path, dict(zip(keys, values)), takes)
        made.append(Choice(Metric(called, (), {}, higher, "1", str(path), compute, f"From {path}.")))
    return made


def _ours(name: str) -> Metric | None:
    """The metric of ours that a column is named after, by name or id, as in ``min_k(share=0.1)``."""
    if name in metrics():
        return metrics()[name]
    try:
        (choice,) = choose(name)
    except ValueError:  # no metric of ours, or a word for several
        return None
    return choice.metric


def _read(path: Path) -> pd.DataFrame:
    if path.suffix not in (".csv", ".jsonl"):
        raise ValueError(f"{path}: the ending must be .csv or .jsonl")
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; give a csv or jsonl of scores")
    try:
        return pd.read_csv(path) if path.suffix == ".csv" else pd.read_json(path, lines=True)
    except (ValueError, pd.errors.ParserError) as problem:
        raise ValueError(f"{path} is not a {path.suffix} file ({problem})") from None


def _keys(path: Path, frame: pd.DataFrame) -> list[tuple[str, int, int]]:
    tasks: Sequence[Any] = frame["task"].tolist() if "task" in frame else [""] * len(frame)
    samples: Sequence[Any] = frame["sample"].tolist() if "sample" in frame else [0] * len(frame)
    try:
        numbers = [(float(d), float(s)) for d, s in zip(frame["doc_id"].tolist(), samples)]
        if any(d != int(d) or s != int(s) for d, s in numbers):
            raise ValueError
        keys = [(str(t), int(d), int(s)) for t, (d, s) in zip(tasks, numbers)]
    except (ValueError, TypeError, OverflowError):
        raise ValueError(f"{path}: doc_id and sample must be whole numbers") from None
    key, count = next(iter(Counter(keys).most_common(1)), (("", 0, 0), 0))
    if count > 1:
        task = f"{key[0]}, " if key[0] else ""
        raise ValueError(f"{path}: {task}document {key[1]}, sample {key[2]} stands there {count} times; keep one")
    return keys


def is_outside(choice: Choice[Any]) -> bool:
    """Whether a metric's scores come from a file."""
    return isinstance(choice.metric.compute, Outside)


def join(frame: pd.DataFrame, chosen: Sequence[Choice[Any]]) -> pd.DataFrame:
    """A frame of scores with the columns of those metrics whose scores come from files."""
    attrs = {**frame.attrs, "unscored": dict(frame.attrs.get("unscored", {}))}
    columns = {}
    for choice in chosen:
        if isinstance(made := choice.metric.compute, Outside):
            columns[choice.id] = made.column(frame)
            missing = sum(map(math.isnan, columns[choice.id]))
            if missing:
                attrs["unscored"][choice.id] = {f"no score in {made.path}": missing}
    joined = pd.concat([frame, pd.DataFrame(columns, index=frame.index)], axis=1)
    joined.attrs = attrs
    return joined
