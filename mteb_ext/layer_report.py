"""What a reader sees of a ranking of layers: sentences, and tables with an interval in one cell."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from metrics.stats import Estimate
from metrics.stats.arms import FEW
from metrics.table import render
from mteb_ext.ranking import Verdict

HEADERS = {
    "best_layer": "best layer",
    "gap_last": "over last, in-sample",
    "gap_last_out_of_sample": "last, out of sample",
    "gap_middle": "over middle, in-sample",
    "gap_middle_out_of_sample": "middle, out of sample",
    "p_best": "P(best)",
    "p_best_items": "P(best), items",
    "gap_last_items": "over last, items",
    "gap_middle_items": "over middle, items",
    "behind_items": "behind best, items",
    "oracle": "oracle",
    "mark": "is",
    "depth": "depth %",
    "type_mean": "mean of types",
    "borda": "Borda",
    "z_mean": "z-mean",
    "behind": "behind best",
    "told_apart": "told apart",
    "overall_best_layer": "overall best",
    "rho_others": "rho with other tasks",
}
"""How a column is called in a table for reading."""

DIGITS = 4


def table(rows: Sequence[Mapping[str, Any]], format_: str) -> str:
    """Write a table: all columns as they are in csv and json; intervals in brackets behind the number otherwise."""
    if format_ in ("csv", "json"):
        return render(rows, format_)
    return render([_readable(row) for row in rows], format_, digits=DIGITS)


def sentence(verdict: Verdict, level: float, *, name: bool) -> str:
    """Say which layer is best, by how much, and how sure that is."""
    v, s = verdict, verdict.series
    best = int(s.layers[v.best])
    text = f"{s.label}: layer" if name else "Layer"
    text += f" {best} of {s.blocks} is best: {number(v.means[v.best])} on average over {_count(len(s.tasks), 'task')}"
    text += _against("last", s.last, s, v) + _against("middle", s.middle, s, v) + "."
    if len(s.layers) < 2:
        return text + " It is the only layer that was evaluated."
    if len(s.tasks) < 2:
        return text + " One task says nothing about others: no P(best) and no interval over tasks." + _items(v, level)
    kind = f"[{level:.0%} interval over tasks], in-sample"
    for what, found, out in (("last", v.last, v.last_out), ("middle", v.middle, v.middle_out)):
        if found is None or not found.value:
            continue
        honest = f"{number(out, sign=True)} on tasks that did not choose it" if not math.isnan(out) else ""
        text += f"\nGap to {what} {signed(found)} {kind}" + (f"; {honest}." if honest else ".")
        kind = "in-sample"
    near = s.layers[~v.apart]
    text += f"\nP(best) = {v.p_best[v.best]:.2f}; "
    same = [int(k) for k in near if k != best]
    if len(s.tasks) < FEW:
        text += f"{len(s.tasks)} tasks are too few to say which layers can be told apart."
    else:
        text += (
            f"layers that cannot be told from it at {level:.0%}: {ranges(same)}."
            if same
            else f"every other layer can be told from it at {level:.0%}."
        )
    picks = {int(s.layers[i]): v.picks[i] for i in np.argsort(-v.picks, kind="stable") if v.picks[i] > 0}
    chosen = ", ".join(f"{k} ({n:.3g} of {len(s.tasks)})" for k, n in list(picks.items())[:4])
    return text + f"\nWith one task left out, the best is layer {chosen}." + _items(v, level)


def _items(v: Verdict, level: float) -> str:
    """The gaps and P(best) over items, on a line of their own."""
    if v.items is None:
        return ""
    gaps = []
    for what, row in (("last", v.series.last), ("middle", v.series.middle)):
        if row is None or row == v.best:
            continue
        gap = v.items.gap(v.best, row, level)
        gaps.append(f"gap to {what} {signed(gap)}")
    of = f"\nItems of {_count(len(v.items.tasks), 'task')} drawn again [{level:.0%} interval over items], in-sample: "
    share = v.items.p_best[v.best]
    return of + ", ".join([*gaps, f"P(best) = {share:.2f}" if not math.isnan(share) else "no draw has a score"]) + "."


def signed(gap: Estimate) -> str:
    """A difference with its interval in brackets, if it has one."""
    if math.isnan(gap.lower):
        return number(gap.value, sign=True)
    return f"{number(gap.value, sign=True)} [{number(gap.lower, sign=True)}, {number(gap.upper, sign=True)}]"


def number(value: float, *, sign: bool = False) -> str:
    """A score with four digits; a difference with its sign and no leading zero.

    >>> number(0.5), number(-0.05, sign=True)
    ('0.5000', '-.0500')
    """
    if math.isnan(value):
        return "–"
    return f"{value:+.{DIGITS}f}".replace("0.", ".", 1) if sign and abs(value) < 1 else f"{value:.{DIGITS}f}"


def ranges(layers: Sequence[int]) -> str:
    """Whole numbers, runs of three or more as first-last.

    >>> ranges([1, 2, 3, 7, 8])
    '1-3, 7, 8'
    """
    runs: list[list[int]] = []
    for k in sorted(layers):
        if runs and k == runs[-1][-1] + 1:
            runs[-1].append(k)
        else:
            runs.append([k])
    return ", ".join(f"{r[0]}-{r[-1]}" if len(r) > 2 else ", ".join(map(str, r)) for r in runs)


def _against(what: str, row: int | None, s: Any, v: Verdict) -> str:
    if row is None:
        return f"; the {what} layer was not evaluated"
    if row == v.best:
        return f" (it is the {what} layer)"
    at = f" (layer {int(s.layers[row])})" if what == "middle" else ""
    return f"; {what}{at} {number(v.means[row])}"


def _count(n: int, what: str) -> str:
    return f"{n} {what}" + ("" if n == 1 else "s")


def _readable(row: Mapping[str, Any]) -> dict[str, Any]:
    shown: dict[str, Any] = {}
    for key, value in row.items():
        if key.endswith(("_lower", "_upper")):
            continue
        if key.startswith("depth_"):
            shown[f"{key[6:]} %"] = value
            continue
        if key == "depth":
            value = None if value is None or math.isnan(value) else round(100 * value)
        elif f"{key}_lower" in row and not math.isnan(row[f"{key}_lower"]):
            lower, upper = row[f"{key}_lower"], row[f"{key}_upper"]
            value = f"{number(value, sign=True)} [{number(lower, sign=True)}, {number(upper, sign=True)}]"
        elif f"{key}_lower" in row:
            value = "–" if math.isnan(value) else number(value, sign=True)
        elif key.startswith("gap"):
            value = None if math.isnan(value) else number(value, sign=True)
        elif key.startswith("p_best"):
            value = None if value is None or math.isnan(value) else f"{value:.2f}"
        shown[HEADERS.get(key, key)] = value
    return shown
