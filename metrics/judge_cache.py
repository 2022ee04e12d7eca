"""Replies of a judge, kept as they come, so that none is paid for twice."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TextIO


class Cache:
    """An append-only jsonl file of replies by key; what is added is on disk before `add` returns.

    A line that a killed process left half-written, or any other that cannot be read, is warned of and asked again. Of
    two lines with one key the later counts.

    Raises:
        OSError: the file cannot be read or written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._held, damaged, whole = _read(path)
        if damaged:
            warnings.warn(f"{path}: {damaged} lines cannot be read; their questions are asked again", stacklevel=2)
        self._file: TextIO | None = None
        self._whole = whole

    def __contains__(self, key: object) -> bool:
        return key in self._held

    def __getitem__(self, key: str) -> str:
        return self._held[key]

    def __len__(self) -> int:
        return len(self._held)

    def add(self, key: str, reply: str, facts: Mapping[str, object]) -> None:
        """Keep a reply, with facts beside it such as the model and its count of tokens."""
        if self._file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("a", encoding="utf-8")
            if not self._whole:
                self._file.write("\n")
        self._file.write(json.dumps({"key": key, "reply": reply, **facts}) + "\n")
        self._file.flush()
        self._held[key] = reply

    def __enter__(self) -> Cache:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()


def _read(path: Path) -> tuple[dict[str, str], int, bool]:
    """Replies by key, how many lines cannot be read, and whether the last line is whole."""
    if not path.exists():
        return {}, 0, True
    text = path.read_text(encoding="utf-8", errors="replace")
    held: dict[str, str] = {}
    damaged = 0
    for line in filter(str.strip, text.split("\n")):
        try:
            row = json.loads(line)
            held[row["key"]] = row["reply"] + ""
        except (ValueError, KeyError, TypeError):
            damaged += 1
    return held, damaged, not text or text.endswith("\n")
