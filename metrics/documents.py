"""Recorded signals of documents: which record stands for each, and its values cut to a span."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from metrics.core import metrics, signals
from metrics.naming import unknown
from metrics.record import Key, Record
from metrics.slices import recorded_signals
from metrics.store import Store

CHOICES = "multiple_choice"
"""Of a unit: its record is of the request type ``loglikelihood``."""


def keys_of(frame: pd.DataFrame) -> list[Key]:
    """The record that stands for each row of a score frame."""
    columns = (frame[name] for name in ("task", "doc_id", "option", "sample", "kind"))
    return [
        Key(task, int(doc), int(option), int(sample), "loglikelihood" if kind == CHOICES else kind)
        for task, doc, option, sample, kind in zip(*columns)
    ]


def axes_of(store: Store, name: str) -> tuple[str, ...]:
    """The axes of a recorded signal, as the manifest describes them; fixed widths without their size.

    Raises:
        ValueError: the store does not hold it; the message says how it is recorded.
    """
    described = store.manifest["signals"].get(name)
    if described is None or "axes" not in described:
        raise ValueError(lacking(store, name))
    return tuple(axis.partition("=")[0] for axis in described["axes"])


def lacking(store: Store, name: str) -> str:
    """Why a signal is not there, and what to do: record it, or take one that is."""
    held = recorded_signals(store)
    if name in signals():
        return (
            f"signal '{name}' is not in {store.path}; record with signals={name} in --model_args, "
            f"or name one that is there: {', '.join(held)}"
        )
    if name in metrics():
        return f"'{name}' is a metric; name a signal that {store.path} holds: {', '.join(held)}"
    return unknown("signal", name, sorted({*signals(), *held}))


def cut(value: np.ndarray, axes: Sequence[str], record: Record, span: str) -> np.ndarray:
    """A signal's values of a span: token axes its tokens, step axes the states that produced them, then that after.

    An axis over keys keeps everything up to the span's end, as when metrics are computed.
    """
    start, stop = record.spans[span]
    for dim, axis in enumerate(axes):
        if axis == "token":
            value = value.take(range(start, stop), axis=dim)
        elif axis == "step":
            value = value.take(range(start, stop + 1), axis=dim)
        elif axis == "key":
            value = value.take(range(record.prompt_count + stop), axis=dim)
    return value


def array(record: Record, name: str) -> np.ndarray:
    """A signal of a record in float64."""
    return record.signals[name].double().numpy()


def values(store: Store, name: str, keys: Iterable[Key], span: str) -> Iterator[tuple[Key, np.ndarray]]:
    """The signal of each record that has it and the span, in no order, float64."""
    axes = axes_of(store, name)
    for record in store.records([name], keys):
        if name in record.signals and span in record.spans:
            yield record.key, cut(array(record, name), axes, record, span)


def layer_names(manifest: Mapping[str, Any], size: int) -> list[int]:
    """The layers that a first axis of this size stands for: all recorded ones, or the blocks among them.

    Raises:
        ValueError: it is neither.
    """
    layers = [int(layer) for layer in manifest.get("layers", ())]
    for names in (layers, [layer for layer in layers if layer > 0]):
        if len(names) == size:
            return names
    raise ValueError(f"a layer axis of {size} entries does not fit the recorded layers {layers}")
