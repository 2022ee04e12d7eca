"""From places in a decoded text to the tokens that hold them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from metrics.record import Span

Spell = Callable[[Sequence[int]], str]
"""How ids become text."""


def tokens_of(ids: Sequence[int], text: str, start: int, stop: int, spell: Spell) -> Span:
    """The smallest range of tokens that holds the characters ``[start, stop)`` of the decoded text, at least one.

    A token that straddles an end of it belongs to it.
    """
    return Span(first(ids, text, start, spell), reach(ids, text, stop, spell))


def first(ids: Sequence[int], text: str, place: int, spell: Spell) -> int:
    """The token that holds the character at `place`: those before it that decode to nothing are left out."""
    before = text[:place]
    start = reach(ids, text, place, spell)
    if spell(ids[:start]) != before:
        return start - 1  # this token holds text of both
    while spell(ids[: start + 1]) == before:
        start += 1
    return start


def reach(ids: Sequence[int], text: str, place: int, spell: Spell) -> int:
    """The smallest number of tokens whose text agrees with the whole up to `place`.

    Compared by text and not by length, since a character that is cut in two may decode to more marks than one. More
    tokens agree all the more, but inside a run of byte tokens: some tokenizers decode such a run as a whole, so it may
    agree, then be broken, then agree again. Hence a bisection, and a walk back to a place outside of any run.
    """
    wanted = text[:place]

    def agrees(part: str) -> bool:
        return part[:place] == wanted

    low, high = 0, len(ids)
    while low < high:
        middle = (low + high) // 2
        if agrees(spell(ids[:middle])):
            high = middle
        else:
            low = middle + 1
    found = low
    for n in reversed(range(low)):
        part = spell(ids[:n])
        if agrees(part):
            found = n
        elif text.startswith(part):
            break
    return found


def same_place(text: str, start: int, stop: int, other: str) -> tuple[int, int] | None:
    """Where ``text[start:stop]`` stands in another text that holds the same characters, white space aside.

    Decoded at another place of a row, or by another program, a text may lose or gain spaces. The first place at which
    the other text holds the whole of it counts; None where there is none, or nothing but white space is asked for.
    """
    wanted = text[start:stop]
    solid = [i for i, c in enumerate(other) if not c.isspace()]
    at = "".join(other[i] for i in solid).find("".join(text.split()))
    before, inside = len("".join(text[:start].split())), len("".join(wanted.split()))
    if at < 0 or not inside:
        return None
    return solid[at + before], solid[at + before + inside - 1] + 1


def end_before(text: str, place: int) -> int:
    """The end of what stands before `place`, without white space."""
    return len(text[:place].rstrip())
