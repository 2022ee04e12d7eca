"""Rows of values as markdown, CSV, JSON or LaTeX."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

FORMATS = ("md", "csv", "json", "latex")
_LATEX = str.maketrans(
    {c: f"\\{c}" for c in "&%$#_{}"}
    | {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\\": r"\textbackslash{}", "\n": " ", "\r": " "}
)
_MARKDOWN = str.maketrans({"|": r"\|", "\n": " ", "\r": " "})


def render(rows: Sequence[Mapping[str, Any]], format_: str = "md", *, digits: int = 3) -> str:
    """Write rows as a table; numbers are rounded in md and latex, whole in csv and json, where NaN is empty or null.

    Columns stand in the order in which keys first occur; a cell whose key a row lacks is empty, a dash in md and latex.

    Raises:
        ValueError: unknown format.
    """
    if format_ not in FORMATS:
        raise ValueError(f"format '{format_}' is not known; choose {', '.join(FORMATS)}")
    if format_ == "json":
        return json.dumps([{k: plain(v) for k, v in row.items()} for row in rows], indent=2, ensure_ascii=False)
    if not rows:
        return ""
    names = list(dict.fromkeys(name for row in rows for name in row))
    if format_ == "csv":
        out = io.StringIO()
        writer = csv.DictWriter(out, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows({k: "" if _missing(v) else v for k, v in row.items()} for row in rows)
        return out.getvalue().rstrip("\n")
    cells = [[_cell(row.get(n), digits) for n in names] for row in rows]
    right = [all(not isinstance(row.get(n), str) for row in rows) for n in names]
    return _markdown(names, cells, right) if format_ == "md" else _latex(names, cells, right)


def _markdown(names: Sequence[str], cells: Sequence[Sequence[str]], right: Sequence[bool]) -> str:
    names = [name.translate(_MARKDOWN) for name in names]
    cells = [[cell.translate(_MARKDOWN) for cell in row] for row in cells]
    widths = [max(len(n), 2, *(len(row[i]) for row in cells)) for i, n in enumerate(names)]

    def line(row: Sequence[str]) -> str:
        padded = [c.rjust(w) if r else c.ljust(w) for c, w, r in zip(row, widths, right)]
        return "| " + " | ".join(padded) + " |"

    rule = "|" + "|".join("-" * (w + 1) + (":" if r else "-") for w, r in zip(widths, right)) + "|"
    return "\n".join([line(names), rule, *map(line, cells)])


def _latex(names: Sequence[str], cells: Sequence[Sequence[str]], right: Sequence[bool]) -> str:
    def line(row: Sequence[str]) -> str:
        return " & ".join(c.translate(_LATEX) for c in row) + r" \\"

    spec = "".join("r" if r else "l" for r in right)
    head = [rf"\begin{{tabular}}{{{spec}}}", r"\toprule", line(names), r"\midrule"]
    return "\n".join([*head, *map(line, cells), r"\bottomrule", r"\end{tabular}"])


def _cell(value: Any, digits: int) -> str:
    if _missing(value):
        return "–"
    if isinstance(value, float):
        return f"{value:.{digits}f}"
    return str(value)


def _missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def plain(value: Any) -> Any:
    """As JSON has it: null for what is undefined; infinities, which it has not, as words."""
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value
