"""The manifest of a store: the one file that says what the folder holds, how it was made and by which runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from metrics import shard
from metrics.lock import waiting

SCHEMA = 1
MANIFEST = "manifest.json"
GATE = "manifest.lock"


def is_store(path: Path) -> bool:
    """Whether the folder holds a manifest."""
    return (path / MANIFEST).is_file()


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of the store at `path`, checked for its schema."""
    file = path / MANIFEST
    if not file.is_file():
        raise FileNotFoundError(f"{path} is not a store: it holds no {MANIFEST}; give the folder named by store=DIR")
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
        schema = int(manifest["schema"])
        if schema <= SCHEMA and not ({"model", "signals"} <= manifest.keys() and isinstance(manifest["runs"], list)):
            raise KeyError("model, signals or runs")
    except (ValueError, KeyError, TypeError) as problem:
        raise ValueError(f"{file} is not a manifest of eval-ext ({problem}); restore it or record again") from None
    if schema > SCHEMA:
        raise ValueError(f"{file} has schema {schema}; this version reads up to {SCHEMA}: upgrade eval-ext")
    return manifest


def update_run(path: Path, run_id: str, *, rank: int = 0, **facts: Any) -> None:
    """Add facts to the entry of a run in the manifest of the store at `path`.

    Of several processes of one run each has its say, one after the other: the first in the entry itself, the others
    under ``processes``.
    """
    with waiting(path / GATE):
        manifest = read_manifest(path)
        for run in manifest["runs"]:
            if run["run_id"] == run_id:
                (run.setdefault("processes", {}).setdefault(str(rank), {}) if rank else run).update(facts)
        shard.write_json(path / MANIFEST, manifest)
