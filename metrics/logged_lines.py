"""The lines of lm-eval's sample files, for all who read them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

BROKEN = "the last line is broken off and left out"
"""What is said of a file that ends within a line, as after a full disk."""


class Line(NamedTuple):
    """One line of a file: its place, for messages, its content, and whether it is a last line that is broken off."""

    where: str
    sample: Any
    broken: bool = False


def lines_of(path: Path) -> Iterator[Line]:
    """Each line of a sample file, read one at a time; empty ones are passed over.

    Only a last line without its end can be broken off. One that is whole JSON is a sample like any.

    Raises:
        ValueError: another line is no JSON, or no UTF-8.
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            where = f"{path}, line {number}"
            try:
                made = Line(where, _read(line))
            except ValueError as problem:
                if not is_broken(line):
                    raise ValueError(f"{where}: not a logged sample of lm-eval ({problem})") from None
                made = Line(where, None, broken=True)
            yield made


def is_broken(line: bytes) -> bool:
    """Whether this is a last line that is broken off: it has no end, and is no JSON."""
    if line.endswith(b"\n") or not line.strip():
        return False
    try:
        _read(line)
    except ValueError:
        return True
    return False


def _read(line: bytes) -> Any:
    return json.loads(line.decode("utf-8-sig"))
