"""From places in a decoded text to the tokens that hold them."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from functools import cache

from metrics.pieces import HALF
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


def solid(text: str) -> str:
    """The text without white space."""
    return "".join(text.split())


def same_place(text: str, start: int, stop: int, other: str) -> tuple[int, int] | None:
    """Where ``text[start:stop]`` stands in another text that holds the same characters, white space aside.

    Decoded at another place of a row, or by another program, a text may lose or gain spaces. The first place at which
    the other text holds the whole of it counts; None where there is none, or nothing but white space is asked for.
    """
    places = [i for i, c in enumerate(other) if not c.isspace()]
    at = solid(other).find(solid(text))
    before, inside = len(solid(text[:start])), len(solid(text[start:stop]))
    if at < 0 or not inside:
        return None
    return places[at + before], places[at + before + inside - 1] + 1


class Tiles:
    """Texts of single tokens, remembered, of which the text of many is put together without decoding it.

    Args:
        spell: decodes ids.
    """

    def __init__(self, spell: Spell) -> None:
        self.spell = spell
        self._text = cache(lambda token: solid(spell([token])))

    def find(self, ids: Sequence[int], text: str, start: int, stop: int) -> tuple[Span, Span] | None:
        """Tokens of the characters ``[start, stop)`` of a text, and those of all before them; as `tokens_of` has them.

        None where the tokens' own texts are not the text, white space aside, or a character of several tokens lies at
        an end of what is asked for; nothing is known then, and the whole has to be decoded.
        """
        joined, letters, tokens = self._lay(ids)
        at, wanted = joined.find(solid(text)), len(solid(text[start:stop]))
        if at < 0 or not wanted:
            return None
        low = at + len(solid(text[:start]))
        first, last = bisect_right(letters, low), bisect_left(letters, low + wanted)
        begin, end = tokens[first - 1], tokens[last]
        before = bisect_left(letters, low) if low > at else 0
        for tile, place in ((first, low), (last, low + wanted), (before, low)):
            inside = letters[tile - 1] < place < letters[tile] if tile else False
            if inside and tokens[tile] - tokens[tile - 1] > 1:
                return None
        return Span(begin, end), Span(0, tokens[before])

    def _lay(self, ids: Sequence[int]) -> tuple[str, list[int], list[int]]:
        """The joined text; behind each tile the number of its letters and of its tokens so far, from 0 each.

        A tile is a token, or a run of tokens that are no text by themselves.
        """
        texts, letters, tokens = [], [0], [0]
        n = 0
        while n < len(ids):
            end = n + 1
            text = self._text(ids[n])
            if HALF in text:
                while end < len(ids) and HALF in self._text(ids[end]):
                    end += 1
                text = solid(self.spell(ids[n:end]))
            texts.append(text)
            letters.append(letters[-1] + len(text))
            tokens.append(end)
            n = end
        return "".join(texts), letters, tokens


def end_before(text: str, place: int) -> int:
    """The end of what stands before `place`, without white space."""
    return len(text[:place].rstrip())
