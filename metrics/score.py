"""From records to numbers: which record stands for a document, and each metric's score, each feature's vector, of it.

A document of free text has one record a sample. A multiple-choice document has one record an option: metrics over the
options describe the document, and metrics over tokens describe the option that the model chose.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from metrics.core import Choice, Feature, Metric, Signal, signals
from metrics.plan import recorded
from metrics.record import Key, Record
from metrics.samples import REMEDY, Available, Beside, Documents, of_samples, why_lacking
from metrics.uncertainty.verbalised import stated_confidence

EMPTY_PROMPT = hashlib.sha256(b"").hexdigest()
NORMS = ("none", "chars", "bytes")
ABSENT = {
    "stated_confidence": "no text of an answer is stored",
    "token_relevance": REMEDY["relevance"],
}
NOTHING = Beside()
UNDEFINED = {"stated_confidence": "the answer states no confidence"}
"""Why a signal that comes from the text is not there, and why it is NaN."""

SPANS = ("answer", "generation", "thought", "exact", "reasoning")


@dataclass(frozen=True)
class Unit:
    """What gets one score a metric: a sample of a document.

    `key` names the record that stands for it; `options` holds the signals over its answer options, empty when it is not
    multiple choice.
    """

    key: Key
    kind: str
    options: Mapping[str, Tensor] = field(default_factory=dict)
    lacking: str = ""
    """Why it cannot be scored: an option of its document was not recorded."""


@dataclass
class ScoreTable:
    """Scores by unit and metric id, NaN where unscored, and how often each reason occurred."""

    units: list[Unit]
    values: Mapping[str, Any]
    """A sequence of floats for each metric id."""
    unscored: dict[str, Counter[str]]
    reasons: dict[str, dict[str, set[str]]] = field(default_factory=dict)
    """The same reasons by task and metric id, where they are known so closely."""


class FeatureArrays(dict[str, NDArray[np.float64]]):
    """Features by id, each ``[unit, feature]`` in float64; `unscored` counts why rows hold NaN, by id and reason."""

    def __init__(self, arrays: Mapping[str, NDArray[np.float64]], unscored: Mapping[str, Mapping[str, int]]) -> None:
        super().__init__(arrays)
        self.unscored = {name: dict(reasons) for name, reasons in unscored.items() if reasons}


def units(
    entries: Mapping[Key, Mapping[str, Any]], *, norm: str = "none", delimiters: Mapping[str, str] | None = None
) -> list[Unit]:
    """Group index entries into units, in order of task, document and sample.

    The chosen option is the one with the largest log-likelihood, divided by its characters or bytes when `norm` says so
    (the first of equals, as lm-eval takes it). Options scored without their context, which acc_mutual_info asks for,
    are not options. A document of which an option is missing is a unit that cannot be scored.

    Args:
        entries: index entries by key.
        norm: ``none``, ``chars`` or ``bytes``.
        delimiters: by task, what lm-eval puts between context and choice and does not count as the choice's length; one
            space for a task that is not given.

    Raises:
        ValueError: unknown `norm`.
    """
    if norm not in NORMS:
        raise ValueError(f"norm='{norm}' is not known; choose one of {', '.join(NORMS)}")
    documents: dict[tuple[str, int, int, str], list[Key]] = {}
    for key in sorted(entries):
        documents.setdefault((key.task, key.doc_id, key.occurrence, key.kind), []).append(key)
    given = delimiters or {}
    return [_unit(keys, entries, norm, given.get(keys[0].task, " ")) for keys in documents.values()]


def _unit(keys: Sequence[Key], entries: Mapping[Key, Mapping[str, Any]], norm: str, delimiter: str) -> Unit:
    kind = entries[keys[0]]["kind"]
    asked = max(entries[k].get("siblings", 1) for k in keys)
    if [k.request for k in keys] != list(range(len(keys))) or len(keys) < asked:
        return Unit(keys[0], kind, lacking=f"{'an option' if kind == 'loglikelihood' else 'a request'} is not recorded")
    with_context = [k for k in keys if entries[k]["prompt_hash"] != EMPTY_PROMPT]
    if kind != "loglikelihood" or len(with_context or keys) < 2:
        return Unit(keys[0], kind)
    keys = with_context or keys
    found = [entries[k] for k in keys]
    scores = torch.tensor([e["answer"][0] for e in found], dtype=torch.float64)
    chars = _sizes(found, "chars") - len(delimiter)
    bytes_ = _sizes(found, "bytes") - len(delimiter.encode())
    lengths = {"none": 1.0, "chars": chars, "bytes": bytes_}
    options = {
        "option_loglikelihood": scores,
        "option_tokens": _sizes(found, "token_count"),
        "option_bytes": bytes_,
    }
    return Unit(keys[int((scores / lengths[norm]).argmax())], "multiple_choice", options)


def _sizes(entries: Sequence[Mapping[str, Any]], name: str) -> Tensor:
    return torch.tensor([e[name] for e in entries], dtype=torch.float64)


Fetch = Callable[[Sequence[str], Iterable[Key]], Iterator[Record]]
"""Reads records with the named signals for the given keys, in any order: a store's `records`."""


