"""What all figures share: colours, style, panels, titles and file names; matplotlib is imported when drawing."""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
"""Okabe and Ito's palette, told apart by colour-blind readers."""

RIGHT, WRONG = COLOURS[0], COLOURS[1]
SEQUENTIAL, DIVERGING = "cividis", "PuOr"
"""Colour maps that keep their order for colour-blind readers and in grey; the second has its middle at zero."""

SUFFIXES = ("png", "svg")


class Picture(NamedTuple):
    """A figure, the name of its file without suffix, and the numbers that it shows."""

    name: str
    figure: Figure
    numbers: pd.DataFrame


@contextlib.contextmanager
def style() -> Iterator[None]:
    """The settings under which every figure is made and saved.

    Raises:
        ImportError: matplotlib is not installed.
    """
    try:
        import matplotlib as mpl
    except ImportError:
        raise ImportError("drawing a figure needs matplotlib: pip install 'eval-ext[plots]'") from None
    plain: Any = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.titlesize": 9}
    with mpl.rc_context({**plain, "svg.hashsalt": "eval-ext", "legend.frameon": False}):
        yield


def panels(
    count: int, *, width: float, height: float, columns: int = 4, least: float = 5.2, **shared: Any
) -> tuple[Figure, list[Axes]]:
    """A figure of `count` panels, `width` x `height` inches each, row by row.

    It is at least `least` inches wide, so that its title has room.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = max(1, min(columns, count))
    rows = max(1, -(-count // columns))
    figure = Figure(figsize=(max(least, width * columns), height * rows + 0.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = list(figure.subplots(rows, columns, squeeze=False, **shared).flat)
    for unused in axes[count:]:
        unused.set_visible(False)
    return figure, axes[:count]


def titled(figure: Figure, *lines: str) -> None:
    """Write the figure's title; of long lines the end is left out."""
    figure.suptitle("\n".join(plain(line, 130) for line in lines if line), fontsize=9)


def save(picture: Picture, folder: Path, *, suffix: str = "png", data: bool = False) -> list[Path]:
    """Write the figure, and its numbers as csv beside it if `data`; the same input gives the same files."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = folder / file_name(picture.name)
    files = [stem.with_name(f"{stem.name}.{suffix}")]
    with style():
        picture.figure.savefig(files[0], dpi=150, metadata={"Date": None} if suffix == "svg" else None)
    if data:
        files.append(stem.with_name(f"{stem.name}.csv"))
        picture.numbers.to_csv(files[1], index=False)
    return files


def heatmap(
    axis: Axes,
    values: np.ndarray,
    rows: Sequence[Any],
    *,
    diverging: bool = False,
    limits: tuple[float, float] | None = None,
) -> Any:
    """Draw a matrix whose first row lies at the bottom, NaN in grey; returns the image, for its colour bar.

    A diverging one has its limits at plus and minus the largest absolute value, so that the middle is zero.
    """
    import matplotlib as mpl

    colours = mpl.colormaps[DIVERGING if diverging else SEQUENTIAL].with_extremes(bad="0.85")
    if diverging:
        finite = values[np.isfinite(values)]
        largest = float(np.abs(finite).max()) if finite.size else 1.0
        limits = (-largest, largest) if largest > 0 else (-1.0, 1.0)
    masked = np.ma.masked_invalid(values)
    low, high = limits or (None, None)
    image = axis.imshow(
        masked, aspect="auto", origin="lower", cmap=colours, interpolation="nearest", vmin=low, vmax=high
    )
    every = -(-len(rows) // 17) if len(rows) else 1
    axis.set_yticks(range(0, len(rows), every), [str(r) for r in rows[::every]])
    return image


def units_of(unit: str) -> list[str]:
    """The unit, or nothing for a pure number."""
    return [] if unit == "1" else [unit]


def measured(name: str, unit: str) -> str:
    """A quantity's name with its unit in brackets, if it has one."""
    return " ".join([name, *(f"({u})" for u in units_of(unit))])


def plain(text: str, most: int = 100) -> str:
    """Text as it stands, also a dollar, which starts a formula otherwise; what is too long loses its end."""
    return (text if len(text) <= most else text[: most - 1] + "…").replace("$", r"\$")


def file_name(title: str) -> str:
    """A name that every file system takes; with a digest when it had to lose more than punctuation."""
    spaced = re.sub(r"[ ,@=_>]+", "_", title)
    name = re.sub(r"[^A-Za-z0-9.-]+", "_", spaced)[:120]
    return name if name == spaced else f"{name}-{hashlib.sha256(title.encode()).hexdigest()[:8]}"
