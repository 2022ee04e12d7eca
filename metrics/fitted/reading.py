"""From a store to rows: inputs of every scored unit, and of the labelled documents among them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from metrics.cases import Case, Way, cases, oriented, way_of
from metrics.choosing import choose, choose_features
from metrics.core import Choice, Metric
from metrics.fitted.inputs import Inputs, state_id
from metrics.fitted.rows import Rows
from metrics.outside import is_outside, join
from metrics.store import Store


@dataclass(frozen=True)
class Units:
    """Every scored unit of a store with its inputs x (n, d), NaN where undefined; `frame` has keys, labels, metrics."""

    frame: pd.DataFrame
    x: np.ndarray
    hashes: Sequence[str]
    """Digest of each unit's document."""
    reasons: Mapping[str, Mapping[str, int]]
    """Why inputs are undefined, counted over all units, by input."""


def read_units(
    store: Store, inputs: Inputs, *, source: Path | None, span: str, way: Way, also: Sequence[str] = ()
) -> Units:
    """The units of a store with what a method reads of them and, in the frame, the metrics `also`.

    `way` is that of the verdict: the option of multiple choice, and the filter that gives spans and clusters.

    Raises:
        ValueError: a signal that an input needs was recorded of no unit.
    """
    options = {"labels": source, "span": span, "norm": way.norm, "filter": way.filter}
    frame = store.scores(list(dict.fromkeys([*inputs.metrics, *also])), **options)
    names = ([state_id(inputs, store.manifest)] if inputs.state else []) + list(inputs.features)
    arrays = store.features(names, **options) if names else {}
    for name, values in arrays.items():
        if values.shape[1] == 0:
            needs = choose_features(name)[0].metric.needs
            lacks = [n for n in needs if n not in store.manifest["signals"]]
            if lacks:
                raise ValueError(f"{store.path}: {lacks[0]} was not recorded; record with signals={lacks[0]}")
            raise ValueError(f"{store.path}: no record has the input {name}")
    columns = [arrays[c.id] for c in choose_features(names)] + [frame[list(inputs.metrics)].to_numpy(dtype=float)]
    reasons = {**getattr(arrays, "unscored", {}), **frame.attrs["unscored"]}
    entries = store.entries()
    by_document = {(key.task, key.doc_id): entry["doc_hash"] for key, entry in entries.items()}
    hashes = [by_document[key] for key in zip(frame["task"], frame["doc_id"])]
    of = {name: counts for name, counts in reasons.items() if name in arrays or name in inputs.metrics}
    return Units(frame, np.concatenate(columns, axis=1), hashes, of)


@dataclass(frozen=True)
class Asked:
    """Which documents, and what besides the inputs is wanted of them."""

    wanted: Callable[[Case], bool]
    span: str = "answer"
    threshold: float | None = None
    group: str = ""
    target: str = ""
    """A metric that is learnt in place of right and wrong: the side of it that its direction calls uncertain."""
    beside: tuple[Choice[Metric], ...] = ()
    """Metrics to compare with, also ones whose scores come from files."""


def read_rows(store: Store, inputs: Inputs, source: Path | None, asked: Asked) -> list[Rows]:
    """The labelled documents of each wanted task, its first sample; one verdict a task.

    Raises:
        ValueError: nothing is wanted, a task has several verdicts, a label is graded, a field is unknown, or the
            target has no direction.
    """
    also = [c.id for c in asked.beside if not is_outside(c)] + ([asked.target] if asked.target else [])
    plain = store.scores([], labels=source, span=asked.span)
    found = [case for case in cases(plain, [], threshold=asked.threshold) if asked.wanted(case)]
    _one_verdict(found, store)
    chosen = [*choose([*inputs.metrics, *also]), *choose_features(inputs.features)]
    read: dict[Way, Units] = {}
    made = []
    for case in found:
        way = way_of(case.task, case.verdict, plain, chosen, asked.span)
        if way not in read:
            read[way] = read_units(store, inputs, source=source, span=asked.span, way=way, also=also)
        made.append(replace(_rows(read[way], case, asked), way=way))
    return made


def _one_verdict(found: Sequence[Case], store: Store) -> None:
    if not found:
        raise ValueError(f"{store.path}: no labelled document is left by --task, --label and --filter")
    by_task: dict[str, list[Case]] = {}
    for case in found:
        by_task.setdefault(case.task, []).append(case)
    for task, several in by_task.items():
        if len(several) > 1:
            verdicts = ", ".join(case.verdict for case in several)
            raise ValueError(f"{task} has the verdicts {verdicts}; choose one by --label and --filter")
        if several[0].wrong is None:
            raise ValueError(f"{several[0].title}: graded, so no answer is wrong; pass --threshold")


def _rows(units: Units, case: Case, asked: Asked) -> Rows:
    frame = join(units.frame, asked.beside)
    mask = ((frame["task"] == case.task) & frame[f"label:{case.verdict}"].notna()).to_numpy()
    part = frame.loc[mask]
    assert case.wrong is not None
    fields = {c.removeprefix("doc:"): part[c].to_numpy(dtype=object) for c in part.columns if c.startswith("doc:")}
    if asked.group and asked.group not in fields:
        known = ", ".join(fields) or "none"
        raise ValueError(f"--group {asked.group}: the logged documents of {case.task} have the fields {known}")
    group = [str(v) for v in fields[asked.group]] if asked.group else [""] * len(part)
    return Rows(
        case.task,
        units.x[mask],
        case.wrong,
        part["task"].to_numpy(dtype=object),
        part["doc_id"].to_numpy(),
        np.array(units.hashes, dtype=object)[mask],
        np.array(group, dtype=object),
        {c.id: oriented(part[c.id].to_numpy(dtype=float), c) for c in asked.beside},
        fields,
        case.label,
        _target(part, asked.target) if asked.target else None,
    )


def _target(part: pd.DataFrame, name: str) -> np.ndarray:
    """The metric to learn, turned so that high means uncertain, as the scores of a probe do."""
    (choice,) = choose(name)
    if choice.metric.higher == "neutral":
        raise ValueError(f"{name} has no direction, so neither side of it can be learnt as uncertain; choose another")
    return oriented(part[name].to_numpy(dtype=float), choice)
