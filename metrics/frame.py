"""Scores and labels side by side in a pandas DataFrame."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import pandas as pd

from metrics.annexed import annex_of
from metrics.answers import FROM_FILTER, UNMAPPED, Answers, answers_of
from metrics.choosing import choose, choose_features
from metrics.core import Choice, signals
from metrics.labels import Labels, join
from metrics.record import Key, Record, Span
from metrics.results import NoSamples, Settings, find_results, linked_results, samples_of, settings_in, settings_of
from metrics.sampled import GREEDY, greedy
from metrics.samples import GENERATED, Beside, NoAnnex
from metrics.score import FeatureArrays, ScoreTable, Unit, features, score, units
from metrics.verdicts import read_results, read_samples, read_table

Source = str | Path | Mapping[str, Any] | None
"""Where labels come from: a path, what `simple_evaluate` returned, or None for the results that the store names."""

JUDGED = ("generate_until", "multiple_choice", "loglikelihood", "loglikelihood_rolling")
"""Which unit of a document carries its label, where its requests are of several types: the first of these."""


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
    labels: Source = None,
    span: str = "answer",
    norm: str = "none",
    filter: str | None = None,
) -> pd.DataFrame:
    """See `metrics.store.Store.scores`."""
    chosen = choose(metrics)

    def by_record(found: Sequence[Unit], beside: Beside) -> ScoreTable:
        return score(found, chosen, store.records, span=span, beside=beside)

    return labelled_frame(store, by_record, labels=labels, norm=norm, wanted=Wish(span, chosen, filter))


class Wish(NamedTuple):
    """What is to be scored, of which it depends what has to be known besides the records."""

    span: str
    metrics: Sequence[Choice[Any]]
    filter: str | None = None
    """lm-eval's filter that reads the answers; by default the first of each task."""


def labelled_frame(
    store: Readable,
    scored: Callable[[Sequence[Unit], Beside], ScoreTable],
    *,
    labels: Source,
    norm: str,
    wanted: Wish,
) -> pd.DataFrame:
    """The same, of whatever scores units."""
    found = find_labels(store, labels)
    beside = beside_records(store, found, wanted)
    table = scored(_units(store, found, norm), beside)
    columns: dict[str, Any] = {
        "task": [u.key.task for u in table.units],
        "doc_id": [u.key.doc_id for u in table.units],
        "sample": [u.key.occurrence for u in table.units],
        "option": [u.key.request for u in table.units],
        "kind": [u.kind for u in table.units],
        **({UNMAPPED: [beside.unmapped.get(u.key) for u in table.units]} if wanted.span in FROM_FILTER else {}),
        **table.values,
    }
    frame = pd.DataFrame(columns)
    frame.attrs["reasons"] = {t: {name: sorted(why) for name, why in of.items()} for t, of in table.reasons.items()}
    frame.attrs["unscored"] = {name: dict(reasons) for name, reasons in table.unscored.items() if reasons}
    if found is not None:
        add_labels(frame, found)
    return frame


def beside_records(store: Readable, found: Labels | None, wanted: Wish) -> Beside:
    """What the metrics and the span need to know of the records besides what is recorded."""
    known = signals()
    needs = {name for choice in wanted.metrics for name in choice.metric.needs}
    together = any(known[name].cost == "samples" for name in needs)
    read = by_filter(wanted.metrics, wanted.span)
    if not together and not read:
        return Beside()
    entries = store.entries()
    generated = {k: e for k, e in entries.items() if k.kind == GENERATED and isinstance(e["answer"], str)}
    answers = Answers()
    if read:
        fetch = store.records if wanted.span in FROM_FILTER else None
        rules = _rules(store, found)
        answers = answers_of(entries, rules, wanted.filter, manifest=store.manifest, fetch=fetch)
    return Beside(
        answers=answers.values,
        texts={key: entry["answer"] for key, entry in generated.items()},
        spans=answers.spans,
        unmapped=answers.unmapped,
        annex=annex_of(store.path, entries) if together else NoAnnex(),
        incomparable={task: GREEDY for task in {key.task for key in generated} if greedy(store.manifest, task)},
    )


def filter_spans(
    store: Readable, span: str, *, labels: Source = None, filter: str | None = None
) -> Mapping[Key, Mapping[str, Span]]:
    """The spans of records that a task's filter gives; empty for a span that is recorded."""
    if span not in FROM_FILTER:
        return {}
    return beside_records(store, find_labels(store, labels), Wish(span, (), filter)).spans


