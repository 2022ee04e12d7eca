"""Requests and answers read back from a `--log_samples` folder of lm-eval, whatever engine wrote it.

A line of ``samples_<task>_<time>.jsonl`` is one document under one filter: the arguments of its requests, as they were
sent (chat templates applied), and the responses to each, one a repeat. The type of a request is not logged; its
arguments tell it. Files are read a line at a time.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lm_eval.api.instance import Instance

from metrics.logged_lines import is_broken, lines_of
from metrics.results import NoSamples, find_results, samples_of

GENERATION, CHOICE, ROLLING = "generate_until", "loglikelihood", "loglikelihood_rolling"


@dataclass
class LoggedRequest(Instance):
    """A request as the harness would make it again, with the digest of its document that the log holds."""

    doc_hash: str = ""


@dataclass(frozen=True)
class Asked:
    """One request of a logged document, and the responses to it: texts, (log-likelihood, greedy) or log-likelihoods."""

    request: LoggedRequest
    responses: Sequence[Any]

    @property
    def kind(self) -> str:
        """lm-eval's type of the request."""
        return self.request.request_type


@dataclass(frozen=True)
class Log:
    """What is to be replayed: sample files, and the result file that goes with them."""

    files: Mapping[str, Path]
    """By task."""
    results: Path | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    """What the result file says of the run's model; empty without one."""


@dataclass(frozen=True)
class Scanned:
    """What a first reading of a sample file found; no line of it is refused later."""

    task: str
    path: Path
    sha256: str
    documents: int
    requests: int
    cut: bool
    """Whether the last line is broken off, and left out."""


def find_log(path: Path) -> Log:
    """The sample files meant by an lm-eval output folder (the newest run's), a result file or a sample file.

    Raises:
        FileNotFoundError: nothing is there, or no result file.
        ValueError: the results have no samples beside them, or are no JSON.
    """
    if not path.exists() and not list(path.parent.glob(f"{path.stem}_*.json")):
        raise FileNotFoundError(
            f"{path} does not exist; give lm-eval's output folder, a result or sample file, or a store"
        )
    if path.is_file() and path.suffix == ".jsonl":
        results = path.with_name(f"results_{path.stem.rsplit('_', 1)[-1]}.json")
        results = results if results.is_file() else None
        files = [path]
    else:
        results = find_results(path)
        try:
            files = samples_of(results)
        except NoSamples:
            raise NoSamples(
                f"{results} has no samples beside it, so there is nothing to replay; run lm_eval with --log_samples"
            ) from None
    try:
        content = json.loads(results.read_text(encoding="utf-8")) if results else {}
    except ValueError as problem:
        raise ValueError(f"{results} is not a JSON file ({problem})") from None
    config = content.get("config") if isinstance(content, dict) else None
    named = {file.stem.removeprefix("samples_").rsplit("_", 1)[0]: file for file in files}
    return Log(named, results, config if isinstance(config, dict) else {})


def scan(task: str, path: Path, limit: int | None = None) -> Scanned:
    """Read a sample file once, so that what is wrong in it is said before a model is loaded.

    Raises:
        ValueError: names the file, the line, what is wrong with it and what to do.
    """
    documents = requests = 0
    for asked in read(task, path, limit):
        documents += 1
        requests += sum(len(one.responses) for one in asked)
    if not documents:
        raise ValueError(f"{path} holds no sample")
    sha256, cut = _digest(path)
    return Scanned(task, path, sha256, documents, requests, cut)


def read(task: str, path: Path, limit: int | None = None) -> Iterator[list[Asked]]:
    """The requests of each document of a sample file, at most `limit` documents.

    A document that several filters judged is logged as often, and comes once.

    Raises:
        ValueError: as `scan`.
    """
    seen: set[int] = set()
    for where, sample, broken in lines_of(path):
        if broken:
            continue
        doc_id = _doc_id(sample, where)
        if doc_id in seen:
            continue
        seen.add(doc_id)
        yield _document(task, doc_id, sample, where)
        if len(seen) == limit:
            return


def windows(documents: Iterator[list[Asked]], most: int) -> Iterator[list[Asked]]:
    """Whole documents together, up to about `most` responses at a time."""
    window: list[Asked] = []
    size = 0
    for document in documents:
        window += document
        size += sum(len(asked.responses) for asked in document)
        if size >= most:
            yield window
            window, size = [], 0
    if window:
        yield window


