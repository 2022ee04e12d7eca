"""What `explain` shows of one record: its tokens, signals, verdicts and scores, gathered from the store."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from metrics.cases import cases
from metrics.core import Choice
from metrics.documents import keys_of
from metrics.explain import ALTERNATIVES, TOP, TOP_IDS, Page, kinds, shade, showable, within_budget
from metrics.pieces import NoTokenizer, alone, find_tokenizer, open_tokenizer, pieces, spells
from metrics.record import Key, Record
from metrics.slices import recorded_signals
from metrics.store import Store

FIRST = ("entropy", "logprob")
"""Signals that stand first in the list to colour by."""


def make_page(
    store: Store,
    key: Key,
    frame: pd.DataFrame,
    chosen: Sequence[Choice],
    signals: Sequence[str] = (),
    tokenizer: Path | None = None,
) -> tuple[Page, list[str]]:
    """The page of a record, and lines on what it lacks.

    Args:
        store: where the record is.
        key: of the record.
        frame: scores of the store, from `Store.scores`, with labels where there are any.
        chosen: the metrics of the frame.
        signals: to colour by; by default all that are recorded, one value a token, as far as the page stays small.
        tokenizer: where to look for it, other than where the manifest says.

    Raises:
        ValueError: a signal that is not there or has not one value a token; no tokenizer at the place given.
        OSError: the record's shard is damaged.
    """
    names = list(signals) or [n for n in _ordered(recorded_signals(store)) if _is_showable(store, n)]
    wanted = dict.fromkeys([*names, "tokens", "prompt_tokens", TOP, TOP_IDS])
    record = next(iter(store.records(list(wanted), [key])), None)
    if record is None:
        raise OSError(f"{store.path}: the record of document {key.doc_id} lies in a damaged shard; record it again")
    said = []
    shades = [shade(store, record, n) for n in names if signals or n in record.signals]
    if not signals:
        kept, left = within_budget(shades)
        shades = [s for s in shades if s in kept]
        if left:
            said.append(f"left out to keep the page small: {', '.join(left)}; pass --signal to choose")
    texts, why = texts_of(store, record, tokenizer)
    if why:
        said.append(why)
    top = record.signals[TOP_IDS][:, :ALTERNATIVES].numpy() if TOP_IDS in record.signals else None
    if top is None and TOP in record.signals:
        said.append(f"'{TOP_IDS}' was not recorded, so alternatives have no names; record with signals={TOP_IDS}")
    page = Page(
        title=f"{key.task}, document {key.doc_id}" + (f", sample {key.occurrence}" if key.occurrence else ""),
        facts=_facts(store, record, frame),
        verdicts=verdicts(frame, key),
        prompt_count=record.prompt_count,
        ids=_ids(record),
        texts=texts,
        kinds=kinds(record),
        shades=shades,
        scores=score_rows(frame, chosen, key),
        notes=[*said, *_notes(frame, key)],
        alternatives=top,
        probabilities=_probabilities(record),
        words={} if top is None else _words(store, record, top, tokenizer),
    )
    return page, said


def texts_of(store: Store, record: Record, tokenizer: Path | None = None) -> tuple[list[str], str]:
    """The text of each token of prompt and continuation, and one line where they are ids or not to be trusted.

    Raises:
        metrics.pieces.NoTokenizer: none at the place given.
    """
    ids = _ids(record)
    if not ids:
        count = record.prompt_count + record.token_count
        return ["□"] * count, "the store keeps no token ids (store_text=no), so tokens are squares"
    try:
        decode, _ = open_tokenizer(find_tokenizer(store.manifest, tokenizer))
    except NoTokenizer as problem:
        if tokenizer is not None:
            raise
        return [f"‹{i}›" for i in ids], str(problem)
    generated = ids[record.prompt_count :]
    if not spells(generated, record.answer, decode):
        why = "the tokenizer does not spell the recorded answer; pass --tokenizer with that of the run"
        return pieces(ids, decode), why
    return pieces(ids, decode), ""


def score_rows(frame: pd.DataFrame, chosen: Sequence[Choice], key: Key) -> list[dict[str, str]]:
    """A row a metric: its score, and of how many of the task's other documents it is more uncertain.

    The share counts ties half, among the others that have a score; none for a metric without a direction.
    """
    keys = keys_of(frame)
    of = np.array([_unit(k) == _unit(key) for k in keys])
    part = frame["task"].to_numpy() == key.task
    rows = []
    for choice in chosen if of.any() else ():
        made = choice.metric
        own = float(frame.loc[of, choice.id].iloc[0])
        others = frame.loc[part & ~of, choice.id].dropna().to_numpy(dtype=float)
        share = more_uncertain(own, others, made.higher)
        rows.append(
            {
                "metric": choice.id,
                "score": "unscored" if np.isnan(own) else f"{own:.4g}",
                "unit": made.unit,
                "high means": made.higher,
                "more uncertain than": "–" if np.isnan(share) else f"{share:.0%} of {len(others)} others",
            }
        )
    return rows


def more_uncertain(own: float, others: np.ndarray, higher: str) -> float:
    """The share of the others that are less uncertain, ties counting half; NaN without a direction or others."""
    if higher == "neutral" or np.isnan(own) or not len(others):
        return float("nan")
    below = others < own if higher == "uncertain" else others > own
    return float(np.mean(below + 0.5 * (others == own)))


def verdicts(frame: pd.DataFrame, key: Key) -> list[tuple[str, str]]:
    """Each label of the document: its name, and right, wrong, or the grade."""
    found = []
    for case in cases(frame, []):
        if case.task == key.task and key.doc_id in case.documents:
            at = list(case.documents).index(key.doc_id)
            word = f"{abs(case.quality[at]):.4g}" if case.wrong is None else ("wrong" if case.wrong[at] else "right")
            found.append((case.label, word))
    return found


def _facts(store: Store, record: Record, frame: pd.DataFrame) -> list[tuple[str, str]]:
    manifest, key = store.manifest, record.key
    spans = ", ".join(f"{name} {span.start} to {span.stop}" for name, span in record.spans.items())
    facts = [
        ("model", f"{manifest['model']} ({manifest.get('dtype', '?')})"),
        ("request", f"{record.kind}" + (f", option {key.request} of {record.siblings}" if record.siblings > 1 else "")),
        (
            "tokens",
            f"{record.prompt_count} prompt{' (cut)' if record.truncated else ''}, {record.token_count} continuation",
        ),
        ("spans", spans),
        ("recorded answer", _short(record.answer)),
    ]
    here = frame.loc[(frame["task"] == key.task) & (frame["doc_id"] == key.doc_id)]
    for column in [c for c in frame.columns if c.startswith("doc:")]:
        value = here[column].iloc[0] if len(here) else None
        if value is not None and value == value:
            facts.append((column.removeprefix("doc:"), _short(value)))
    return facts


def _notes(frame: pd.DataFrame, key: Key) -> list[str]:
    chosen = [k for k in keys_of(frame) if _unit(k) == _unit(key)]
    if chosen and chosen[0].request != key.request:
        return [
            f"Scores of tokens describe option {chosen[0].request}, the model's choice; this is option {key.request}."
        ]
    return []


def _unit(key: Key) -> tuple[Any, ...]:
    return key.task, key.doc_id, key.occurrence, key.kind


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 300 else text[:299] + "…"


def _ids(record: Record) -> list[int]:
    """Ids of prompt and continuation; none when the store keeps no text."""
    parts = [record.signals.get(name) for name in ("prompt_tokens", "tokens")]
    return [] if any(p is None for p in parts) else [int(i) for p in parts if p is not None for i in p]


def _probabilities(record: Record) -> np.ndarray | None:
    if TOP not in record.signals:
        return None
    return record.signals[TOP][:, :ALTERNATIVES].double().exp().numpy()


def _words(store: Store, record: Record, top: np.ndarray, tokenizer: Path | None) -> dict[int, str]:
    ids = _ids(record)
    try:
        decode, entry = open_tokenizer(find_tokenizer(store.manifest, tokenizer))
    except NoTokenizer:
        return {}
    return alone((int(i) for i in top.flat if i >= 0), ids[-1], decode, entry) if ids else {}


def _ordered(names: Sequence[str]) -> list[str]:
    return sorted(names, key=lambda n: (FIRST.index(n) if n in FIRST else len(FIRST), n))


def _is_showable(store: Store, name: str) -> bool:
    return "axes" in store.manifest["signals"].get(name, {}) and showable(store, name)
