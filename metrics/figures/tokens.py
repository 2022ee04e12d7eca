"""Figures of signals along the answers: mean curves and layer profiles of right and of wrong ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from metrics.drawing import RIGHT, WRONG, Picture, heatmap, measured, panels, style, titled

FEW = 5
"""A mean over fewer documents than this is not drawn."""

BINS = 20
WINDOWS = 10


class Group(NamedTuple):
    """Documents that are drawn in one colour."""

    name: str
    colour: str
    values: Sequence[np.ndarray]


def grouped(values: Mapping[Any, np.ndarray], wrong: Mapping[Any, bool] | None) -> tuple[list[Group], int]:
    """Right and wrong documents, or all as one without labels, and how many were left out.

    Left out are those without a label, without a token, or with NaN or an infinity.
    """
    usable = {k: v for k, v in values.items() if v.size and (wrong is None or k in wrong)}
    whole = {k: v for k, v in usable.items() if np.isfinite(v).all()}
    left = len(values) - len(whole)
    if wrong is None:
        return [Group("all", RIGHT, list(whole.values()))], left
    right = [v for k, v in whole.items() if not wrong[k]]
    return [Group("right", RIGHT, right), Group("wrong", WRONG, [v for k, v in whole.items() if wrong[k]])], left


def in_windows(values: np.ndarray, windows: int) -> np.ndarray:
    """The last axis (n tokens) as so many windows of equal length: (..., windows).

    A window's value is the mean over its stretch [i n / W, (i + 1) n / W] of the function that is x_t on [t, t + 1), so
    tokens that two windows share count in both by their parts, and the mean over windows is the mean over tokens.
    """
    n = values.shape[-1]
    total = np.concatenate([np.zeros((*values.shape[:-1], 1)), np.cumsum(values, axis=-1)], axis=-1)
    edges = np.linspace(0, n, windows + 1)
    before = np.minimum(np.floor(edges).astype(int), n - 1)
    reached = total[..., before] + (edges - before) * values[..., before]
    return np.diff(reached, axis=-1) * (windows / n)


def curves(
    title: str, signal: str, unit: str, values: Mapping[Any, np.ndarray], wrong: Mapping[Any, bool] | None
) -> Picture:
    """Mean of a token signal by relative and by absolute position, and where each document has its peak.

    Left: each document in 20 windows of equal length (`in_windows`). Middle: by token number, as far as at least five
    documents of the group reach; the documents change along it, short ones drop out. Bands are mean ± 1.96 standard
    errors over documents. Right: how often the largest value (the first of equals) lies in each fifth of the answer,
    of documents of at least five tokens. Numbers: one row a panel, group and position.
    """
    groups, left = grouped(values, wrong)
    rows: list[dict[str, Any]] = []
    with style():
        figure, (relative, absolute, peaks) = panels(3, width=3.3, height=2.7)
        for group in groups:
            if not group.values:
                continue
            label = f"{group.name} ({len(group.values)})"
            found = np.stack([in_windows(v, BINS) for v in group.values])
            at = (np.arange(BINS) + 0.5) / BINS
            rows += _line(relative, "relative", group, at, list(found.T), label)
            longest = max(len(v) for v in group.values)
            columns = [np.array([v[t] for v in group.values if len(v) > t]) for t in range(longest)]
            columns = [column for column in columns if len(column) >= FEW]
            rows += _line(absolute, "absolute", group, np.arange(len(columns)), columns, label)
            places = np.array([(int(v.argmax()) + 0.5) / len(v) for v in group.values if len(v) >= FEW])
            counts = np.histogram(places, np.linspace(0, 1, 6))[0]
            if len(places):
                peaks.stairs(counts / len(places), np.linspace(0, 1, 6), color=group.colour, lw=1.4)
            rows += [
                {"panel": "peak", "group": group.name, "position": p, "mean": share, "n": len(places)}
                for p, share in zip((0.1, 0.3, 0.5, 0.7, 0.9), (counts / max(len(places), 1)).tolist())
            ]
        relative.set(xlabel="share of the answer", ylabel=measured(signal, unit), xlim=(0, 1))
        if relative.lines:
            relative.legend(fontsize=8)
        else:
            relative.text(0.5, 0.5, f"fewer than {FEW} documents a group", ha="center", transform=relative.transAxes)
        absolute.set(xlabel="token of the answer")
        peaks.set(xlabel="share of the answer", ylabel="documents with their peak there", xlim=(0, 1))
        peaks.set_ylim(bottom=0)
        titled(figure, f"{title}: {signal}", "means over documents with 95 % intervals; " + _left_out(left))
    return Picture(f"{title} curves {signal}", figure, pd.DataFrame(rows))


def profile(
    title: str,
    signal: str,
    unit: str,
    layers: Sequence[int],
    values: Mapping[Any, np.ndarray],
    wrong: Mapping[Any, bool] | None,
) -> Picture:
    """Mean of a (layer, token) signal over ten windows of the answer: right, wrong, and wrong minus right.

    Each document counts once, whatever its length (`in_windows`). A layer that is NaN in every document, as by
    definition some are, is left grey. Numbers: one row a layer and window.
    """
    undefined = _never_numbers(list(values.values()), len(layers))
    filled = {k: np.where(undefined[:, None], 0.0, v) for k, v in values.items()}
    groups, left = grouped(filled, wrong)
    means: dict[str, np.ndarray] = {}
    for group in groups:
        if group.values:
            mean = np.mean([in_windows(v, WINDOWS) for v in group.values], axis=0)
            means[f"{group.name} ({len(group.values)})"] = np.where(undefined[:, None], np.nan, mean)
    shown = list(means.items())
    if len(shown) == 2:
        shown.append(("wrong - right", shown[1][1] - shown[0][1]))
    if not shown:
        raise ValueError(f"{title}: no document has {signal} without NaN or infinity, so there is no mean of it")
    rows = []
    with style():
        figure, axes = panels(len(shown), width=3.2, height=3.0, sharey=True)
        finite = np.concatenate([mean[np.isfinite(mean)] for mean in means.values()])
        limits = (float(finite.min()), float(finite.max())) if finite.size else None
        for axis, (name, mean) in zip(axes, shown):
            difference = name == "wrong - right"
            image = heatmap(axis, mean, layers, diverging=difference, limits=limits)
            axis.set(title=name, xlabel="share of the answer")
            axis.set_xticks([-0.5, WINDOWS / 2 - 0.5, WINDOWS - 0.5], ["0", ".5", "1"])
            figure.colorbar(image, ax=axis, label=measured(signal, unit), shrink=0.8)
            rows += [
                {"group": name, "layer": layer, "window": w, "value": float(mean[i, w])}
                for i, layer in enumerate(layers)
                for w in range(WINDOWS)
            ]
        axes[0].set_ylabel("layer")
        titled(figure, f"{title}: {signal}", "means over documents; " + _left_out(left))
    return Picture(f"{title} profile {signal}", figure, pd.DataFrame(rows))


def _line(
    axis: Any, panel: str, group: Group, at: np.ndarray, columns: Sequence[np.ndarray], label: str
) -> list[dict[str, Any]]:
    """Draw the mean of each column with its band; fewer than `FEW` documents are written down but not drawn."""
    mean = np.array([column.mean() for column in columns])
    n = np.array([len(column) for column in columns])
    error = np.array([column.std(ddof=1) / np.sqrt(len(column)) if len(column) > 1 else np.nan for column in columns])
    if len(columns) and n[0] >= FEW:
        axis.plot(at, mean, color=group.colour, lw=1.6, label=label, marker="o" if len(at) == 1 else None)
        axis.fill_between(at, mean - 1.96 * error, mean + 1.96 * error, color=group.colour, alpha=0.2, lw=0)
    return [
        {"panel": panel, "group": group.name, "position": p, "mean": m, "se": e, "n": k}
        for p, m, e, k in zip(at.tolist(), mean.tolist(), error.tolist(), n.tolist())
    ]


def _never_numbers(values: Sequence[np.ndarray], layers: int) -> np.ndarray:
    """Layers that hold nothing but NaN in every document."""
    seen = np.zeros(layers, dtype=bool)
    for value in values:
        seen |= ~np.isnan(value).all(axis=1)
    return ~seen


def _left_out(count: int) -> str:
    return f"left out, unlabelled, empty or not finite: {count}"