def _digest(path: Path) -> tuple[str, bool]:
    """The file's SHA-256, and whether its last line is broken off."""
    digest, last = hashlib.sha256(), b"\n"
    with path.open("rb") as file:
        for last in file:
            digest.update(last)
    return digest.hexdigest(), is_broken(last)


def _doc_id(sample: Any, where: str) -> int:
    if not isinstance(sample, dict) or type(sample.get("doc_id")) is not int:
        raise ValueError(f"{where}: not a logged sample of lm-eval (no doc_id)")
    for name, what in (("arguments", "requests"), ("resps", "responses")):
        if not isinstance(sample.get(name), (dict, list)) or not sample[name]:
            raise ValueError(f"{where}: no '{name}', so its {what} are not known; log the run again with --log_samples")
    return sample["doc_id"]


def _document(task: str, doc_id: int, sample: Mapping[str, Any], where: str) -> list[Asked]:
    asked = [_arguments(one, where) for one in _listed(sample["arguments"])]
    responses = sample["resps"]
    if len(asked) != len(responses):
        raise ValueError(f"{where}: {len(asked)} requests and {len(responses)} lists of responses do not go together")
    doc, doc_hash = sample.get("doc") or {}, str(sample.get("doc_hash") or "")
    numbers: dict[str, itertools.count[int]] = {}
    found = []
    for arguments, given in zip(asked, responses):
        kind = _kind(arguments)
        made = [_response(kind, one, where) for one in (given if isinstance(given, list) else [given])]
        idx = next(numbers.setdefault(kind, itertools.count()))
        metadata = (task, doc_id, len(made))
        request = LoggedRequest(kind, doc, arguments, idx, metadata, doc_hash=doc_hash)  # pyright: ignore[reportArgumentType]
        found.append(Asked(request, made))
    return found


def _listed(arguments: Any) -> list[Any]:
    """One item a request: lm-eval's files name them gen_args_0, gen_args_1 ..., what it returns is a list."""
    if not isinstance(arguments, dict):
        return list(arguments)
    return [arguments[name] for name in sorted(arguments, key=lambda name: int(name.rsplit("_", 1)[-1]))]


def _arguments(logged: Any, where: str) -> tuple[Any, ...]:
    """A request's arguments: the prompt, then the continuation or the generation settings."""
    if isinstance(logged, dict):
        logged = [logged[name] for name in sorted(logged, key=lambda name: int(name.rsplit("_", 1)[-1]))]
    if not isinstance(logged, (list, tuple)) or not logged:
        raise ValueError(f"{where}: arguments {str(logged)[:60]!r} are not those of a request")
    prompt, *rest = logged
    if isinstance(prompt, list) and len(prompt) == 1:  # messages for a chat endpoint, as one JSON text
        (prompt,) = prompt
    if len(rest) > 1:
        raise ValueError(f"{where}: a request with {len(logged)} arguments (images, say) cannot be replayed")
    if not isinstance(prompt, str) or not all(isinstance(part, (str, dict)) for part in rest):
        raise ValueError(f"{where}: the prompt is no text")
    return (prompt, *rest)


def _kind(arguments: Sequence[Any]) -> str:
    if len(arguments) == 1:
        return ROLLING
    return GENERATION if isinstance(arguments[1], dict) else CHOICE


def _response(kind: str, logged: Any, where: str) -> Any:
    """A response as the model gave it: the log holds numbers and truth values as texts."""
    try:
        if kind == GENERATION:
            if not isinstance(logged, str):
                raise ValueError(f"{str(logged)[:60]!r} is no text")
            return logged
        if kind == ROLLING:
            return float(logged[0] if isinstance(logged, list) else logged)
        value, greedy = logged
        return float(value), str(greedy) == "True"
    except (TypeError, ValueError, LookupError) as problem:
        raise ValueError(f"{where}: a response to {kind} cannot be read ({problem})") from None


def messages(prompt: str) -> list[dict[str, str]] | None:
    """The messages that a chat endpoint was sent, which is logged as one JSON text; None for any other prompt."""
    if not prompt.lstrip().startswith('[{"'):
        return None
    try:
        found = json.loads(prompt)
    except ValueError:
        return None
    whole = isinstance(found, list) and all(isinstance(m, dict) and {"role", "content"} <= m.keys() for m in found)
    return found if whole else None
