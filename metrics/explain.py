"""One answer as a self-contained page of HTML: its tokens coloured by any recorded signal."""

from __future__ import annotations

import base64
import html
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from metrics.documents import array, axes_of, lacking, layer_names
from metrics.record import Record
from metrics.store import Store

TEMPLATE = Path(__file__).with_name("explain.html")
POSITIONS = ("token", "step", "key")
BUDGET = 160_000
"""Characters that signals may take on a page when none is named."""

ALTERNATIVES = 5
TOP, TOP_IDS = "top_logprobs", "top_tokens"


@dataclass(frozen=True)
class Shade:
    """A signal by row and position, to colour tokens by.

    `values` is (rows, n); its first column belongs to the token at `first`, counted from the start of the prompt.
    `rows` names the layers, or the entries of another axis; one empty name where there is no such axis.
    """

    name: str
    unit: str
    summary: str
    axis: str
    rows: tuple[str, ...]
    first: int
    values: np.ndarray

    def packed(self) -> dict[str, Any]:
        """The page's form of it: values in half precision times a power of two, so three digits, whatever the range."""
        scale = _scale(self.values)
        data = base64.b64encode((self.values / scale).astype("<f2").tobytes()).decode()
        shown = ("name", "unit", "summary", "axis", "first")
        low, high = _range(self.values)
        made = {k: getattr(self, k) for k in shown} | {"rows": list(self.rows), "width": self.values.shape[1]}
        return {**made, "scale": scale, "low": low, "high": high, "data": data}


@dataclass(frozen=True)
class Page:
    """What a page shows.

    `texts` has one entry a token, the prompt's first; `kinds` says of each token of the continuation which span it is
    in. `alternatives` are ids by rank, (n, k), or None; `words` the texts of these ids.
    """

    title: str
    facts: Sequence[tuple[str, str]]
    verdicts: Sequence[tuple[str, str]]
    prompt_count: int
    ids: Sequence[int]
    texts: Sequence[str]
    kinds: Sequence[str]
    shades: Sequence[Shade]
    scores: Sequence[Mapping[str, str]] = ()
    notes: Sequence[str] = ()
    alternatives: np.ndarray | None = None
    probabilities: np.ndarray | None = None
    words: Mapping[int, str] = field(default_factory=dict)


def showable(store: Store, name: str) -> bool:
    """Whether a recorded signal has one value a token, in rows or not; heads are averaged."""
    axes = axes_of(store, name)
    others = [axis for axis in axes if axis not in (*POSITIONS, "head")]
    return sum(axis in POSITIONS for axis in axes) == 1 and len(others) <= 1 and name not in PRIVATE


PRIVATE = (TOP, TOP_IDS, "tokens", "prompt_tokens")
"""Signals that the page shows in other ways."""


def shade(store: Store, record: Record, name: str) -> Shade:
    """A recorded signal of a record, ready to colour with.

    The step axis is shown at the token that its state produced; the state that read the last token produced none and
    is not shown. Heads are averaged.

    Raises:
        ValueError: the record lacks it, or it has not one value a token.
    """
    axes = list(axes_of(store, name))
    if name not in record.signals:
        raise ValueError(lacking(store, name))
    if not showable(store, name):
        raise ValueError(f"signal '{name}' has axes {' x '.join(axes)}: not one value a token, so nothing to colour by")
    value = array(record, name)
    summary = store.manifest["signals"][name].get("summary", "")
    if "head" in axes:
        value = value.mean(axes.index("head"))
        axes.remove("head")
        summary = f"{summary} Mean over heads."
    position = next(axis for axis in axes if axis in POSITIONS)
    value = np.moveaxis(value, axes.index(position), -1)
    axes.remove(position)
    first = 0 if position == "key" else record.prompt_count
    if position == "step":
        value = value[..., :-1]
    rows = ("",)
    if axes:
        count = value.shape[0]
        rows = tuple(map(str, layer_names(store.manifest, count) if axes == ["layer"] else range(count)))
    unit = store.manifest["signals"][name].get("unit", "1")
    return Shade(name, unit, summary, axes[0] if axes else "", rows, first, value.reshape(len(rows), -1))


