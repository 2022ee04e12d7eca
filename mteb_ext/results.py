"""Scores of models by layer, read from MTEB's result files or from a long table, as one pandas frame."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from mteb_ext.long_table import KEY, describe, listed, read_table, typed
from mteb_ext.parts import one_score_a_task
from mteb_ext.result_files import result_rows

OTHER = "other"
"""The type of a task that nobody knows."""


def read(path: str | Path) -> pd.DataFrame:
    """Read scores in long form, one row per model, revision, variant and task.

    `path` is an MTEB cache or results folder, at any height above the result files, or a `.csv` or `.parquet` file with
    the columns model, task and main_score, usually layer, and any other of `mteb_ext.long_table.COLUMNS`. `main_score`
    is MTEB's, 0 to 1, the mean over the splits and subsets that `split` and `subset` name: see
    `mteb_ext.parts.one_score_a_task`. It is NaN where MTEB could not score, as by a correlation with a constant.
    `layer` is missing for aggregates and plain models; `blocks` is the highest layer seen of a model where nobody
    recorded it, and `attrs["guessed_blocks"]` lists those models. `settings` is everything in a variant but its layer
    or aggregate. `type` is MTEB's task type, or 'other'.

    A file that cannot be read, and whatever else is left out, is a warning.

    Raises:
        FileNotFoundError: there is no such path.
        ValueError: no score in it, a column lacks, scores beyond 1 in a table, or two unequal scores of one thing.
    """
    path = Path(path)
    if path.is_dir():
        frame = typed(result_rows(path))
        if frame.empty:
            raise ValueError(f"{path} holds no MTEB result; give the folder that eval-ext sweep or mteb run wrote to")
    elif path.is_file():
        frame = read_table(path)
    else:
        raise FileNotFoundError(f"{path} does not exist; give a folder of MTEB results, or a .csv or .parquet table")
    frame = _with_depth(one_score_a_task(_finite(frame, path)))
    unknown = frame["type"] == ""
    if unknown.any():
        recorded = _recorded_types(path)
        names = frame.loc[unknown, "task"].unique()
        types = recorded | task_types([name for name in names if name not in recorded])
        frame.loc[unknown, "type"] = frame.loc[unknown, "task"].map(types)
    return frame.sort_values(KEY, ignore_index=True)


def _recorded_types(path: Path) -> dict[str, str]:
    """Types of tasks as a sweep in or above a folder has recorded them; they include tasks that MTEB does not know."""
    found: dict[str, str] = {}
    for home in (path, path.parent):
        if path.is_dir() and (home / "sweep.json").is_file():
            try:
                runs = json.loads((home / "sweep.json").read_text(encoding="utf-8"))["runs"]
                found |= {task: str(type_) for run in runs for task, type_ in run["types"].items()}
            except (ValueError, KeyError, TypeError, AttributeError):
                warnings.warn(f"{home / 'sweep.json'} cannot be read; types of tasks are looked up", stacklevel=3)
    return found


def task_types(names: Iterable[str]) -> dict[str, str]:
    """MTEB's type of each task: from our presets, else from MTEB, which is only then imported, else 'other'."""
    from tasks.presets import TYPES

    found = {name: TYPES[name] for name in names if name in TYPES}
    left = [name for name in names if name not in found]
    if not left:
        return found
    try:
        import mteb
    except ImportError:
        warnings.warn(f"types of {listed(left)} are unknown without MTEB: pip install 'eval-ext[mteb]'", stacklevel=3)
        return found | dict.fromkeys(left, OTHER)
    for name in left:
        try:
            found[name] = mteb.get_task(name).metadata.type
        except KeyError:
            found[name] = OTHER
    return found


def _finite(frame: Any, path: Path) -> pd.DataFrame:
    """Scores that are infinite become undefined.

    Raises:
        ValueError: no score is left.
    """
    score = frame["main_score"].where(frame["main_score"].abs() != math.inf)
    if score.isna().all():
        raise ValueError(f"{path}: no score is a finite number")
    beyond = int((score.abs() > 1).sum())
    if beyond:
        warnings.warn(f"{beyond} scores lie beyond 1; MTEB's lie in 0 to 1", stacklevel=3)
    return frame.assign(main_score=score)


def _with_depth(frame: Any) -> pd.DataFrame:
    """Fill `blocks` by the highest layer of the model where it is not recorded, and set `depth`."""
    frame = frame.copy()
    highest = frame.groupby("model")["layer"].transform("max")
    recorded = frame.groupby("model")["blocks"].transform("max")
    guessed = frame["blocks"].isna() & recorded.isna() & highest.notna()
    frame["blocks"] = frame["blocks"].fillna(recorded).fillna(highest)
    above = frame["layer"] > frame["blocks"]
    if above.any():
        raise ValueError(
            f"{describe(frame[above].iloc[0])} lies above the model's {frame[above]['blocks'].iloc[0]} blocks"
        )
    frame["depth"] = (frame["layer"] / frame["blocks"].where(frame["blocks"] > 0)).astype("Float64")
    frame.attrs["guessed_blocks"] = sorted(frame.loc[guessed, "model"].unique())
    return frame
