"""Who a request is: keys counted in the harness's own list, and tags that follow a request through its batching."""

from __future__ import annotations

import copy
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lm_eval.utils import handle_non_serializable, hash_string

from metrics.record import Key

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance


@dataclass(frozen=True)
class Identity:
    """A request's key and the digests by which labels and resumed runs recognise it."""

    key: Key
    request_hash: str
    prompt_hash: str
    doc_hash: str
    siblings: int = 1


def identify(requests: Sequence[Instance], kind: str) -> list[Identity | None]:
    """The identity of each request of a list handed to the model; None for padding.

    The harness puts one object `repeats` times into the list, and on several processes repeats the last one to even out
    the ranks: the occurrence is counted here, in list order, and those beyond `repeats` are padding.
    """
    seen: Counter[tuple[Any, ...]] = Counter()
    doc_hashes: dict[int, str] = {}
    siblings = Counter(
        document for document, _ in {((r.task_name or "", r.doc_id), int(r.idx or 0)): None for r in requests}
    )
    found: list[Identity | None] = []
    for position, request in enumerate(requests):
        doc_id = position if request.doc_id is None else int(request.doc_id)
        which = (request.task_name or "", doc_id, int(request.idx or 0))
        occurrence = seen[which]
        seen[which] += 1
        if occurrence >= (request.repeats or 1):
            found.append(None)
            continue
        arguments = request.args
        logged = getattr(request, "doc_hash", "")  # of a request read back from a log
        if not logged and id(request.doc) not in doc_hashes:
            doc_hashes[id(request.doc)] = _doc_hash(request.doc)
        found.append(
            Identity(
                Key(*which, occurrence, kind),
                request_hash(kind, arguments),
                hash_string(str(arguments[0])),
                logged or doc_hashes[id(request.doc)],
                siblings[request.task_name or "", request.doc_id],
            )
        )
    return found


def request_hash(kind: str, arguments: Sequence[Any]) -> str:
    """Digest of what is asked: the request's type and all its arguments."""
    text = json.dumps([kind, *arguments], sort_keys=True, default=str, ensure_ascii=False)
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


def _doc_hash(doc: Any) -> str:
    """The digest that lm-eval writes into its sample log as doc_hash; empty for a document that it cannot log."""
    try:
        return hash_string(json.dumps(doc, indent=2, default=handle_non_serializable, ensure_ascii=False))
    except (TypeError, ValueError):
        return ""


class TaggedPrompt(str):
    """A prompt that remembers its place in the request list, through sorting, grouping and batching."""

    index: int

    @classmethod
    def tag(cls, prompt: str, index: int) -> TaggedPrompt:
        """The same text with a place."""
        made = cls(prompt)
        made.index = index
        return made


def tag(requests: Sequence[Instance]) -> list[Instance]:
    """Copies of generation requests whose prompts remember their places in the list."""
    tagged = []
    for place, request in enumerate(map(copy.copy, requests)):
        prompt, *rest = request.args
        request.arguments = (TaggedPrompt.tag(prompt, place), *rest)
        tagged.append(request)
    return tagged


@dataclass(frozen=True)
class TaggedPair:
    """Stands for (context, continuation) in the scoring code, which only passes it on."""

    original: Any
    index: int


class Listener:
    """Takes the place of the harness's cache hook: hears each answer with its tag, and passes it on unchanged.

    The hook is the one point of the harness that sees, request by request and in every mode, what was answered.
    """

    def __init__(self, hook: Any, heard: Callable[[int, Any], None]) -> None:
        self._hook = hook
        self._heard = heard

    def add_partial(self, attr: str, req: Any, res: Any) -> None:
        """Called by the harness for each answer; `req` is what was tagged."""
        if isinstance(req, TaggedPair):
            self._heard(req.index, res)
            if req.original is not None:
                self._hook.add_partial(attr, req.original, res)
            return
        if isinstance(req, tuple) and req and isinstance(req[0], TaggedPrompt):
            self._heard(req[0].index, res)
            req = (str(req[0]), *req[1:])
        self._hook.add_partial(attr, req, res)
