"""How metrics and their like are named: ``name(option=value)``, joined by ``+``; and how such names are read."""

from __future__ import annotations

import ast
import difflib
from collections.abc import Iterable, Mapping
from typing import Any, Protocol, TypeVar


def words(text: str | Iterable[str]) -> list[str]:
    """Split ``a+b(k=1,l=2),c`` at ``+``, ``,`` and white space outside brackets; lists are flattened.

    >>> words("standard+min_k(share=0.1)")
    ['standard', 'min_k(share=0.1)']
    """
    if not isinstance(text, str):
        return [w for part in text for w in words(str(part))]
    out, depth = [""], 0
    for char in text:
        depth += (char == "(") - (char == ")")
        if depth == 0 and (char in "+," or char.isspace()):
            out.append("")
        else:
            out[-1] += char
    return [w for w in out if w]


def outside(word: str) -> str:
    """What of a word stands outside its brackets."""
    return "".join(part.partition("(")[0] for part in word.split(")"))


class Configurable(Protocol):
    """Anything named that takes options: a metric, a feature, a token metric, a weighting, a pooling."""

    @property
    def name(self) -> str: ...  # noqa: D102

    @property
    def options(self) -> Mapping[str, Any]: ...  # noqa: D102


C = TypeVar("C", bound=Configurable)


def settled(kind: str, word: str, known: Mapping[str, C], *, others: Iterable[str] = ()) -> tuple[C, dict[str, Any]]:
    """What ``name(k=v)`` names, and all of its options: those given, and the defaults of the rest.

    Raises:
        ValueError: an unknown name or option, with the nearest known one (of `others` too), crooked brackets, or a
            value of another type than the default's.
    """
    name, bracket, rest = word.partition("(")
    if name not in known:
        raise ValueError(unknown(kind, name, (*others, *known)))
    made = known[name]
    options = dict(made.options)
    if bracket and (not rest.endswith(")") or set(rest[:-1]) & set("()")):
        raise ValueError(f"{kind} '{word}': write options as {name}(option=value), with one pair of brackets")
    for item in filter(None, rest[:-1].split(",")):
        key, _, value = (part.strip() for part in item.partition("="))
        if key not in options:
            raise ValueError(f"{kind} '{name}': {unknown('option', key, options)}")
        options[key] = _value(f"{kind} '{name}'", key, value, type(options[key]))
    return made, options


def spelled(name: str, options: Mapping[str, Any], defaults: Mapping[str, Any]) -> str:
    """The name, with every option that differs from its default: ``name`` or ``name(k=v,l=w)``."""
    changed = {k: v for k, v in options.items() if v != defaults[k]}
    return f"{name}({','.join(f'{k}={v}' for k, v in sorted(changed.items()))})" if changed else name


def _value(who: str, key: str, text: str, kind: type) -> Any:
    """The option's value as the type that its default has; a float may be written as an integer."""
    try:
        value = text if kind is str else ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = None
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind or value == "":
        raise ValueError(f"{who}: option '{key}' takes a value of type {kind.__name__}, not '{text}'")
    return value


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """One line: the unknown name, the nearest known one, and all that are known."""
    names = list(known)
    near = difflib.get_close_matches(name, names, n=1)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    return f"unknown {kind} '{name}'.{hint} Known: {', '.join(names) or 'none'}"