def score(
    chosen: Sequence[Unit],
    metrics: Sequence[Choice[Metric]],
    fetch: Fetch,
    *,
    span: str = "answer",
    beside: Beside = NOTHING,
) -> ScoreTable:
    """Score units by metrics, streaming the records.

    A metric of samples describes a document, and each of its units as one sample among the others.

    Args:
        chosen: from `units`.
        metrics: from `metrics.choosing.choose`.
        fetch: reads the records.
        span: ``answer``: the tokens of the scored text; ``generation``: up to and with the stop string or the end of
            sequence; ``thought``: up to and with the end-of-thinking marker; ``exact`` and ``reasoning``: what the
            task's filter takes out of the answer, and what stands before it. A record without that span is unscored.
        beside: what is known of the records besides what is recorded.

    Raises:
        ValueError: unknown `span`.
    """
    known = signals()
    values = {c.id: [math.nan] * len(chosen) for c in metrics}
    table = ScoreTable(list(chosen), values, {c.id: Counter() for c in metrics})
    together = [c for c in metrics if of_samples(c, known)]
    alone = [c for c in metrics if c not in together]
    documents = Documents([(u.key, u.kind) for u in chosen], together, beside, known)

    def note(row: int, choice: Choice[Metric], value: float, reason: str) -> None:
        values[choice.id][row] = value
        if reason:
            instead = {REMEDY[kind]: why for kind, why in beside.annex.problems(chosen[row].key).items()}
            why = instead.get(reason, reason)
            table.unscored[choice.id][why] += 1
            table.reasons.setdefault(chosen[row].key.task, {}).setdefault(choice.id, set()).add(why)

    for row, available in _stream(chosen, metrics, fetch, span, known, beside):
        for choice in alone:
            note(row, choice, *score_one(choice, available, span, known))
        for choice, sample, value, reason in _score_document(documents.add(row, available), together, known):
            note(sample, choice, value, reason)
    return table


def _score_document(
    samples: Sequence[tuple[int, Available]], metrics: Sequence[Choice[Metric]], known: Mapping[str, Signal]
) -> Iterator[tuple[Choice[Metric], int, float, str]]:
    """The scores of a document's samples, of all at once: most metrics are of the document, and the same for all."""
    for choice in metrics if samples else ():
        whole = samples[0][1]
        reason = whole if isinstance(whole, str) else why_lacking(choice, whole, known)
        values = [math.nan] * len(samples)
        if not isinstance(whole, str) and not reason:
            found = choice({**whole, "sample_index": torch.arange(len(samples))})
            values = [_settled(value) for value in found.expand(len(samples)).tolist()]
        for (row, _), value in zip(samples, values):
            yield choice, row, value, reason or ("undefined of these samples" if math.isnan(value) else "")


def _settled(value: float) -> float:
    """A score without the last digits, which hang on the order of the samples: ties by definition are to be ties.

    Twelve significant digits are kept, and what is below 1e-13 is 0: sums and eigenvalues in float64 are off by less.
    """
    return 0.0 if abs(value) < 1e-13 else float(f"{value:.12g}")


def features(
    chosen: Sequence[Unit],
    wanted: Sequence[Choice[Feature]],
    fetch: Fetch,
    *,
    span: str = "answer",
    beside: Beside = NOTHING,
) -> FeatureArrays:
    """The features of units, streaming the records; arguments and errors as of `score`.

    Raises:
        ValueError: a feature is of different widths in two records, as when they hold different layers.
    """
    known = signals()
    rows: dict[str, dict[int, Tensor]] = {c.id: {} for c in wanted}
    unscored: dict[str, Counter[str]] = {c.id: Counter() for c in wanted}
    for row, available in _stream(chosen, wanted, fetch, span, known, beside):
        for choice in wanted:
            reason = lack(choice.metric.needs, available, span, known)
            if not isinstance(available, str) and not reason:
                made = choice(available).double()
                rows[choice.id][row] = made
                reason = why_undefined(choice.metric.needs, available, span) if made.isnan().any() else ""
            if reason:
                unscored[choice.id][reason] += 1
    return FeatureArrays({name: _stacked(name, found, len(chosen)) for name, found in rows.items()}, unscored)


