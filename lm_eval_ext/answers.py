"""Which generated tokens make up the scored answer and the thought before it, decided on token ids.

lm-eval cuts the *text* of a row, which goes on behind the answer for as long as others of its batch do. Here its steps
are taken again with places instead of texts, and each place is brought back to the token that reaches it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

from metrics import places
from metrics.record import Span

Decode = Callable[[Sequence[int]], str]


def spans(
    ids: Sequence[int],
    answer: str,
    decode: Decode,
    ends: Collection[int],
    stops: Sequence[str],
    think_end: str | int | None = None,
    stops_first: bool = False,
) -> dict[str, Span]:
    """Spans of a generated continuation; each is the smallest range of tokens that holds its text.

    ``generation`` runs up to and with the first token that ends a sequence, or the token that completes the first stop
    string (behind the thought, if that is cut first), where generation alone in its batch would have ended. ``answer``
    holds the tokens of the scored text, without white space at its end; a token that straddles an end of it belongs to
    it. An answer of no text has no tokens. ``thought`` runs up to and with the token that completes the last
    end-of-thinking marker. Without a marker it is absent, also where a thought was broken off: lm-eval then scores its
    text, and that is the answer.

    Text behind a token that ends a sequence is no part of any span, even if the harness scores it (it does where the
    model itself goes on behind that token and other answers of the batch are longer). Where the harness cut the text in
    some other way, ``answer`` is absent.

    Args:
        ids: generated ids, padding included.
        answer: what the harness scores.
        decode: ids to text, special tokens skipped.
        ends: ids that end a sequence.
        stops: stop strings, in the harness's order.
        think_end: the end-of-thinking marker: a text, or a token id.
        stops_first: whether the harness cuts at stop strings before it looks for a marker that is a text, as lm-eval
            does before 0.4.12: a stop string inside a thought then ends the answer, and no thought is cut.
    """
    end = next((i + 1 for i, token in enumerate(ids) if token in ends), len(ids))
    cut = _cut(ids[:end], decode, stops, think_end, stops_first)

    def reach(place: int) -> int:
        return cut.first + places.reach(cut.ids, cut.text, place, decode)

    found = {"generation": Span(0, reach(cut.halt) if cut.halt else end)}
    if cut.first or cut.marker:
        found["thought"] = Span(0, reach(cut.marker))
    if answer not in (cut.answer, _cut(ids, decode, stops, think_end, stops_first).answer):
        return found
    wanted = cut.answer.rstrip() or cut.answer
    start = cut.first + places.first(cut.ids, cut.text, cut.start, decode) if wanted else 0
    found["answer"] = Span(start, reach(cut.start + len(wanted)) if wanted else 0)
    return found


class _Cut(NamedTuple):
    """What lm-eval did to a row: all but `first` and `ids` in characters of `text`."""

    ids: Sequence[int]
    """The tokens that are decoded."""
    first: int
    """How many were left out in front: a thought that is cut on ids."""
    text: str
    marker: int
    """Where a thought that is cut on text ends; 0 without one."""
    start: int
    """Where the answer begins."""
    answer: str
    halt: int
    """Where the first stop string that counts is complete; 0 without one."""


def _cut(
    ids: Sequence[int], decode: Decode, stops: Sequence[str], think_end: str | int | None, stops_first: bool
) -> _Cut:
    """The steps of `HFLM.generate_until` and `postprocess_generated_text`: the thought, then stops, or stops first."""
    first = 0
    if isinstance(think_end, int):
        first = next((i + 1 for i in reversed(range(len(ids))) if ids[i] == think_end), 0)
    text = decode(ids[first:])
    stops = [s for s in stops if s]
    early = stops_first and isinstance(think_end, str)
    kept = _before(text, stops) if early else text
    marker = start = 0
    if isinstance(think_end, str) and think_end:
        marker = len(kept) - len(kept.split(think_end)[-1])
    if think_end not in (None, ""):
        start = len(kept) - len(kept[marker:].lstrip())
    answer = _before(kept[start:], stops)
    since = 0 if early else start
    halt = min((text.index(s, since) + len(s) for s in stops if s in text[since:]), default=0)
    return _Cut(ids[first:], first, text, marker, start, answer, halt)


def _before(text: str, stops: Sequence[str]) -> str:
    """The text in front of the stop strings, each looked for in what those before it left."""
    for stop in stops:
        text = text.split(stop)[0]
    return text
