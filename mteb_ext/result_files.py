"""MTEB's result files: where they lie, what they hold, and whose they are."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

_WHICH = ("layer", "aggregate", "layers", "weights")
_BESIDE = {"predictions", "bank"}  # what a sweep keeps beside its results
_SKIPPED = {"model_meta.json", "sweep.json"}


def result_rows(root: Path) -> Iterator[dict[str, Any]]:
    """Read the result files in a folder, at any height: one row per split and subset, of `mteb_ext.long_table.COLUMNS`.

    A score that MTEB gives as null is NaN. A file that cannot be read, or is no result, is a warning.
    """
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
            "dataset_revision": result.get("dataset_revision") or "",
            "file": str(file),
        }
        for split, subsets in result["scores"].items():
            for held in subsets:
                score = held.get("main_score")
                name = str(held.get("hf_subset", "default"))
                yield {**common, "split": split, "subset": name, "main_score": math.nan if score is None else score}


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
