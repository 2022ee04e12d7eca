"""The long table of scores: its columns, and reading it from a file that somebody else may have written."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

COLUMNS = {
    "model": "str",
    "revision": "str",
    "variant": "str",
    "layer": "Int64",
    "blocks": "Int64",
    "depth": "Float64",
    "pooling": "str",
    "norm": "str",
    "aggregate": "str",
    "layers": "str",
    "settings": "str",
    "task": "str",
    "type": "str",
    "split": "str",
    "subset": "str",
    "main_score": "float64",
    "seconds": "float64",
    "mteb_version": "str",
    "dataset_revision": "str",
    "file": "str",
}
"""The columns, in this order. Text is '' where there is none, numbers are missing."""

KEY = ["model", "revision", "variant", "layer", "task"]
"""What one score is of. A long table may leave `variant` empty and tell layers apart by `layer`."""


def read_table(path: Path) -> Any:
    """Read a `.csv` or `.parquet` file of scores, check it, and add the columns of `COLUMNS` that it lacks.

    Raises:
        ValueError: it is no table, lacks model, task or main_score, has no row, or holds a number that cannot be.
    """
    frame = _open(path)
    lacking = [name for name in ("model", "task", "main_score") if name not in frame]
    if lacking:
        has = ", ".join(map(str, frame.columns))
        raise ValueError(f"{path} lacks the column {' and '.join(lacking)}; it has {has}")
    if frame.empty:
        raise ValueError(f"{path} has a header and no rows")
    for name in ("layer", "blocks", "main_score", "seconds"):
        if name in frame:
            frame[name] = _numbers(frame[name], f"{path}, column {name}", whole=name in ("layer", "blocks"))
    beyond = frame.loc[frame["main_score"].abs().between(1, math.inf, inclusive="neither"), "main_score"]
    if len(beyond):
        worst = beyond.loc[beyond.abs().idxmax()]
        raise ValueError(f"{path}: {len(beyond)} scores lie beyond 1, as {worst:g}; divide percentages by 100")
    if "layer" in frame and (frame["layer"] < 0).any():
        raise ValueError(f"{path}: layer {frame['layer'].min()} is negative; write 0 for the embeddings to L")
    frame = typed(frame.drop(columns="depth", errors="ignore").to_dict("records"))
    bare = frame["settings"] == ""
    for name in ("pooling", "norm"):
        given = bare & (frame[name] != "")
        frame.loc[given, "settings"] += name + "=" + frame.loc[given, name] + ", "
    frame["settings"] = frame["settings"].str.removesuffix(", ")
    return frame


def _open(path: Path) -> Any:
    text = {name: str for name, kind in COLUMNS.items() if kind == "str"}
    try:
        if path.suffix == ".csv":
            return pd.read_csv(path, dtype=text, keep_default_na=False)
        if path.suffix == ".parquet":
            return pd.read_parquet(path)
    except ImportError:
        raise ValueError(f"{path}: reading .parquet needs pyarrow: pip install pyarrow, or give a .csv") from None
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as problem:
        raise ValueError(f"{path} is not a table: {problem}") from None
    raise ValueError(f"{path}: the ending must be .csv or .parquet; or give a folder of MTEB results")


def _numbers(column: Any, where: str, *, whole: bool) -> pd.Series:
    blank = column.isna() | column.astype(str).str.lower().isin(["", "nan", "none", "na"])
    found: Any = pd.to_numeric(column.where(~blank), errors="coerce")
    bad = ~blank & (found.isna() | ((found % 1 != 0) if whole else False))
    if bad.any():
        what = "a whole number" if whole else "a number"
        raise ValueError(
            f"{where}: {str(column[bad].iloc[0])!r} is not {what} (row {int(bad.to_numpy().argmax()) + 2})"
        )
    return found.astype("Int64") if whole else found.astype("float64")


def typed(rows: Iterable[Mapping[str, Any]]) -> Any:
    """A frame of rows with exactly the columns of `COLUMNS`, each of its type."""
    frame = pd.DataFrame(list(rows))
    columns = {}
    for name, kind in COLUMNS.items():
        column = frame[name] if name in frame else pd.Series([None] * len(frame), index=frame.index, dtype="object")
        columns[name] = column.fillna("").astype(str).astype(object) if kind == "str" else column.astype(kind)
    return pd.DataFrame(columns, index=frame.index)


def describe(row: Any) -> str:
    """What a row is of, in words: task, model, revision, and layer or variant."""
    layer = "" if pd.isna(row["layer"]) else f" layer {row['layer']}"
    at = f"@{row['revision']}" if row["revision"] else ""
    return f"{row['task']} of {row['model']}{at}{layer or ' ' + row['variant']}".rstrip()


def listed(names: Sequence[Any], most: int = 3) -> str:
    """The first names, and how many more there are.

    >>> listed(["a", "b", "c"], 2)
    'a, b and 1 more'
    """
    more = len(names) - most
    return ", ".join(map(str, names[:most])) + (f" and {more} more" if more > 0 else "")
