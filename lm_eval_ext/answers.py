"""Which generated tokens make up the scored answer, decided on token ids.

lm-eval cuts the *text* at a stop string; the tokens behind it stay in the batch, and how many there are depends on the
other answers. So both spans are cut here: the same tokens are recorded whatever the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from metrics.record import Span

Decode = Callable[[Sequence[int]], str]

BROKEN = "\N{REPLACEMENT CHARACTER}"
"""What a character decodes to whose last token is missing."""


def spans(
    ids: Sequence[int], answer: str, decode: Decode, eos: Collection[int], stops: Sequence[str]
) -> dict[str, Span]:
    """Spans of a generated continuation.

    ``generation`` runs up to and with the first end-of-sequence token or the token that completes the first stop
    string, where generation alone in its batch would have ended. ``answer`` holds the tokens of the scored text,
    without white space at its end; a token that straddles the end belongs to it. An answer of no text has no tokens.

    Args:
        ids: generated ids, padding included.
        answer: what the harness scores.
        decode: ids to text, special tokens skipped.
        eos: ids that end a sequence.
        stops: stop strings.
    """
    end = next((i + 1 for i, token in enumerate(ids) if token in eos), len(ids))

    def text(n: int) -> str:
        return decode(ids[:n])

    full = text(end)
    stops = [s for s in stops if s]
    if any(s in full for s in stops):
        end = _first(end, lambda n: any(s in text(n) for s in stops))
        full = text(end)
    wanted = answer.rstrip() or answer
    if not wanted:
        return {"answer": Span(0, 0), "generation": Span(0, end)}
    body = full
    for s in stops:
        body = body.split(s)[0]
    at = 0 if wanted in (body, body.rstrip()) else body.rfind(wanted)  # behind what the harness strips: a thought
    if at < 0:
        return {"answer": Span(0, end), "generation": Span(0, end)}

    def reaches(n: int, place: int) -> bool:  # not by length: a character cut in two may decode to more marks than one
        return text(n)[:place] == full[:place]

    stop = _first(end, lambda n: reaches(n, at + len(wanted)))
    start = 0 if at == 0 else _first(stop, lambda n: reaches(n, at))
    straddles = start > 0 and len(text(start).rstrip(BROKEN)) > at
    return {"answer": Span(start - straddles, stop), "generation": Span(0, end)}


def _first(most: int, holds: Callable[[int], bool]) -> int:
    """The smallest n in 1..most for which a condition that stays true once true holds; it holds at `most`."""
    low, high = 1, most
    while low < high:
        middle = (low + high) // 2
        if holds(middle):
            high = middle
        else:
            low = middle + 1
    return low
