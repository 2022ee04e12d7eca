"""What lm-eval's filters make of a text, and which of its characters they take.

The filters are lm-eval's own, rebuilt from the names and arguments in a result file; what is found here is only the
place of what they return, followed from step to step.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from lm_eval.api.filter import Filter
from lm_eval.api.registry import filter_registry
from lm_eval.filters import build_filter_ensemble
from lm_eval.filters.extraction import RegexFilter
from lm_eval.filters.transformation import LowercaseFilter, MapFilter, UppercaseFilter

from metrics.answers import ABSENT, EMPTY, UNMATCHED, Reading, as_text

SELECTION = ("take_first", "take_first_k", "majority_vote")
"""They choose among a document's responses; each is read by itself here, so they have nothing to choose."""


class Taken(NamedTuple):
    """A value on its way through the filters."""

    value: Any
    at: Sequence[int]
    """Places in the text: one for each character of the value, or of what the value was made from."""
    why: str = ""
    """Why it has no place."""


def read(
    steps: Sequence[Mapping[str, Any]], texts: Sequence[str], documents: Sequence[Mapping[str, Any]]
) -> list[Reading]:
    """What a filter makes of each text by itself, and the characters that it comes from, white space at the ends aside.

    A regular expression's place is its match's own group. A change of case keeps the place, and so does a table of
    values. What any other filter returns is looked for in the text; of several places the last is taken.

    Args:
        steps: the filter's functions in order, as a task's `filter_list` has them.
        texts: responses.
        documents: the document of each text, for filters that read it.

    Raises:
        ValueError: a function of the filter is not registered with lm-eval, as those that a task brings along in
            Python, or it fails on these texts.
    """
    taken = [Taken(text, range(len(text))) for text in texts]
    for step in steps:
        if step["function"] in SELECTION:
            continue
        made = _build(step)
        follow = next((rule for kind, rule in RULES.items() if isinstance(made, kind)), _search)
        values = _apply(made, step, [one.value for one in taken], documents)
        taken = [follow(made, one, value) for one, value in zip(taken, values, strict=True)]
    return [_reading(one, text) for one, text in zip(taken, texts)]


def _build(step: Mapping[str, Any]) -> Filter:
    name: Any = step["function"]
    arguments: dict[str, Any] = {k: v for k, v in step.items() if k != "function"}
    inline = name == "custom" and not callable(arguments.get("filter_fn"))
    if inline or not (callable(name) or name in filter_registry):
        raise ValueError(f"its function '{name}' is the task's own Python code, which the result file does not hold")
    try:
        components: list[Any] = [(name, arguments)]
        return build_filter_ensemble("", components).filters[0]()
    except (TypeError, ValueError, re.error) as problem:
        raise ValueError(f"its function '{name}' cannot be built ({problem})") from None


def _apply(
    made: Filter, step: Mapping[str, Any], values: Sequence[Any], documents: Sequence[Mapping[str, Any]]
) -> list[Any]:
    try:
        return [one for (one,) in made.apply([[value] for value in values], [dict(document) for document in documents])]
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as problem:
        raise ValueError(f"its function '{step['function']}' fails: {type(problem).__name__}: {problem}") from None


Rule = Callable[[Any, Taken, Any], Taken]
"""From a filter, what it was given and what it returned, to the place of that."""


def _match(made: RegexFilter, given: Taken, value: Any) -> Taken:
    """The group that `RegexFilter` takes: of its selected match the only one, or the first that is not empty."""
    if given.why:
        return given._replace(value=value)
    text = given.value if isinstance(given.value, str) else ""
    matches, at = list(made.regex.finditer(text)), made.group_select
    start, stop = _group(matches[at]) if -len(matches) <= at < len(matches) else (0, 0)
    if text[start:stop].strip() != value:
        return Taken(value, (), UNMATCHED if value == made.fallback else ABSENT)
    if len(given.at) != len(text):
        return given._replace(value=value)
    return _stripped(Taken(text[start:stop], given.at[start:stop]))


def _group(match: re.Match[str]) -> tuple[int, int]:
    groups = range(1, match.re.groups + 1) if match.re.groups else (0,)
    return next((match.span(g) for g in groups if match[g]), (0, 0))


def _stripped(taken: Taken) -> Taken:
    start = len(taken.value) - len(taken.value.lstrip())
    value = taken.value.strip()
    return Taken(value, taken.at[start : start + len(value)])


def _recased(made: Filter, given: Taken, value: Any) -> Taken:
    """A character may become several, such as a dotted capital I."""
    change = str.lower if isinstance(made, LowercaseFilter) else str.upper
    widths = [len(change(c)) for c in given.value]
    if len(given.at) != len(widths) or sum(widths) != len(value):
        return given._replace(value=value)
    if len(value) == len(widths):
        return given._replace(value=value)
    return given._replace(value=value, at=[place for place, width in zip(given.at, widths) for _ in range(width)])


def _same(made: Filter, given: Taken, value: Any) -> Taken:  # noqa: ARG001
    return given._replace(value=value)


def _search(made: Filter, given: Taken, value: Any) -> Taken:  # noqa: ARG001
    """Of a filter of which nothing is known."""
    if given.why or value == given.value:
        return given._replace(value=value)
    if not (isinstance(value, str) and isinstance(given.value, str)):
        return Taken(value, (), ABSENT)
    start = given.value.rfind(value)
    if start < 0:
        return Taken(value, (), ABSENT)
    if len(given.at) != len(given.value):
        return given._replace(value=value)
    return Taken(value, given.at[start : start + len(value)])


RULES: Mapping[type[Filter], Rule] = {
    RegexFilter: _match,
    LowercaseFilter: _recased,
    UppercaseFilter: _recased,
    MapFilter: _same,
}


def _reading(taken: Taken, text: str) -> Reading:
    value = as_text(taken.value)
    if taken.why:
        return Reading(value, why=taken.why)
    start, stop = (taken.at[0], taken.at[-1] + 1) if len(taken.at) else (0, 0)
    inside = text[start:stop]
    if not inside.strip():
        return Reading(value, why=EMPTY)
    return Reading(value, start + len(inside) - len(inside.lstrip()), stop - len(inside) + len(inside.rstrip()))
