"""The figure of score by layer, drawn with matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from metrics.drawing import COLOURS
from metrics.stats import arms as arms_
from mteb_ext.ranking import Options
from mteb_ext.series import Series, shared_tasks

BANDS = 2
"""With more lines than this no interval is shaded."""


def draw(series: Sequence[Series], file: Path, options: Options, *, per_type: bool = False) -> Path:
    """Draw mean score by layer, one line a series, a star at its best layer and a square at its last.

    Several series are drawn on the tasks that all have, and over depth in percent where their depths differ. With at
    most two lines a band shows how far behind the best layer each layer may be: the interval, over resampled tasks, of
    the gap to it. `per_type` adds a panel per type of task. The suffix of `file` (.png, .svg, .pdf) is its format; the
    same input gives the same file.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: the series share no task.
    """
    try:
        import matplotlib as mpl
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError("drawing a figure needs matplotlib: pip install 'eval-ext[plots]'") from None

    tasks = shared_tasks(series)
    panels = _panels([s.on([s.tasks.index(t) for t in tasks]) for s in series], per_type)
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    style: Any = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "svg.hashsalt": "layers"}
    with mpl.rc_context(style):
        size = (7.6, 4.4) if len(panels) == 1 else (3.6 * columns + 1.6, 2.7 * rows)
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(rows, columns, squeeze=False)
        colours = _colours(mpl, len(series))
        for axis, (title, parts) in zip(axes.flat, panels):
            _panel(axis, title, parts, colours, options)
        for axis in list(axes.flat)[len(panels) :]:
            axis.set_visible(False)
        _key(figure, axes[0, 0], len(series))
        file.parent.mkdir(parents=True, exist_ok=True)
        undated = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
        figure.savefig(file, dpi=150, metadata=undated.get(file.suffix))
    return file


def _panels(series: Sequence[Series], per_type: bool) -> list[tuple[str, Sequence[Series]]]:
    """A title and the series of each panel; they have the same tasks."""
    tasks, types = series[0].tasks, series[0].types
    panels: list[tuple[str, Sequence[Series]]] = [(f"mean over {len(tasks)} task" + "s" * (len(tasks) > 1), series)]
    for type_ in sorted(set(types)) if per_type else ():
        of = [t for t, kind in zip(tasks, types) if kind == type_]
        panels.append((f"{type_} ({len(of)})", [s.on([s.tasks.index(t) for t in of]) for s in series]))
    return panels


def _panel(axis: Any, title: str, series: Sequence[Series], colours: Sequence[Any], options: Options) -> None:
    by_depth = len({s.blocks for s in series}) > 1
    styles = ("-",) if len(series) <= len(COLOURS) else ("-", "--", "-.")
    for i, (s, colour) in enumerate(zip(series, colours)):
        x = 100 * s.layers / max(s.blocks, 1) if by_depth else s.layers
        means = s.scores.mean(axis=1)
        label = s.label.replace("$", r"\$")  # a lone dollar starts a formula
        axis.plot(x, means, styles[i % len(styles)], color=colour, lw=1.6, label=label)
        axis.plot(x[s.best], means[s.best], "*", color=colour, ms=11, mec="white", mew=0.6, zorder=4)
        if s.last is not None:
            axis.plot(x[s.last], means[s.last], "s", color=colour, ms=5, mfc="white", mew=1.4, zorder=3)
        if len(series) <= BANDS and len(s.tasks) > 1:
            lower, upper = _band(s, options)
            axis.fill_between(x, lower, upper, color=colour, alpha=0.15, lw=0)
    axis.set(xlabel="depth, % of the blocks" if by_depth else "layer (0 = embeddings)", ylabel="score", title=title)
    if not by_depth:
        axis.xaxis.get_major_locator().set_params(integer=True)


def _band(s: Series, options: Options) -> tuple[np.ndarray, np.ndarray]:
    counts = arms_.task_counts(
        len(s.tasks), draws=options.draws, seed=options.seed, types=s.types if options.stratify else None
    )
    drawn = arms_.resampled_means(s.scores, counts)
    behind = drawn - drawn[:, [s.best]]
    edges = np.quantile(behind, [(1 - options.level) / 2, (1 + options.level) / 2], axis=0)
    top = s.scores[s.best].mean()
    return top + edges[0], top + edges[1]


def _key(figure: Any, axis: Any, count: int) -> None:
    """Names of the lines, to the right if there are many, and what the marks mean."""
    from matplotlib.lines import Line2D

    marks: list[Any] = [Line2D([], [], color="0.35", ls="", marker="*", ms=9, label="best")]
    marks.append(Line2D([], [], color="0.35", ls="", marker="s", ms=5, mfc="white", mew=1.4, label="last"))
    lines = axis.get_legend_handles_labels()[0]
    if count <= BANDS:
        from matplotlib.patches import Patch

        marks.append(Patch(color="0.35", alpha=0.2, lw=0, label="interval of the\ngap to the best"))
    figure.legend(handles=[*lines, *marks], frameon=False, fontsize=8, loc="outside right upper")


def _colours(mpl: Any, count: int) -> list[Any]:
    """Okabe and Ito's colours for few lines; along viridis, also told apart by colour-blind readers, for many."""
    if count <= len(COLOURS):
        return list(COLOURS[:count])
    return [mpl.colormaps["viridis"](v) for v in np.linspace(0, 0.93, count)]
