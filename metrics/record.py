"""One continuation as it is recorded: who it is, what was answered, where the answer lies, and its signals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor


class Key(NamedTuple):
    """What identifies a record for ever: the harness's own numbering, never the order of a batch."""

    task: str
    doc_id: int
    request: int
    """Index of the request within its document: the option's number in multiple choice."""
    occurrence: int
    """0 for the first sample of a request, then 1, 2, ... up to the task's `repeats`."""
    kind: str = ""
    """lm-eval's request type: a document may ask for several, each numbered from 0. A `Record` fills it in."""


class Span(NamedTuple):
    """A half-open range of token positions in the recorded continuation."""

    start: int
    stop: int


@dataclass(frozen=True)
class Record:
    """One continuation of one request.

    `kind` is lm-eval's request type (``generate_until``, ``loglikelihood``, ``loglikelihood_rolling``).
    `spans` holds ``answer``, the tokens of the scored text, and ``generation``, every token up to the end of sequence
    or the stop string, and, for a model that thinks first, ``thought``, the tokens up to and with the end-of-thinking
    marker; all index the token axis of the signals. `answer` is the harness's own response: a text, or
    ``[log_likelihood, is_greedy]``, or a log-likelihood. Signals carry neither padding nor a batch axis.
    """

    key: Key
    kind: str
    prompt_count: int
    token_count: int
    spans: Mapping[str, Span]
    answer: Any
    prompt_hash: str
    doc_hash: str
    request_hash: str
    """Digest of the request's arguments: `resume` serves a record only to the very same request."""
    chars: int = 0
    """Characters of the continuation's text, with the delimiter that lm-eval puts before a choice."""
    bytes: int = 0
    """UTF-8 bytes of the same."""
    siblings: int = 1
    """Requests of this type that the document had in the list handed to the model."""
    truncated: bool = False
    """Whether the prompt lost tokens on the left to fit the context."""
    signals: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "key", self.key._replace(kind=self.kind))

    def entry(self) -> dict[str, Any]:
        """The record without its signals, as one JSON object of the record index."""
        made = {k: v for k, v in vars(self).items() if k not in ("key", "signals", "spans")}
        return {**self.key._asdict(), **made, "spans": {k: list(v) for k, v in self.spans.items()}}

    @classmethod
    def from_entry(cls, entry: Mapping[str, Any], signals: Mapping[str, Tensor]) -> Record:
        """The inverse of `entry`."""
        rest = {k: v for k, v in entry.items() if k == "kind" or k not in (*Key._fields, "spans")}
        spans = {k: Span(*v) for k, v in entry["spans"].items()}
        return cls(key=Key(*(entry[f] for f in Key._fields)), spans=spans, signals=signals, **rest)


ENTRY: dict[str, type] = {
    "task": str,
    "doc_id": int,
    "request": int,
    "occurrence": int,
    "kind": str,
    "prompt_count": int,
    "token_count": int,
    "spans": dict,
    "answer": object,
    "prompt_hash": str,
    "doc_hash": str,
    "request_hash": str,
    "chars": int,
    "bytes": int,
    "siblings": int,
    "truncated": bool,
}
"""Fields of an entry, by type as JSON has them."""

OPTIONAL = frozenset(("chars", "bytes", "siblings", "truncated"))


def check_entry(entry: Any) -> None:
    """Check what was read from an index that no checksum vouches for.

    Raises:
        ValueError: no record can be made of it.
    """
    if not isinstance(entry, dict) or not entry.keys() >= ENTRY.keys() - OPTIONAL:
        raise ValueError("a record without its key")
    for name, value in entry.items():
        kind = ENTRY.get(name)
        if kind is None or not (type(value) is kind or kind is object):
            raise ValueError(f"a record with {name}={value!r}"[:200])
    for name, span in entry["spans"].items():
        whole = isinstance(span, list) and len(span) == 2 and all(type(v) is int for v in span)
        if not whole or not 0 <= span[0] <= span[1] <= entry["token_count"]:
            raise ValueError(f"a record with the span {name}={span!r}"[:200])
