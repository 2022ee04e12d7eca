"""Scores of models by layer, read from MTEB's result files or from a long table, as one pandas frame."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from mteb_ext.long_table import read_table, typed

KEY = ["model", "revision", "variant", "layer", "task"]
"""What one score is of. A long table may leave `variant` empty and tell layers apart by `layer`."""

OTHER = "other"
"""The type of a task that nobody knows."""

_WHICH = ("layer", "aggregate", "layers", "weights")
_BESIDE = {"predictions", "bank"}  # what a sweep keeps beside its results
_SKIPPED = {"model_meta.json", "sweep.json"}


def read(path: str | Path) -> pd.DataFrame:
    """Read scores in long form, one row per model, revision, variant and task.

    `path` is an MTEB cache or results folder, at any height above the result files, or a `.csv` or `.parquet` file with
    the columns model, task and main_score, usually layer, and any other of `mteb_ext.long_table.COLUMNS`. `main_score`
    is MTEB's, 0 to 1, the mean over the subsets of a split; of several splits it is `test`, and `split` says so.
    `layer` is missing for aggregates and plain models; `blocks` is the highest layer seen of a model where nobody
    recorded it, and `attrs["guessed_blocks"]` lists those models. `settings` is everything in a variant but its layer
    or aggregate. `type` is MTEB's task type, or 'other'.

    A file that cannot be read, a score that is not finite and whatever else is left out is a warning.

    Raises:
        FileNotFoundError: there is no such path.
        ValueError: no score in it, a column lacks, scores beyond 1 in a table, or two unequal scores of one thing.
    """
    path = Path(path)
    if path.is_dir():
        frame = typed(_result_files(path))
        if frame.empty:
            raise ValueError(f"{path} holds no MTEB result; give the folder that eval-ext sweep or mteb run wrote to")
    elif path.is_file():
        frame = read_table(path)
    else:
        raise FileNotFoundError(f"{path} does not exist; give a folder of MTEB results, or a .csv or .parquet table")
    frame = _one_split(_finite(frame, path))
    frame = _once(frame)
    frame = _with_depth(frame)
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
        warnings.warn(f"types of {_some(left)} are unknown without MTEB: pip install 'eval-ext[mteb]'", stacklevel=3)
        return found | dict.fromkeys(left, OTHER)
    for name in left:
        try:
            found[name] = mteb.get_task(name).metadata.type
        except KeyError:
            found[name] = OTHER
    return found


def _result_files(root: Path) -> Iterator[dict[str, Any]]:
    metas: dict[Path, Mapping[str, Any]] = {}
    for file in sorted(root.rglob("*.json")):
        inside = file.relative_to(root).parts
        if file.name in _SKIPPED or inside[0] in _BESIDE or any(part.startswith(".") for part in inside):
            continue
        result = _json(file)
        if result is None:
            continue
        if "mteb_dataset_name" in result:
            result = _old(file)
        if not isinstance(result.get("scores"), dict) or "task_name" not in result:
            warnings.warn(f"{file} is not a result of MTEB and is left out", stacklevel=4)
            continue
        if file.parent not in metas:
            metas[file.parent] = _identity(file.parent)
        seconds = result.get("evaluation_time")
        common = {
            **metas[file.parent],
            "task": result["task_name"],
            "seconds": math.nan if seconds is None else seconds,
            "mteb_version": result.get("mteb_version") or "",
            "file": str(file),
        }
        for split, subsets in result["scores"].items():
            scores = [math.nan if s.get("main_score") is None else s["main_score"] for s in subsets]
            names = "+".join(sorted(str(s.get("hf_subset", "default")) for s in subsets))
            mean = sum(scores) / len(scores) if scores else math.nan
            yield {**common, "split": split, "subset": names, "main_score": mean}


def _json(file: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as problem:
        warnings.warn(f"{file} is damaged and is left out ({problem}); delete it and run again", stacklevel=5)
        return None
    return found if isinstance(found, dict) else {}


def _old(file: Path) -> dict[str, Any]:
    """A result from before MTEB 1.11, which MTEB itself can convert."""
    try:
        from mteb.results import TaskResult

        return TaskResult.from_disk(file).to_dict()
    except (ImportError, KeyError, ValueError, AttributeError, TypeError) as problem:
        warnings.warn(f"{file} predates MTEB 1.11 and cannot be converted ({problem!r})", stacklevel=5)
        return {}


def _identity(folder: Path) -> dict[str, Any]:
    """Model, revision and variant of a folder of results, from its model_meta.json or else from its path."""
    meta = _json(folder / "model_meta.json") if (folder / "model_meta.json").is_file() else None
    experiment = folder.parent.name == "experiments"
    home = folder.parent.parent if experiment else folder
    meta = meta or {}
    kwargs = meta.get("experiment_kwargs") or {}
    blocks = (meta.get("loader_kwargs") or {}).get("blocks")
    layer = kwargs.get("layer")
    found: dict[str, Any] = {
        "model": meta.get("name") or home.parent.name.replace("__", "/"),
        "revision": meta.get("revision") or home.name,
        "variant": folder.name if experiment else "",
        "blocks": blocks if isinstance(blocks, int) else None,
        "layer": None,
        "settings": ", ".join(f"{k}={kwargs[k]}" for k in sorted(kwargs) if k not in _WHICH),
        **{name: str(kwargs.get(name) or "") for name in ("pooling", "norm", "aggregate", "layers")},
    }
    if kwargs.get("weights"):
        found["aggregate"] += f" {kwargs['weights']}"
    if isinstance(layer, int):
        if layer >= 0:
            found["layer"] = layer
        elif isinstance(blocks, int):
            found["layer"] = blocks + 1 + layer
        else:
            warnings.warn(f"{folder}: layer {layer} of an unknown number of layers counts as none", stacklevel=5)
    if experiment and not kwargs:
        warnings.warn(f"{folder} has no readable model_meta.json: its layer is unknown", stacklevel=5)
        found["settings"] = folder.name
    return found


def _finite(frame: Any, path: Path) -> pd.DataFrame:
    score = frame["main_score"]
    bad = score.isna() | score.abs().eq(math.inf)
    if bad.any():
        warnings.warn(f"{int(bad.sum())} scores are not finite and are left out: {_which(frame[bad])}", stacklevel=3)
    if bad.all():
        raise ValueError(f"{path}: no score is a finite number")
    if (score[~bad].abs() > 1).any():
        warnings.warn(f"{int((score[~bad].abs() > 1).sum())} scores lie beyond 1; MTEB's lie in 0 to 1", stacklevel=3)
    return frame[~bad]


def _one_split(frame: Any) -> pd.DataFrame:
    """Keep `test` where there are several splits.

    Raises:
        ValueError: there are several and none is `test`.
    """
    several = frame.groupby([*KEY, "file"], dropna=False)["split"].transform("nunique") > 1
    if not several.any():
        return frame
    tested = frame[several].groupby([*KEY, "file"], dropna=False)["split"].transform(lambda s: (s == "test").any())
    if not tested.all():
        row = frame[several][~tested].iloc[0]
        raise ValueError(f"{_name(row)} has several splits and none is test; keep one split in {row['file'] or 'it'}")
    tasks = frame.loc[several, "task"].unique()
    warnings.warn(f"several splits of {_some(tasks)}: test is used", stacklevel=3)
    return frame[~several | (frame["split"] == "test")]


def _once(frame: Any) -> pd.DataFrame:
    """Drop repeats of one score.

    Raises:
        ValueError: they are unequal.
    """
    twice = frame[frame.duplicated(KEY, keep=False)]
    spread = twice.groupby(KEY, dropna=False)["main_score"].transform(lambda s: s.max() - s.min())
    if (spread > 0).any():
        same = twice[spread > 0].sort_values(KEY)
        one, two = same.iloc[0], same.iloc[1]
        files = f" ({one['file']} and {two['file']})" if one["file"] else ""
        scores = f"{one['main_score']:g} and {two['main_score']:g}"
        raise ValueError(f"{_name(one)} has unequal scores, {scores}{files}; keep one, or name the variants apart")
    if len(twice):
        repeats = int(frame.duplicated(KEY).sum())
        warnings.warn(f"{repeats} scores stand there more than once, equal, and count once", stacklevel=3)
    return frame[~frame.duplicated(KEY)]


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
            f"{_name(frame[above].iloc[0])} lies above the model's {frame[above]['blocks'].iloc[0]} blocks"
        )
    frame["depth"] = (frame["layer"] / frame["blocks"].where(frame["blocks"] > 0)).astype("Float64")
    frame.attrs["guessed_blocks"] = sorted(frame.loc[guessed, "model"].unique())
    return frame


def _name(row: Any) -> str:
    layer = "" if pd.isna(row["layer"]) else f" layer {row['layer']}"
    at = f"@{row['revision']}" if row["revision"] else ""
    return f"{row['task']} of {row['model']}{at}{layer or ' ' + row['variant']}".rstrip()


def _which(rows: Any) -> str:
    return _some([_name(row) for _, row in rows.head(4).iterrows()], len(rows))


def _some(names: Sequence[str], count: int | None = None) -> str:
    count = len(names) if count is None else count
    return ", ".join(names[:3]) + (f" and {count - 3} more" if count > 3 else "")
