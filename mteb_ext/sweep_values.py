"""One reader for each option of a sweep: from what YAML or a command line holds to the type it has in the program."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

UNITS = {
    "B": 1,
    **{f"{p}B": 1000**i for i, p in enumerate("KMGT", 1)},
    **{f"{p}iB": 1024**i for i, p in enumerate("KMGT", 1)},
}
"""Units of sizes: 1 GB is 1000^3 bytes, 1 GiB is 1024^3."""

KINDS = ("mean", "concat", "weighted")


@dataclass(frozen=True)
class Model:
    """A model to sweep. `revisions` are its own; without any it has those of the whole sweep."""

    id: str
    revisions: tuple[str | None, ...] = ()


def parse_size(text: str | int) -> int:
    """Bytes of ``20GB``, ``512 MiB`` or a plain number.

    Raises:
        ValueError: the text is not a number with one of `UNITS`.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)", str(text).strip())
    units = {unit.lower(): size for unit, size in UNITS.items()}
    unit = (found[2] or "B").lower() if found else ""
    if not found or isinstance(text, bool) or unit not in units:
        raise ValueError(f"size '{text}' is not a number of bytes; write 20GB, 512MiB or 1000000")
    return int(Fraction(found[1]) * units[unit])


def format_size(size: int) -> str | int:
    """The shortest text that `parse_size` reads as exactly `size`."""
    whole = [f"{size // factor}{unit}" for unit, factor in UNITS.items() if factor > 1 and size and size % factor == 0]
    return min(whole, key=len) if whole else size


def placed(key: str, value: Any, base: Path) -> Any:
    """The value of a key with the files it names found from `base`."""
    if key == "models":
        return tuple(replace(m, id=str(_under(base, m.id))) if m.id[0] in ".~" else m for m in value)
    if key == "prompt" and value and value[0] == "@":
        return f"@{_under(base, value[1:])}"
    if key == "aggregates":
        return tuple(f"weighted:{_under(base, v[9:])}" if v.startswith("weighted:") else v for v in value)
    if key == "tasks":
        return tuple(re.sub(r"^.+\.py(?=:[^:]*$)", lambda found: str(_under(base, found[0])), v) for v in value)
    return value


def _under(base: Path, file: str) -> Path:
    return (base / Path(file).expanduser()).resolve()


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise TypeError
    return value


def _optional(read: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: None if value is None else read(value)


def _list_of(read: Callable[[Any], Any]) -> Callable[[Any], tuple[Any, ...]]:
    def parse(value: Any) -> tuple[Any, ...]:
        return tuple(map(read, value if isinstance(value, list | tuple) else [value]))

    return parse


def _filled(read: Callable[[Any], tuple[Any, ...]]) -> Callable[[Any], tuple[Any, ...]]:
    def parse(value: Any) -> tuple[Any, ...]:
        if not (held := read(value)):
            raise ValueError
        return held

    return parse


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError
    return value


def _count(value: Any) -> int:
    if type(value) is not int or value < 1:
        raise TypeError
    return value


def _whole(value: Any) -> int:
    return 0 if type(value) is int and value == 0 else _count(value)


def _layers(value: Any) -> str:
    entries = value if isinstance(value, list | tuple) else [value]
    if not entries or not all(
        isinstance(entry, str | int | float) and not isinstance(entry, bool) for entry in entries
    ):
        raise TypeError
    return ",".join(_text(str(entry)) for entry in entries)


def _aggregate(value: Any) -> str:
    kind, _, rest = _text(value).partition(":")
    if kind not in KINDS or not rest:
        raise ValueError
    return value


def _model(value: Any) -> Model:
    if isinstance(value, Model):
        return value
    if not isinstance(value, Mapping):
        return Model(_text(value))
    if set(value) - {"id", "revisions"}:
        raise ValueError
    return Model(_text(value.get("id")), _revisions(value.get("revisions", ())))


def _path(value: Any) -> Path:
    return value if isinstance(value, Path) else Path(_text(value)).expanduser()


_revisions = _list_of(_optional(_text))
_texts = _list_of(_text)
_COUNT, _FLAG, _SIZE = (
    "a whole number of at least 1",
    "true or false",
    "a size; write 20GB, 512MiB or a number of bytes",
)

READERS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "models": (_filled(_list_of(_model)), "a list of models; write [ORG/MODEL, {id: ORG/MODEL, revisions: [main]}]"),
    "revisions": (_filled(_revisions), "a list of revisions; write [main, 'step1000'], digits in quotes"),
    "layers": (_layers, "a choice of layers; write all, last:4, or [0, 4, -1]"),
    "aggregates": (_list_of(_aggregate), "a list of aggregates; write [mean:last:4, concat:3+6, weighted:FILE]"),
    "pooling": (_filled(_texts), "a list of poolings; write [mean] or [mean, last]"),
    "norm": (_filled(_texts), "a list of norms; write [raw], [final] or [raw, final]"),
    "max_length": (_optional(_count), _COUNT),
    "dtype": (_text, "the name of a dtype; write auto, float32, bfloat16 or float16"),
    "prompt": (_optional(_text), "a text; write it in quotes, or '@FILE'"),
    "normalize": (_optional(_flag), _FLAG),
    "trust_remote_code": (_flag, _FLAG),
    "tasks": (_texts, "a list of tasks; write [STSBenchmark, 'STS17[en-en]'], with quotes around brackets"),
    "preset": (_optional(_text), "the name of a preset; write layer-by-layer-32"),
    "out": (_path, "a folder; write its path"),
    "workers": (_optional(_whole), "a whole number, 0 or more"),
    "batch_size": (_count, _COUNT),
    "device": (_optional(_text), "the name of a device; write cpu, cuda or 'cuda:0'"),
    "bank": (_optional(_path), "a folder; write its path"),
    "bank_limit": (parse_size, _SIZE),
    "save_predictions": (_flag, _FLAG),
}
"""Option to its reader, which raises ValueError or TypeError, and to the words for what it reads."""