def _stacked(name: str, rows: Mapping[int, Tensor], units_: int) -> NDArray[np.float64]:
    """``[unit, feature]``, a row of NaN for a unit that has none."""
    widths = {tuple(row.shape) for row in rows.values()} or {(0,)}
    if len(widths) > 1:
        sizes = " and ".join(map(str, sorted(width[0] for width in widths)))
        raise ValueError(f"feature '{name}' has {sizes} entries in records of one store; score their tasks apart")
    found = np.full((units_, *widths.pop()), np.nan)
    for row, values in rows.items():
        found[row] = values.numpy()
    return found


def _stream(
    chosen: Sequence[Unit],
    wanted: Sequence[Choice[Any]],
    fetch: Fetch,
    span: str,
    known: Mapping[str, Signal],
    beside: Beside,
) -> Iterator[tuple[int, dict[str, Tensor] | str]]:
    """Every unit once, in any order: its row, and its signals cut to the span, or why it has none."""
    if span not in SPANS:
        raise ValueError(f"span='{span}' is not known; choose {', '.join(SPANS)}")
    needs = {n for c in wanted for name in c.metric.needs for n in recorded(known[name], known)}
    stored = sorted(n for n in needs if known[n].cost != "free")
    at = {unit.key: i for i, unit in enumerate(chosen) if not unit.lacking}
    seen = set()
    for record in tqdm(fetch(stored, at), "scoring", len(chosen), leave=False, disable=None):  # terminals alone
        row = at[record.key]
        seen.add(row)
        yield row, signals_of(record, chosen[row], span, known, beside)
    for row, unit in enumerate(chosen):
        if row not in seen:
            yield row, unit.lacking or "record in a damaged shard"


def signals_of(
    record: Record, unit: Unit, span: str, known: Mapping[str, Signal], beside: Beside = NOTHING
) -> Available:
    """The signals of a record, cut to the span, with those that follow from its entry; or why it has none.

    Of an axis over keys everything up to the span's end stays, so its last `token_count` entries are the span's.
    """
    spans = {**record.spans, **beside.spans.get(record.key, {})}
    if span not in spans:
        return beside.unmapped.get(record.key) or f"the record has no {span}"
    start, stop = spans[span]
    made: dict[str, Tensor] = {}
    for name, value in {**record.signals, **beside.annex.record(record.key)}.items():
        axes = known[name].axes if name in known else ()
        for dim, axis in enumerate(axes):
            if axis == "token":
                value = value.narrow(dim, start, stop - start)
            elif axis == "step":
                value = value.narrow(dim, start, stop - start + 1)
            elif axis == "key":
                value = value.narrow(dim, 0, record.prompt_count + stop)
        made[name] = value
    made["token_count"] = torch.tensor(stop - start)
    made["prompt_count"] = torch.tensor(record.prompt_count)
    made["record_id"] = torch.tensor(record_id(record.key))
    if isinstance(record.answer, str):
        made["stated_confidence"] = torch.tensor(stated_confidence(record.answer))
    return {**made, **unit.options}


def score_one(
    choice: Choice[Metric], available: Mapping[str, Tensor] | str, span: str, known: Mapping[str, Signal]
) -> tuple[float, str]:
    """One score of one record and, where it is NaN, the reason."""
    reason = lack(choice.metric.needs, available, span, known)
    if isinstance(available, str) or reason:
        return math.nan, reason
    value = float(choice(available))
    return value, why_undefined(choice.metric.needs, available, span) if math.isnan(value) else ""


def lack(needs: Iterable[str], available: Mapping[str, Tensor] | str, span: str, known: Mapping[str, Signal]) -> str:
    """Why nothing with these needs can be computed; empty where it can be tried."""
    if isinstance(available, str):
        return available
    for name in needs:
        if name not in available:
            axis_option = "option" in known[name].axes
            absent = ABSENT.get(name, f"signal '{name}' was not recorded")
            return "not multiple choice" if axis_option else absent
        if known[name].cost != "free" and available["token_count"] == 0:
            return f"empty {span}"
    return ""


def why_undefined(needs: Iterable[str], available: Mapping[str, Tensor], span: str) -> str:
    """Why a score came out NaN."""
    if available["token_count"] == 0:
        return f"empty {span}"
    spoilt = [n for n in needs if available[n].isnan().any()]
    return UNDEFINED.get(spoilt[0], "signal holds NaN") if spoilt else "undefined here"


def record_id(key: Key) -> int:
    """A 63-bit number from the record's key, the same on every machine."""
    digest = hashlib.sha256("\x1f".join(map(str, key[:4])).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
