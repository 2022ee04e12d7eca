"""Figures of one document: a signal along its tokens, by layer, the influence of tokens, and received attention."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from metrics.drawing import RIGHT, WRONG, Picture, heatmap, measured, panels, plain, style, titled

LABELLED = 60
"""Up to so many tokens have their text beneath them."""

PEAKS = 3


def curve(title: str, signal: str, unit: str, values: np.ndarray, words: Sequence[str]) -> Picture:
    """A token signal along one answer; its three largest local maxima are marked. Numbers: one row a token."""
    high = peaks(values, PEAKS)
    with style():
        figure, (axis,) = panels(1, width=_width(len(values)), height=2.8)
        axis.plot(np.arange(len(values)), values, color=RIGHT, lw=1.4, marker="o", ms=2.5)
        axis.plot(high, values[high], "v", color=WRONG, ms=6, label=f"largest {PEAKS} peaks")
        axis.set(ylabel=measured(signal, unit), xlim=(-0.5, len(values) - 0.5))
        axis.legend(fontsize=8, loc="upper right")
        _tokens(axis, words)
        titled(figure, f"{title}: {signal}")
    numbers = pd.DataFrame({"token": range(len(values)), "text": words, "value": values})
    numbers["peak"] = numbers["token"].isin(high)
    return Picture(f"{title} curve {signal}", figure, numbers)


def peaks(values: np.ndarray, most: int) -> np.ndarray:
    """Places of the largest local maxima, at most so many, in order of place.

    A plateau counts once, at its first token; the ends count when they are above their one neighbour. NaN is no peak.
    """
    filled = np.where(np.isnan(values), -np.inf, values)
    starts = np.flatnonzero(np.concatenate(([True], filled[1:] != filled[:-1]))[: len(filled)])
    level = filled[starts]
    around = np.concatenate(([-np.inf], level, [-np.inf]))
    tops = starts[(level > around[:-2]) & (level > around[2:])]
    return np.sort(tops[np.argsort(-filled[tops], kind="stable")[:most]])


def by_layer(
    title: str,
    signal: str,
    unit: str,
    layers: Sequence[int],
    values: np.ndarray,
    words: Sequence[str],
    *,
    prompt: int = 0,
    logarithmic: bool = False,
) -> Picture:
    """A (layer, token) signal of one text. Numbers: one row a layer and token.

    Args:
        title: names the document.
        signal: its name.
        unit: its unit.
        layers: names of the rows.
        values: (layer, n).
        words: n texts.
        prompt: so many of the tokens are the prompt's; a line stands behind them.
        logarithmic: colours follow log10; what is not positive is grey.
    """
    shown = values
    if logarithmic:
        shown = np.log10(np.where(values > 0, values, np.nan))
    with style():
        figure, (axis,) = panels(1, width=_width(values.shape[1]), height=1.4 + 0.14 * min(len(layers), 40))
        image = heatmap(axis, shown, layers)
        if prompt:
            axis.axvline(prompt - 0.5, color=WRONG, lw=1)
        axis.set(ylabel="layer")
        _tokens(axis, words)
        figure.colorbar(image, ax=axis, label=f"log10 of {signal}" if logarithmic else measured(signal, unit))
        titled(figure, f"{title}: {signal}", "line: the prompt ends" if prompt else "")
    rows = [
        {"layer": layer, "token": t, "text": word, "value": float(values[i, t])}
        for i, layer in enumerate(layers)
        for t, word in enumerate(words)
    ]
    return Picture(f"{title} layers {signal}", figure, pd.DataFrame(rows))


def influence(title: str, rows: Mapping[str, np.ndarray], words: Sequence[str]) -> Picture:
    """One row a token signal, each divided by its largest absolute value, since their scales differ.

    A row without one (all zero or NaN) is grey. Numbers: the values themselves, one column a signal.

    Raises:
        ValueError: there is no row.
    """
    if not rows:
        raise ValueError(f"{title}: there is no influence to draw")
    scaled = np.stack([_to_one(values) for values in rows.values()])
    low = -1.0 if np.nanmin(scaled, initial=0.0) < 0 else 0.0
    with style():
        figure, (axis,) = panels(1, width=_width(len(words)), height=1.2 + 0.24 * len(rows))
        image = heatmap(axis, scaled, list(rows), diverging=low < 0, limits=(0.0, 1.0))
        axis.set_yticks(range(len(rows)), list(rows))
        axis.invert_yaxis()
        _tokens(axis, words)
        figure.colorbar(image, ax=axis, label="share of the row's largest")
        titled(figure, f"{title}: influence of tokens")
    return Picture(f"{title} influence", figure, pd.DataFrame({"token": range(len(words)), "text": words, **rows}))


def _to_one(values: np.ndarray) -> np.ndarray:
    finite = np.abs(values[np.isfinite(values)])
    largest = float(finite.max()) if finite.size else 0.0
    return values / largest if largest > 0 else np.full(len(values), np.nan)


def _width(tokens: int) -> float:
    return min(16.0, max(5.5, 1.8 + 0.2 * min(tokens, LABELLED)))


def _tokens(axis: Any, words: Sequence[str]) -> None:
    """Name the tokens under the axis, or number them where there are too many."""
    if len(words) <= LABELLED:
        texts = [plain(word.replace("\n", "↵").replace("\t", "⇥"), 14) for word in words]
        axis.set_xticks(range(len(words)), texts, rotation=90, fontsize=7)
    else:
        axis.set_xlabel("token")
