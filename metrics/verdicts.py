"""Right or wrong, document by document, as lm-eval's logged samples or a table of labels say it."""

from __future__ import annotations

import csv
import json
import math
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from metrics.logged_lines import BROKEN, lines_of
from metrics.results import NoSamples, say_missing


class LabelName(NamedTuple):
    """Which verdict: lm-eval's metric and the filter that picked the scored text."""

    metric: str
    filter: str

    def __str__(self) -> str:
        return f"{self.metric}@{self.filter}"


@dataclass(frozen=True)
class Verdict:
    """One document's label: 1.0 right, 0.0 wrong, or a grade in between or beyond."""

    task: str
    doc_id: int
    name: LabelName
    value: float
    doc_hash: str = ""
    prompt_hash: str = ""
    requests: int = 0
    """How many requests the document made, where the log says so."""
    fields: Mapping[str, Any] = field(default_factory=dict)
    """The document's own scalar fields, for strata such as a cause of error."""
    document: Mapping[str, Any] = field(default_factory=dict)
    """The whole document."""
    filtered: Any = None
    """What the filter made of the first request's response; None where the log does not say."""


def read_samples(paths: Iterable[Path]) -> Iterator[Verdict | LabelName]:
    """Verdicts of lm-eval sample files; a metric that is not one number a document comes as its bare name.

    A last line that is broken off, as after a full disk, is left out with a warning; so are documents that the result
    file counts and the file lacks.
    """
    for path in paths:
        documents = set[Any]()
        task = path.stem.removeprefix("samples_").rsplit("_", 1)[0]
        for line in lines_of(path):
            if line.broken:
                warnings.warn(f"{path}: {BROKEN}", stacklevel=2)
            else:
                yield from _verdicts(task, line.sample, line.where)
                documents.add(line.sample["doc_id"])
        say_missing(path, task, len(documents))


def read_results(results: Mapping[str, Any]) -> Iterator[Verdict | LabelName]:
    """Verdicts of what `lm_eval.simple_evaluate` returns.

    Raises:
        NoSamples: it was called with log_samples=False.
    """
    if not results.get("samples"):
        raise NoSamples("the results hold no samples; call simple_evaluate with log_samples=True")
    for task, samples in results["samples"].items():
        for number, sample in enumerate(samples):
            yield from _verdicts(task, sample, f"samples of {task}, number {number}")


def _lines(path: Path) -> Iterator[str]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            yield from file
    except UnicodeDecodeError as problem:
        raise ValueError(f"{path} is not a UTF-8 text ({problem}); give lm-eval's samples, a jsonl or a csv") from None


def _verdicts(task: str, sample: Any, where: str) -> Iterator[Verdict | LabelName]:
    try:
        doc_id, metrics = int(sample["doc_id"]), list(sample.get("metrics", ()))
        requests = len(sample.get("arguments", ()))
    except (ValueError, KeyError, TypeError, AttributeError) as problem:
        raise ValueError(f"{where}: not a logged sample of lm-eval ({problem})") from None
    document = sample["doc"] if isinstance(sample.get("doc"), dict) else {}
    fields = {k: v for k, v in document.items() if isinstance(v, (str, int, float, bool))}
    hashes = sample.get("doc_hash", ""), sample.get("prompt_hash", "")
    logged = sample.get("filtered_resps")
    filtered = logged[0] if isinstance(logged, list) and logged else None
    for metric in metrics:
        name = LabelName(metric, sample.get("filter", "none"))
        value = sample.get(metric)
        if isinstance(value, (bool, int, float)):
            yield Verdict(task, doc_id, name, float(value), *hashes, requests, fields, document, filtered)
        else:
            yield name


def read_table(path: Path) -> Iterator[Verdict]:
    """Verdicts of a jsonl or csv file with columns ``doc_id`` and ``correct`` (or ``label``), and ``task`` if several.

    With a column ``doc_hash``, lm-eval's, a label is only taken for the document of that hash.

    Raises:
        ValueError: a column is missing, or a value is no number.
    """
    rows = list(csv.DictReader(_lines(path))) if path.suffix == ".csv" else list(_json_rows(path))
    for number, row in enumerate(rows, 1):
        column = next((c for c in ("correct", "label") if c in row), None)
        if column is None or "doc_id" not in row:
            raise ValueError(
                f"{path}, row {number}: columns doc_id and correct are needed; found {', '.join(map(str, row))}"
            )
        value = {"true": 1.0, "false": 0.0}.get(str(row[column]).strip().lower(), row[column])
        try:
            number_ = float(value)
            doc_id = int(str(row["doc_id"]))
        except (TypeError, ValueError):
            raise ValueError(
                f"{path}, row {number}: doc_id={row['doc_id']!r}, {column}={row[column]!r}: not numbers"
            ) from None
        if not math.isfinite(number_):
            raise ValueError(
                f"{path}, row {number}: {column} is {number_}; leave the row out when the label is unknown"
            )
        hashed = str(row.get("doc_hash") or "")
        yield Verdict(str(row.get("task") or ""), doc_id, LabelName(column, path.name), number_, hashed)


def _json_rows(path: Path) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(_lines(path), 1):
        if line.strip():
            try:
                row = json.loads(line)
            except ValueError as problem:
                raise ValueError(
                    f"{path}, line {number}: not JSON ({problem}); give a jsonl or csv of labels"
                ) from None
            if not isinstance(row, dict):
                raise ValueError(f"{path}, line {number}: not an object with doc_id and correct")
            yield row
