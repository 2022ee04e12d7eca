"""A figure of clusters of questions: uncertainty, predicted and true error."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from metrics.drawing import COLOURS, Picture, panels, plain, style, titled

GREY = "0.45"


def domains(rows: Sequence[dict[str, Any]], metric: str, title: str) -> Picture:
    """Each cluster's uncertainty, most uncertain on top, and beside it predicted (circles) and true error (squares).

    Bars are the 95 % intervals of the rows; the second panel is left out without predicted and true error. Numbers: the
    rows' columns that are drawn.
    """
    known = [name for name in ("predicted", "true") if any(name in row for row in rows)]
    names = [plain(f"{row['cluster']}: {' '.join(row['words'][:3]) or row['example']}", 40) for row in rows]
    at = np.arange(len(rows))[::-1].astype(float)
    with style():
        figure, axes = panels(2 if known else 1, width=3.6, height=0.8 + 0.32 * len(rows), sharey=True)
        _bars(axes[0], rows, "uncertainty", at, GREY, "o")
        axes[0].set(xlabel=f"mean {metric}", yticks=at, ylim=(-0.7, len(rows) - 0.3))
        axes[0].set_yticklabels(names)
        for offset, name in zip((0.12, -0.12), known):
            colour, marker = (COLOURS[0], "o") if name == "predicted" else (COLOURS[1], "s")
            _bars(axes[1], rows, name, at + (offset if len(known) > 1 else 0), colour, marker)
        if known:
            axes[1].set(xlabel="share wrong")
            names = [f"{name} error" for name in known]
            axes[1].legend(names, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, fontsize=8)
        titled(figure, title)
    columns = ["cluster", "n", *(f"{n}{end}" for n in ("uncertainty", *known) for end in ("", "_lower", "_upper"))]
    return Picture(f"domains {metric}", figure, pd.DataFrame(list(rows), columns=columns))


def _bars(axis: Any, rows: Sequence[dict[str, Any]], name: str, at: np.ndarray, colour: str, marker: str) -> None:
    value, low, high = (np.array([row.get(f"{name}{end}", np.nan) for row in rows]) for end in ("", "_lower", "_upper"))
    reach = np.maximum(0.0, np.stack([value - low, high - value]))
    axis.errorbar(value, at, xerr=reach, fmt=marker, color=colour, ms=4, lw=1.2, capsize=2)
