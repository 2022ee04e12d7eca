"""Clusters of questions as a table, with what they say and how far to trust it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from metrics.clusters import SAMPLED, Clustering
from metrics.domains import Prediction, Trust
from metrics.report import Table, interval, page
from metrics.stats import Estimate
from metrics.stats.groups import FEWEST
from metrics.table import render

SHOWN = 60
"""Characters of an example."""


@dataclass(frozen=True)
class Found:
    """How clusters were found.

    Attributes:
        vectors: what the questions were embedded by.
        asked: whether the number of clusters was given, not chosen.
        stability: adjusted Rand indices with other seeds, and with resampled questions.
    """

    clustering: Clustering
    vectors: str
    asked: bool
    least: int
    seed: int
    stability: tuple[np.ndarray, np.ndarray]


def domain_table(
    rows: Sequence[dict[str, Any]],
    found: Found,
    metric: str,
    predicted: Prediction | None,
    how: str,
    held: Trust | None,
) -> Table:
    """The rows with notes: how clusters were found, which look weak, and how far that can be trusted.

    Args:
        rows: of `metrics.domains.rows_of`, with `words` and `example` added.
        found: how clusters were found.
        metric: the metric's id.
        predicted: the predicted errors, or None.
        how: how they were made, in words.
        held: against labels; None without any.
    """
    notes = [
        *clustering_notes(found),
        f"Intervals: 95 %, over the questions of a cluster. Weak: {metric} more uncertain on average than in the other "
        "clusters, Welch's test, Holm's p < .05; no label is used.",
        how,
        *([f"No predicted error: {predicted.reason}."] if predicted is not None and predicted.reason else []),
        weak_note(rows, metric),
        *(trust_notes(rows, held, metric, predicted is not None) if held else [NO_LABELS]),
    ]
    return Table(f"Domains by {metric}", [{"metric": metric, **row} for row in rows], notes)


NO_LABELS = "No labels: whether the uncertain clusters are the weak ones is not known here."


def clustering_notes(found: Found) -> list[str]:
    """How many clusters, why, and how firm they are."""
    made = found.clustering
    k, n = len(made.centres), len(made.labels)
    lines = [f"{n:,} questions in {k} clusters by {found.vectors}; k-means of unit vectors, seed {found.seed}."]
    if found.asked:
        small = int((made.sizes < found.least).sum())
        lines += (
            [f"The number of clusters was given; {small} of them hold fewer than {found.least} questions."]
            if small
            else []
        )
    else:
        tried = ", ".join(f"{k} ({value:.2f})" for k, value in sorted(made.tried.items()))
        of = f", of {SAMPLED:,} questions drawn" if n > SAMPLED else ""
        line = f"Chosen by silhouette{of}: {tried}"
        if made.refused:
            left = ", ".join(map(str, sorted(made.refused)))
            line += f"; not taken, a cluster of fewer than {found.least} questions: {left}"
        lines.append(line + ".")
    seeds, redrawn = found.stability
    lines.append(
        f"Stability (adjusted Rand, 1 same clusters, 0 chance): {_range(seeds)} over other seeds, {_range(redrawn)} "
        "over resampled questions."
    )
    return lines


def _range(values: np.ndarray) -> str:
    return f"{values.mean():.2f} ({values.min():.2f} to {values.max():.2f})" if len(values) else "not known"


def weak_note(rows: Sequence[dict[str, Any]], metric: str) -> str:
    """Which clusters look weak without any label."""
    weak = [str(row["cluster"]) for row in rows if row["weak"]]
    if not weak:
        return f"Likely weak by {metric}: none; no cluster is clearly more uncertain than the others."
    return f"Likely weak by {metric}: cluster{'s' if len(weak) > 1 else ''} {', '.join(weak)}."


def trust_notes(rows: Sequence[dict[str, Any]], held: Trust, metric: str, predicted: bool) -> list[str]:
    """How far uncertainty told which clusters are weak, where labels exist."""
    lines = []
    if math.isnan(held.same_p):
        lines.append("Against labels: one class only, or one cluster; there is nothing to tell.")
        return lines
    errors = [row["true"] for row in rows if row["labelled"]]
    differ = "clusters differ" if held.same_p < 0.05 else "clusters are not shown to differ"
    span = f"{min(errors):.3f} to {max(errors):.3f}"
    lines.append(f"Against labels: true error from {span}; {differ} (chi-square p {_p(held.same_p)}).")
    if len(rows) < FEWEST:
        lines.append(f"{len(rows)} clusters are too few to tell whether uncertainty orders them by error.")
    else:
        lines.append(
            f"Order by {metric} against order by true error: Spearman {_shown(held.order.spearman)}, Kendall "
            f"{_shown(held.order.kendall)}, permutation p {_p(held.order.p)}; by prompt_length: Spearman "
            f"{_shown(held.length_order.spearman)}, p {_p(held.length_order.p)}. Intervals: questions resampled within "
            "these clusters; p: over clusters."
        )
        if not held.order.p < 0.05:
            lines.append(f"{len(rows)} clusters do not show that {metric} tells weak domains from strong ones.")
    if predicted and not math.isnan(held.miss):
        explained = (
            f"explains {held.explained:.2f} of the spread between clusters (0: no better than one number for all)"
            if not math.isnan(held.explained)
            else "has no spread to explain"
        )
        lines.append(f"The predicted error misses the true one by {held.miss:.3f} on average and {explained}.")
    weak = [row for row in rows if row["weak"] and row["labelled"]]
    if weak:
        total, wrong = sum(row["labelled"] for row in rows), sum(row["wrong"] for row in rows)
        worse = sum(row["wrong"] / row["labelled"] > wrong / total for row in weak)
        rate = wrong / total
        lines.append(
            f"Of {len(weak)} clusters named likely weak, {worse} have a true error above {rate:.3f}, that of all."
        )
    return lines


def _shown(found: Estimate) -> str:
    if math.isnan(found.value):
        return "undefined"
    return f"{found.value:.2f} [{found.lower:.2f}, {found.upper:.2f}]"


def _p(p: float) -> str:
    return "undefined" if math.isnan(p) else "< .001" if p < 0.001 else f"= {p:.3f}"


def show_domains(table: Table, format_: str) -> str:
    """The table as md or latex: the columns one reads, and the notes below."""
    several = len({row["tasks"] for row in table.rows}) > 1
    rows = []
    for row in table.rows:
        cells: dict[str, Any] = {"cluster": row["cluster"], "n": row["n"]}
        if several:
            cells["tasks"] = row["tasks"]
        cells["words"] = " ".join(row["words"]) or "–"
        cells["example"] = _cut(row["example"])
        cells[f"{row['metric']} [95 % CI]"] = interval(row, "uncertainty", "uncertainty_lower", "uncertainty_upper")
        cells["weak"] = f"yes (p {_p(row['p_weak'])})" if row["weak"] else ""
        for name, head in (("predicted", "predicted error"), ("true", "true error"), ("bias", "predicted - true")):
            if name in row:
                cells[f"{head} [95 % CI]"] = interval(row, name, f"{name}_lower", f"{name}_upper")
        rows.append(cells)
    return page(table.title, render(rows, format_), table.notes, format_)


def _cut(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= SHOWN else flat[: SHOWN - 1] + "…"
