"""The manifest of a store: the one file that says what the folder holds, how it was made and by which runs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from metrics import shard
from metrics.lock import waiting
from metrics.seal import SEAL, intact, sealed

SCHEMA = 1
MANIFEST = "manifest.json"
GATE = "manifest.lock"
RESTORE = (
    "the records beside it are whole: restore it from a copy, or record one request with the same settings into "
    f"another store (--limit 1) and copy its {MANIFEST} here"
)


def is_store(path: Path) -> bool:
    """Whether the folder holds a manifest."""
    try:
        return (path / MANIFEST).is_file()
    except OSError:  # a name too long for the file system, say
        return False


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of the store at `path`, checked for its schema and against the checksum in it.

    A manifest without a checksum is taken as it is: one written before there was any, or one edited by hand whose
    checksum was deleted to say so.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is damaged, or was edited by hand, or written by a newer version.
    """
    file = path / MANIFEST
    if not is_store(path):
        held = any((path / "shards").glob("*.jsonl")) if (path / "shards").is_dir() else False
        what = f"{file} is missing; {RESTORE}" if held else f"{path} is not a store: it holds no {MANIFEST}"
        raise FileNotFoundError(what if held else f"{what}; give the folder named by store=DIR")
    try:
        manifest = json.loads(file.read_bytes().decode(errors="surrogatepass"))
        if not isinstance(manifest, dict):
            raise ValueError("no object")
        schema = manifest.get("schema")
        if type(schema) is not int:
            raise ValueError(f"schema={schema!r}"[:200])
        changed = sealed(manifest) and not intact(manifest)
        if schema <= SCHEMA and not changed:
            _check(manifest)
    except (OSError, ValueError, RecursionError) as problem:
        raise ValueError(f"{file} is not a manifest of eval-ext ({problem}); {RESTORE}") from None
    if changed:
        raise ValueError(
            f"{file} was edited or damaged since eval-ext wrote it: its checksum differs; look it over, then delete "
            f'its line "{SEAL}" to have it read as it is; the records beside it are whole'
        )
    if schema > SCHEMA:
        raise ValueError(f"{file} has schema {schema}; this version reads up to {SCHEMA}: upgrade eval-ext")
    return {k: v for k, v in manifest.items() if k != SEAL}


def _check(manifest: dict[str, Any]) -> None:
    """Raise a ValueError where what every reader relies on is missing."""
    if not {"model", "signals"} <= manifest.keys() or not isinstance(manifest["signals"], dict):
        raise ValueError("no model or signals")
    runs = manifest.get("runs")
    if not isinstance(runs, list) or not all(isinstance(run, dict) and _is_run(run) for run in runs):
        raise ValueError("no list of runs")


def _is_run(run: dict[str, Any]) -> bool:
    results = run.get("results", [])
    named = isinstance(results, list) and all(isinstance(path, str) for path in results)
    return named and isinstance(run.get("run_id"), str) and isinstance(run.get("started"), str)


def processes(run: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """What each process of a run noted: the first in the run itself, then the others, `ranks` in all."""
    others = run.get("processes", {})
    return [run, *(others.get(str(rank), {}) for rank in range(1, max(run.get("ranks", 1), 1 + len(others))))]


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
