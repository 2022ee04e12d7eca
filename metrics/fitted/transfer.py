"""The transfer matrix: fitted on one set of documents, scored on another, beside the out-of-fold number of its own."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from metrics import stats
from metrics.fitted.folds import groups_of
from metrics.fitted.inputs import Inputs
from metrics.fitted.learn import Learnt, judge, learn
from metrics.fitted.methods import Recipe
from metrics.fitted.nested import Scheme
from metrics.fitted.rows import Rows
from metrics.report import Table, interval, page
from metrics.stats import Estimate
from metrics.table import render

MOST_VALUES = 12
"""A field of more values names documents, not domains; compare it with a number instead."""

_LIMIT = re.compile(r"\s*(?P<field>\w+)\s*(?P<sign><=|>=|<|>)\s*(?P<limit>-?\d+(\.\d+)?)\s*")
_OPPOSITE = {"<=": ">", ">=": "<", "<": ">=", ">": "<="}


def split_by(rows: Rows, text: str) -> list[Rows]:
    """Documents apart by a field: one part a value of ``FIELD``, or the two sides of ``FIELD<=8``.

    Raises:
        ValueError: an unknown field, too many values, one value, or a limit for what is no number.
    """
    limit = _LIMIT.fullmatch(text)
    name = limit["field"] if limit else text.strip()
    if name not in rows.fields:
        known = ", ".join(rows.fields) or "none"
        raise ValueError(f"--split {text}: the logged documents of {rows.name} have the fields {known}")
    values = rows.fields[name]
    parts: dict[str, np.ndarray] = {}
    if limit:
        numbers = np.array([float(v) if isinstance(v, (int, float)) else math.nan for v in values])
        if np.isnan(numbers).any():
            raise ValueError(f"--split {text}: {name} is no number in {int(np.isnan(numbers).sum())} documents")
        at = float(limit["limit"])
        low, high = limit["sign"], _OPPOSITE[limit["sign"]]
        below = {"<=": numbers <= at, ">=": numbers >= at, "<": numbers < at, ">": numbers > at}[low]
        parts = {f"{name}{low}{limit['limit']}": below, f"{name}{high}{limit['limit']}": ~below}
    else:
        words = np.array([str(v) for v in values], dtype=object)
        found = sorted(set(words))
        if len(found) > MOST_VALUES:
            raise ValueError(f"--split {text}: {name} has {len(found)} values; give a limit, such as '{name}<=8'")
        parts = {f"{name}={value}": words == value for value in found}
    empty = [part for part, kept in parts.items() if not kept.any()]
    if empty or len(parts) < 2:
        raise ValueError(f"--split {text}: all documents of {rows.name} are on one side")
    return [rows.part(kept, f"{rows.name}, {part}") for part, kept in parts.items()]


def transfer_table(
    parts: Sequence[Rows], inputs: Inputs, recipe: Recipe, scheme: Scheme, *, against: str, calibration: str = ""
) -> Table:
    """AUROC for wrong answers of a model fitted on each part and scored on each.

    On its own part a model is scored out-of-fold; on another by the model fitted on all of its part, without documents
    of equal content, or of equal group, that were fitted on. `against` is a metric that needs no fitting, as the last
    rows. Intervals are DeLong's, over the documents scored.
    """
    codes = groups_of([h for part in parts for h in part.hashes], [g for part in parts for g in part.group])
    ends = np.cumsum([0, *(len(p) for p in parts)])
    groups = [codes[start:stop] for start, stop in itertools.pairwise(ends)]
    rows: list[dict[str, Any]] = []
    lost = 0
    for i, own in enumerate(parts):
        learnt = learn(own, inputs, recipe, scheme, calibration)
        for j, other in enumerate(parts):
            if i == j:
                rows.append(_row(learnt, own.name, "out-of-fold", judge(learnt, seed=scheme.seed)))
                continue
            seen = np.isin(groups[j], groups[i])
            lost += int(seen.sum())
            left = other.part(~seen)
            found = stats.delong_interval(learnt.scores(left), left.wrong)
            rows.append(_row(learnt, other.name, "other documents", found))
    for part in parts:
        found = stats.delong_interval(part.scores[against], part.wrong)
        rows.append(
            {"fitted_on": f"{against} (not fitted)", "scored_on": part.name, "how": "as it is", **_cells(found)}
        )
    return Table(f"Transfer of {recipe.id}", rows, _notes(parts, rows, scheme, lost))


def _row(learnt: Learnt, scored_on: str, how: str, found: Estimate) -> dict[str, Any]:
    kept = learnt.fitted.candidate.words()
    return {"fitted_on": learnt.rows.name, "scored_on": scored_on, "how": how, **_cells(found), "kept": kept}


def _cells(found: Estimate) -> dict[str, Any]:
    return {
        "auroc": found.value,
        "lower": found.lower,
        "upper": found.upper,
        "n": found.n,
        "wrong": found.n_positive,
        "reason": found.reason,
    }


def _notes(parts: Sequence[Rows], rows: Sequence[dict[str, Any]], scheme: Scheme, lost: int) -> list[str]:
    own = [row["auroc"] for row in rows if row["how"] == "out-of-fold"]
    other = [row["auroc"] for row in rows if row["how"] == "other documents"]
    plain = [row["auroc"] for row in rows if row["how"] == "as it is"]
    notes = [
        f"Rows are fitted, columns scored: on its own documents out-of-fold ({scheme.folds} folds, seed {scheme.seed}),"
        " on others by the model fitted on all of its own.",
        f"Mean AUROC in-domain {_mean(own)}, out-of-domain {_mean(other)}, not fitted {_mean(plain)}.",
        "Documents: " + "; ".join(f"{p.name} {len(p)} ({int(p.wrong.sum())} wrong)" for p in parts) + ".",
    ]
    if lost:
        notes.append(f"{lost} documents fitted on elsewhere in the matrix were left out where that model is scored.")
    reasons = {f"{row['fitted_on']} on {row['scored_on']}: {row['reason']}." for row in rows if row["reason"]}
    return [*notes, *sorted(reasons), *dict.fromkeys(note for p in parts for note in p.lost)]


def _mean(values: Sequence[float]) -> str:
    known = [v for v in values if not math.isnan(v)]
    return f"{np.mean(known):.3f}" if known else "undefined"


def show_transfer(table: Table, format_: str) -> str:
    """The matrix as md or latex, and the notes below."""
    cells: dict[str, dict[str, Any]] = {}
    for row in table.rows:
        line = cells.setdefault(row["fitted_on"], {"fitted on": row["fitted_on"]})
        line[f"on {row['scored_on']}"] = interval(row, "auroc")
    order = ["fitted on", *dict.fromkeys(f"on {row['scored_on']}" for row in table.rows)]
    lines = [{name: line.get(name) for name in order} for line in cells.values()]
    return page(table.title, render(lines, format_), table.notes, format_)
