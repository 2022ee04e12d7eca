"""Where two stores part: the documents that one answers right and the other wrong, with the scores of both."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import rankdata

from metrics.compare import Pair, answer_text
from metrics.compare_tables import SIDES, Compared, grades
from metrics.core import Choice
from metrics.report import BASELINES


def disagreement_table(pair: Pair, by: Choice, *, top: int = 10) -> Compared:
    """Documents on which A and B part: right in one and wrong in the other, or graded most differently.

    Flips are sorted by how far apart the two stores' scores of the metric `by` put the document: the difference of its
    ranks among the documents of both, as shares, since scores of two models have no common scale. Graded labels are
    sorted by the difference of the labels.
    """
    n = len(pair.documents)
    scores = [case.scores.get(by.id, np.full(n, np.nan)) for case in (pair.first, pair.second)]
    shares = [rankdata(s, nan_policy="omit") / max(1, int((~np.isnan(s)).sum())) for s in scores]
    apart = np.abs(shares[0] - shares[1])
    if pair.binary:
        assert pair.first.wrong is not None and pair.second.wrong is not None
        labels = [(~pair.first.wrong).astype(float), (~pair.second.wrong).astype(float)]
        order = apart
    else:
        labels = list(grades(pair))
        order = np.abs(labels[0] - labels[1])
    where = np.flatnonzero(labels[0] != labels[1])
    where = where[np.argsort(-np.nan_to_num(order[where], nan=-1.0), kind="stable")]
    sign = 1 if by.metric.higher == "uncertain" else -1
    rows = [_flip(pair, i, labels, [sign * s[i] for s in scores], [s[i] for s in shares]) for i in where[:top]]
    shown = [_flip_cells(row, by.id, binary=pair.binary) for row in rows]
    what = "right in one store and wrong in the other" if pair.binary else "labelled differently"
    notes = [f"{len(where)} of {n} documents are {what}" + (f"; the first {len(rows)} are shown." if rows else ".")]
    if rows:
        sorting = "the distance of these shares" if pair.binary else "the difference of the labels"
        notes.append(
            f"In brackets behind {by.id}: the share of the {n} documents that the store is at most as unsure of. "
            f"Sorted by {sorting}."
        )
    return Compared(f"Where they part: {pair.title}", rows, shown, notes)


def _flip(
    pair: Pair, i: int, labels: Sequence[np.ndarray], scores: Sequence[Any], shares: Sequence[Any]
) -> dict[str, Any]:
    a, b = pair.documents[i]
    row: dict[str, Any] = {"task": pair.task, "doc_id_a": a.doc_id, "doc_id_b": b.doc_id}
    for side, label, score, share, document in zip(SIDES, labels, scores, shares, (a, b)):
        row |= {f"label_{side}": float(label[i]), f"score_{side}": float(score), f"share_{side}": float(share)}
        row[f"answer_{side}"] = answer_text(document)
    return row


def _flip_cells(row: Mapping[str, Any], metric: str, *, binary: bool) -> dict[str, Any]:
    same = row["doc_id_a"] == row["doc_id_b"]
    cells: dict[str, Any] = {"document": str(row["doc_id_a"]) if same else f"{row['doc_id_a']} | {row['doc_id_b']}"}
    if binary:
        cells["right"] = "A" if row["label_a"] else "B"
    else:
        cells |= {"label A": row["label_a"], "label B": row["label_b"]}
    for name, side in zip("AB", SIDES):
        value, share = row[f"score_{side}"], row[f"share_{side}"]
        cells[f"{metric} {name}"] = "–" if math.isnan(value) else f"{value:.3f} ({share:.2f})"
    for name, side in zip("AB", SIDES):
        text = " ".join(row[f"answer_{side}"].split())
        cells[f"answer {name}"] = text if len(text) <= 40 else text[:37] + "..."
    return cells


def pick(pair: Pair, metrics: Sequence[Choice], preferred: str) -> Choice | None:
    """The metric to sort disagreements by: `preferred` if both stores have scores of it, else the first such."""
    both = [c for c in metrics if c.id in pair.first.scores and c.id in pair.second.scores]
    own = [c for c in both if c.metric.name not in BASELINES]
    return next((c for c in both if c.id == preferred), next(iter([*own, *both]), None))
