"""Scores and labels side by side in a pandas DataFrame."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import pandas as pd

from metrics import labels as labels_
from metrics.core import choose
from metrics.record import Key, Record
from metrics.score import score, units


class Readable(Protocol):
    """What scoring needs of a store."""

    path: Path
    manifest: dict[str, Any]

    def entries(self) -> dict[Key, dict[str, Any]]: ...  # noqa: D102

    def records(self, signals: Sequence[str] = (), keys: Iterable[Key] | None = None) -> Iterator[Record]: ...  # noqa: D102


def score_frame(
    store: Readable,
    metrics: str | Iterable[str] = "standard",
    *,
    labels: str | Path | None = None,
    span: str = "answer",
    norm: str = "none",
) -> pd.DataFrame:
    """See `metrics.store.Store.scores`."""
    entries = store.entries()
    table = score(units(entries, norm=norm), choose(metrics), store.records, span=span)
    columns: dict[str, Any] = {
        "task": [u.key.task for u in table.units],
        "doc_id": [u.key.doc_id for u in table.units],
        "sample": [u.key.occurrence for u in table.units],
        "option": [u.key.request for u in table.units],
        "kind": [u.kind for u in table.units],
        **table.values,
    }
    frame = pd.DataFrame(columns)
    frame.attrs["unscored"] = {name: dict(reasons) for name, reasons in table.unscored.items() if reasons}
    found = find_labels(store, labels)
    if found is not None:
        add_labels(frame, found)
    return frame


def find_labels(store: Readable, source: str | Path | None) -> labels_.Labels | None:
    """Labels from `source`, or from the result file that the manifest points at; None when there is neither.

    Raises:
        FileNotFoundError: the source does not exist.
        metrics.labels.NoSamples: the source is a result without samples.
    """
    if source is None:
        linked = [run["results"] for run in store.manifest["runs"] if run.get("results")]
        existing = [path for path in map(Path, linked) if path.is_file()]
        if not existing:
            return None
        verdicts, lacking = [], []
        for path in dict.fromkeys(existing):
            try:
                verdicts.extend(labels_.read_samples(labels_.samples_of(path)))
            except labels_.NoSamples as problem:
                lacking.append(str(problem))
        for problem in lacking:
            warnings.warn(problem, stacklevel=4)
        if len(lacking) == len(set(existing)):
            return None
        return labels_.join(verdicts, store.entries())
    path = Path(source)
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; give lm-eval's output folder or a jsonl or csv of labels")
    if path.is_dir() or path.suffix == ".json":
        verdicts = labels_.read_samples(labels_.samples_of(labels_.find_results(path)))
    elif path.name.startswith("samples_"):
        verdicts = labels_.read_samples([path])
    else:
        verdicts = labels_.read_table(path)
    return labels_.join(verdicts, store.entries())


def add_labels(frame: pd.DataFrame, found: labels_.Labels) -> None:
    """Add a column ``label:METRIC@FILTER`` for each label, and ``doc:FIELD`` for each scalar field of the documents.

    lm-eval judges a document once, on its first sample unless a filter says otherwise; further samples are unlabelled.
    """
    keys = list(zip(frame["task"], frame["doc_id"]))
    first = frame["sample"] == 0
    for name, values in found.values.items():
        frame[f"label:{name}"] = pd.Series([values.get(k) for k in keys], dtype="float64").where(first)
    names = {field for fields in found.fields.values() for field in fields}
    for field in sorted(names):
        frame[f"doc:{field}"] = [_field(found.fields, key, field) for key in keys]
    frame.attrs["unused_labels"] = dict(found.unused)
    frame.attrs["skipped_labels"] = dict(found.skipped)


def _field(fields: Mapping[tuple[str, int], Mapping[str, Any]], key: tuple[str, int], name: str) -> Any:
    return fields.get(key, {}).get(name)