def by_filter(metrics: Iterable[Choice[Any]], span: str) -> bool:
    """Whether scores depend on which filter reads the answers."""
    return span in FROM_FILTER or any(choice.options.get("clusters") == "answer" for choice in metrics)


def _rules(store: Readable, found: Labels | None) -> Labels | None:
    """Labels that know the tasks' filters: the results that the store names where the given source has none."""
    if found is None or found.settings.filters:
        return found
    return _linked_labels(store, store.entries())


def feature_arrays(
    store: Readable,
    names: str | Iterable[str],
    *,
    labels: Source = None,
    span: str = "answer",
    norm: str = "none",
    filter: str | None = None,
) -> FeatureArrays:
    """See `metrics.store.Store.features`."""
    found = find_labels(store, labels)
    chosen = choose_features(names)
    beside = beside_records(store, found, Wish(span, chosen, filter))
    return features(_units(store, found, norm), chosen, store.records, span=span, beside=beside)


def _units(store: Readable, found: Labels | None, norm: str) -> list[Unit]:
    delimiters = found.settings.delimiters if found is not None else {}
    return units(store.entries(), norm=norm, delimiters=delimiters)


def find_labels(store: Readable, source: Source) -> Labels | None:
    """Labels from `source`, or from the result files that the manifest points at; None when there is neither.

    Raises:
        FileNotFoundError: the source does not exist.
        metrics.results.NoSamples: the source is a result without samples.
    """
    entries = store.entries()
    if isinstance(source, Mapping):
        return join(read_results(source), entries, settings_in(source))
    if source is None:
        return _linked_labels(store, entries)
    path = Path(source)
    if not path.exists() and path.suffix != ".json":
        raise FileNotFoundError(f"{path} does not exist; give lm-eval's output folder or a jsonl or csv of labels")
    if path.is_dir() or path.suffix == ".json":
        results = find_results(path)
        verdicts = read_samples(samples_of(results))
        return join(verdicts, entries, settings_of(results))
    if path.name.startswith("samples_"):
        return join(read_samples([path]), entries)
    return join(read_table(path), entries)


def _linked_labels(store: Readable, entries: Mapping[Key, Mapping[str, Any]]) -> Labels | None:
    verdicts, settings, lacking = [], Settings(), []
    existing = linked_results(store.manifest)
    for path in existing:
        try:
            verdicts.extend(read_samples(samples_of(path)))
            settings = settings.merge(settings_of(path))
        except NoSamples as problem:
            lacking.append(str(problem))
    for problem in lacking:
        warnings.warn(problem, stacklevel=6)
    return join(verdicts, entries, settings) if len(lacking) < len(existing) else None


def add_labels(frame: pd.DataFrame, found: Labels) -> None:
    """Add a column ``label:METRIC@FILTER`` for each label, and ``doc:FIELD`` for each scalar field of the documents.

    lm-eval judges a document once, on its first sample unless a filter says otherwise; further samples are unlabelled,
    and so are a document's further requests of another type.
    """
    keys = list(zip(frame["task"], frame["doc_id"]))
    rank = frame["kind"].map({kind: i for i, kind in enumerate(JUDGED)}).fillna(len(JUDGED))
    best = rank.groupby([frame["task"], frame["doc_id"]]).transform("min")
    first = (frame["sample"] == 0) & (rank == best)
    for name, values in found.values.items():
        frame[f"label:{name}"] = pd.Series([values.get(k) for k in keys], dtype="float64").where(first)
    names = {field for fields in found.fields.values() for field in fields}
    for field in sorted(names):
        frame[f"doc:{field}"] = [_field(found.fields, key, field) for key in keys]
    frame.attrs["filters"] = {task: list(filters) for task, filters in found.settings.filters.items()}
    frame.attrs["lower_is_better"] = sorted(found.settings.lower_is_better)
    frame.attrs["unused_labels"] = dict(found.unused)
    frame.attrs["skipped_labels"] = dict(found.skipped)


def _field(fields: Mapping[tuple[str, int], Mapping[str, Any]], key: tuple[str, int], name: str) -> Any:
    return fields.get(key, {}).get(name)
