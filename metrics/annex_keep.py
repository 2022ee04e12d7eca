"""Annexes as files: what one holds, whether it is whole, and how it goes along into another store."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from metrics.annex import FOLDER, KINDS, DamagedPart, Part, parts_of, read_clusters, whole_part
from metrics.shard import replace


def has_annex(store: Path) -> bool:
    """Whether anything was made of the store's texts."""
    return any(parts_of(store, kind) for kind in KINDS)


def annex_lines(store: Path) -> list[str]:
    """What the annex holds, in a line a kind, and what is damaged; nothing where there is none."""
    lines = [_line(store, kind) for kind in KINDS if parts_of(store, kind)]
    try:
        clusters = read_clusters(store) if lines else {}
    except ValueError as problem:
        return [*lines, f"annex: {problem}"]
    held = {kind: how for kind, how in clusters.items() if parts_of(store, kind)}
    return [*lines, *(f"annex: clusters by {kind}: {_listed(how)}" for kind, how in held.items())]


def _line(store: Path, kind: str) -> str:
    paths = parts_of(store, kind)
    whole = [part for part in map(whole_part, paths) if part is not None]
    documents = {(task, doc_id) for part in whole for task, doc_id, _ in part.documents}
    size = sum(path.stat().st_size for path in paths)
    damaged = f"; damaged parts: {len(paths) - len(whole)}" if len(whole) < len(paths) else ""
    made = _listed(whole[0].facts) if whole else "unreadable"
    return f"annex: {kind} of {len(documents)} documents, {size / 1e6:.1f} MB ({made}){damaged}"


def _listed(facts: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in facts.items())


def copy_annex(source: Path, out: Path, tasks: Collection[str]) -> None:
    """Copy the whole parts that hold a document of these tasks, and how clusters are made, into another store."""
    for kind in KINDS:
        for part in filter(None, map(whole_part, parts_of(source, kind))):
            if any(task in tasks for task, _, _ in part.documents):
                (out / FOLDER).mkdir(exist_ok=True)
                replace(out / FOLDER / part.path.name, part.path.read_bytes())
    clusters = source / FOLDER / "clusters.json"
    if (out / FOLDER).is_dir() and clusters.is_file():
        replace(out / FOLDER / clusters.name, clusters.read_bytes())


def verify_annex(store: Path) -> Iterator[str]:
    """One line for each file of the annex that is damaged or was left half written."""
    for kind in KINDS:
        for path in parts_of(store, kind):
            try:
                Part(path).check()
            except DamagedPart as problem:
                yield str(problem)
    for path in sorted((store / FOLDER).glob(".*.tmp")):
        yield f"{path}: left by an interrupted write; eval-ext samples removes it"
    try:
        read_clusters(store)
    except ValueError as problem:
        yield str(problem)