def within_budget(shades: Sequence[Shade], budget: int = BUDGET) -> tuple[list[Shade], list[str]]:
    """The shades that fit, small ones first, and the names of the others."""
    kept, left, used = [], [], 0
    for one in sorted(shades, key=lambda s: s.values.size):
        used += 8 * one.values.size // 3
        if used <= budget:
            kept.append(one)
        else:
            left.append(one.name)
    return kept, left


def kinds(record: Record) -> list[str]:
    """Of each token of the continuation: ``thought``, ``answer``, ``exact``, ``generation`` (rest) or ``outside``."""
    found = ["outside"] * record.token_count
    for name in ("generation", "thought", "answer", "exact"):
        if name in record.spans:
            start, stop = record.spans[name]
            found[start:stop] = [name] * (stop - start)
    return found


def render(page: Page) -> str:
    """The page, with everything escaped and nothing loaded from anywhere."""
    values = {
        "title": html.escape(page.title),
        "facts": "".join(f"<dt>{html.escape(k)}</dt><dd>{html.escape(v)}</dd>" for k, v in page.facts),
        "verdicts": "".join(
            f'<li class="{html.escape(v.split()[0])}"><b>{html.escape(v)}</b> {html.escape(k)}</li>'
            for k, v in page.verdicts
        ),
        "prompt": _prompt(page),
        "answer": "".join(
            f'<span class="t {kind}">{visible(text)}</span>'
            for text, kind in zip(page.texts[page.prompt_count :], page.kinds)
        ),
        "scores": _table(page.scores),
        "notes": "".join(f"<p>{html.escape(note)}</p>" for note in page.notes),
        "data": _script(_data(page)),
    }
    template = TEMPLATE.read_text(encoding="utf-8")
    return re.sub(r"\{\{(\w+)\}\}", lambda found: values[found[1]], template)


def visible(text: str) -> str:
    """A token's text, escaped; line ends and tabs get a mark, control characters their picture, nothing a dot."""
    shown = "".join(_MARKS.get(c, c) for c in text.replace("\r\n", "\n"))
    return html.escape(shown) or "·"


_MARKS = {chr(i): chr(0x2400 + i) for i in range(32)} | {"\n": "↵\n", "\t": "⇥\t", "\x7f": "\u2421"}


def _prompt(page: Page) -> str:
    """The prompt's tokens each by itself only if a signal colours them; else its text, which is shorter."""
    texts = page.texts[: page.prompt_count]
    if any(s.first == 0 for s in page.shades) and page.prompt_count:
        return "".join(f'<span class="t">{visible(text)}</span>' for text in texts)
    return visible("".join(texts)) if any(texts) else ""


def _data(page: Page) -> dict[str, Any]:
    made: dict[str, Any] = {
        "prompt": page.prompt_count,
        "ids": list(page.ids),
        "kinds": list(page.kinds),
        "signals": [s.packed() for s in page.shades],
    }
    if page.probabilities is not None:
        made["p"] = [[_number(v) for v in row] for row in page.probabilities]
    if page.alternatives is not None:
        made["top"] = page.alternatives.tolist()
        made["words"] = {str(k): v for k, v in page.words.items()}
    return made


def _number(value: float) -> float | None:
    return float(f"{value:.3g}") if math.isfinite(value) else None


def _script(data: Mapping[str, Any]) -> str:
    """JSON that no parser of HTML takes for anything else."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _table(rows: Sequence[Mapping[str, str]]) -> str:
    if not rows:
        return ""
    head = "".join(f"<th>{html.escape(name)}</th>" for name in rows[0])
    body = "".join("<tr>" + "".join(f"<td>{html.escape(v)}</td>" for v in row.values()) + "</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _scale(values: np.ndarray) -> float:
    """The power of two that brings the largest finite value between 2^14 and 2^15."""
    finite = np.abs(values[np.isfinite(values)])
    largest = float(finite.max()) if finite.size else 0.0
    return 2.0 ** (math.frexp(largest)[1] - 15) if largest > 0 else 1.0


def _range(values: np.ndarray) -> tuple[float, float]:
    """Where colours begin and end: the quantiles .02 and .98 of all rows, so that no outlier pales the rest."""
    finite = values[np.isfinite(values)]
    if not finite.size:
        return 0.0, 0.0
    low, high = np.quantile(finite, [0.02, 0.98])
    return (float(low), float(high)) if high > low else (float(finite.min()), float(finite.max()))
