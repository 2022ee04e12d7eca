"""Documents as lm-eval logs them: the question, the gold answers, what the model said and what filters made of it."""

from __future__ import annotations

import ast
import json
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from metrics.logged_lines import BROKEN, lines_of
from metrics.manifest import is_store, read_manifest
from metrics.results import find_results, linked_results, samples_of, say_missing

QUESTIONS = ("question", "query", "goal", "inputs", "input", "prompt", "text")
"""Fields of a document in which questions are looked for, the first that holds a text."""

PROMPT = "the prompt"
"""Where a question comes from when the document has none of these fields."""


@dataclass
class Logged:
    """One document of a task.

    Attributes:
        response: the model's text (of several samples the first), None where it gave none, as in multiple choice.
        filtered: what each filter picked from it, None where that is no text.
        verdicts: lm-eval's metric and filter to its number.
    """

    task: str
    doc_id: int
    doc: Mapping[str, Any]
    target: str
    prompt: str
    response: str | None
    doc_hash: str
    filtered: dict[str, str | None] = field(default_factory=dict)
    verdicts: dict[tuple[str, str], float] = field(default_factory=dict)


def results_at(path: Path) -> list[Path]:
    """The result files meant by a path: lm-eval's output folder, one of its result files, or a store of hf-store.

    Raises:
        OSError: there are none.
        ValueError: the path is neither.
    """
    if is_store(path):
        found = linked_results(read_manifest(path))
        if not found:
            raise FileNotFoundError(f"{path}: its result files of lm-eval are gone; give lm-eval's --output_path")
        return found
    if path.is_file() and path.suffix != ".json":
        raise ValueError(f"{path} is neither a store nor lm-eval's result file (results_*.json); give its folder")
    if not path.exists() and path.suffix != ".json":
        raise FileNotFoundError(f"{path} does not exist; give lm-eval's --output_path or a store")
    return [find_results(path)]


def read_logged(results: Iterable[Path]) -> list[Logged]:
    """Every document of the samples beside these result files, by task and number; of two the later counts.

    A last line that is broken off, as after a full disk, is left out with a warning; so are documents that the result
    file counts and the samples lack.

    Raises:
        metrics.results.NoSamples: a result file has none beside it.
        ValueError: a line is not a logged sample.
    """
    found: dict[tuple[str, int], Logged] = {}
    for result in results:
        seen: set[tuple[str, int]] = set()
        for path in samples_of(result):
            task = path.stem.removeprefix("samples_").rsplit("_", 1)[0]
            for line in lines_of(path):
                if line.broken:
                    warnings.warn(f"{path}: {BROKEN}", stacklevel=2)
                else:
                    _enter(found, seen, task, line.sample, line.where)
            say_missing(path, task, sum(of == task for of, _ in seen))
    return [found[key] for key in sorted(found)]


def _enter(
    found: dict[tuple[str, int], Logged], seen: set[tuple[str, int]], task: str, sample: Any, where: str
) -> None:
    try:
        key = task, int(sample["doc_id"])
        document = sample.get("doc")
        filter_ = str(sample.get("filter", "none"))
    except (ValueError, KeyError, TypeError, AttributeError) as problem:
        raise ValueError(f"{where}: not a logged sample of lm-eval ({problem})") from None
    if key not in seen:
        seen.add(key)
        found[key] = Logged(
            *key,
            doc=document if isinstance(document, dict) else {},
            target=_text(sample.get("target")),
            prompt=_prompt(sample.get("arguments")),
            response=_first_text(sample.get("resps")),
            doc_hash=str(sample.get("doc_hash", "")),
        )
    held = found[key]
    held.filtered[filter_] = _first_text(sample.get("filtered_resps"))
    for metric in sample.get("metrics", ()):
        if isinstance(sample.get(metric), (bool, int, float)):
            held.verdicts[metric, filter_] = float(sample[metric])


def _first_text(responses: Any) -> str | None:
    """The first sample's text of one request; None for several requests, as of multiple choice, and for numbers."""
    if not isinstance(responses, list) or len(responses) != 1:
        return None
    first = responses[0]
    if isinstance(first, list):
        first = first[0] if first else None
    return first if isinstance(first, str) else None


def _prompt(arguments: Any) -> str:
    first = arguments.get("gen_args_0") if isinstance(arguments, dict) else None
    return _text(first.get("arg_0")) if isinstance(first, dict) else ""


def _text(value: Any) -> str:
    return value if isinstance(value, str) else "" if value is None else json.dumps(value, ensure_ascii=False)


def question_of(logged: Logged, field: str | None = None) -> tuple[str, str]:
    """The question and where it comes from: the field asked for, else the first of `QUESTIONS`, else the prompt.

    Raises:
        ValueError: the document lacks the field asked for.
    """
    if field is not None:
        return _text(value_at(logged, field)), field
    for name in QUESTIONS:
        value = logged.doc.get(name)
        if isinstance(value, str) and value.strip():
            return value, name
    return logged.prompt, PROMPT


def golds_of(logged: Logged, field: str | None = None) -> tuple[str, ...]:
    """The gold answers, any of which is right: a document's field, else the logged target; empty ones are left out.

    lm-eval writes a list of targets as Python does, which is read back.

    Raises:
        ValueError: the document lacks the field asked for.
    """
    value: Any = logged.target if field is None else value_at(logged, field)
    if field is None and logged.target.startswith(("['", '["')):
        try:
            value = ast.literal_eval(logged.target)
        except (ValueError, SyntaxError):  # a text that only begins like a list
            value = logged.target
    several: Sequence[Any] = value if isinstance(value, list) else [value]
    return tuple(dict.fromkeys(text for text in (_text(one).strip() for one in several) if text))


def value_at(logged: Logged, field: str) -> Any:
    """A field of the document; a dot goes into what it holds, as in ``answer.aliases``.

    Raises:
        ValueError: there is no such field; the message names those there are.
    """
    value: Any = logged.doc
    for name in field.split("."):
        if not isinstance(value, Mapping) or name not in value:
            known = ", ".join(map(str, logged.doc)) or "none"
            raise ValueError(f"{logged.task}: document {logged.doc_id} has no field '{field}'; it has {known}")
        value = value[name]
    return value
