"""Tokens that hold a range of characters, against a count of bytes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metrics.places import Tiles, end_before, same_place, tokens_of


def spell_of(pieces):
    return lambda ids: b"".join(pieces[i] for i in ids).decode("utf-8", "replace")


def by_bytes(pieces, text, start, stop):
    """The first and the last token of which a byte lies in the range."""
    low, high = len(text[:start].encode()), len(text[:stop].encode())
    ends = [0]
    for piece in pieces:
        ends.append(ends[-1] + len(piece))
    inside = [i for i in range(len(pieces)) if ends[i] < high and ends[i + 1] > low]
    return inside[0], inside[-1] + 1


@pytest.mark.parametrize(
    ("pieces", "start", "stop", "tokens"),
    [
        (["The", " answer", " is", " 42", "."], 14, 16, (3, 4)),  # its space is in the token
        (["The", " answer", " is", " 4", "2", "."], 14, 16, (3, 5)),
        (["x=(4", "2)."], 3, 5, (0, 2)),  # both ends inside tokens
        (["a", "", "b"], 1, 2, (2, 3)),  # a token of no text is not taken in front
        (["a", "b", "", "c"], 1, 2, (1, 2)),  # nor behind
    ],
)
def test_tokens_by_hand(pieces, start, stop, tokens):
    assert tokens_of(range(len(pieces)), "".join(pieces), start, stop, lambda ids: "".join(pieces[i] for i in ids)) == (
        tokens
    )


@given(st.text("a4 é中😀\n", min_size=1, max_size=12), st.data())
def test_characters_of_several_tokens(text, data):
    raw = text.encode()
    cuts = [*sorted(data.draw(st.sets(st.integers(1, len(raw)), max_size=len(raw)))), len(raw)]
    pieces = [raw[a:b] for a, b in zip([0, *cuts], cuts) if a < b]
    start = data.draw(st.integers(0, len(text) - 1))
    stop = data.draw(st.integers(start + 1, len(text)))
    assert tokens_of(range(len(pieces)), text, start, stop, spell_of(pieces)) == by_bytes(pieces, text, start, stop)


def stripped(text, start, stop):
    inside = text[start:stop]
    return start + len(inside) - len(inside.lstrip()), stop - len(inside) + len(inside.rstrip())


@given(st.text("a4 é中😀\n", min_size=1, max_size=12), st.data())
def test_tiles_are_the_tokens_that_decoding_finds(text, data):
    raw = text.encode()
    cuts = [*sorted(data.draw(st.sets(st.integers(1, len(raw)), max_size=len(raw)))), len(raw)]
    pieces = [raw[a:b] for a, b in zip([0, *cuts], cuts) if a < b]
    start = data.draw(st.integers(0, len(text) - 1))
    start, stop = stripped(text, start, data.draw(st.integers(start + 1, len(text))))
    ids, spell = range(len(pieces)), spell_of(pieces)
    found = Tiles(spell).find(ids, text, start, stop)
    if start >= stop:
        assert found is None
    elif found is None:
        assert any(piece[-1:] > b"\x7f" or piece[:1] > b"\x7f" for piece in pieces)
    else:
        assert found[0] == by_bytes(pieces, text, start, stop)
        before = text[:start].rstrip()
        assert found[1] == (0, by_bytes(pieces, text, 0, len(before))[1] if before.strip() else 0)


def test_tiles_by_hand():
    pieces = [b" The", b" caf", b"\xc3", b"\xa9", b" =4", b"2", b" ", b"."]
    found = Tiles(spell_of(pieces))
    assert found.find(range(8), "The café =42 .", 10, 12) == ((4, 6), (0, 5))  # a token of both belongs to both
    assert found.find(range(8), "The café =42 .", 4, 8) == ((1, 4), (0, 1))
    assert found.find(range(8), "The café =42 .", 0, 3) == ((0, 1), (0, 0))
    assert found.find(range(8), "The cafe =42 .", 10, 12) is None  # another text
    assert Tiles(spell_of([b"\xc3", b"\xa94", b"\xc3", b"\xa9"])).find(range(4), "é4é", 1, 2) is None  # within a run


@pytest.mark.parametrize(
    ("text", "start", "stop", "other", "place"),
    [
        (" 5 apples", 3, 9, "5 apples", (2, 8)),  # the first space is not shown
        ("I'm 5 .", 4, 5, "I 'm 5.", (5, 6)),  # cleaned up, or not
        ("5", 0, 1, ">5)", (1, 2)),  # more in front and behind
        ("4 4", 2, 3, "4 4", (2, 3)),
        ("4 4", 0, 3, "4 5 4", None),
        ("a  b", 1, 3, "a  b", None),  # nothing but white space
        ("", 0, 0, "x", None),
    ],
)
def test_the_same_place_in_another_text(text, start, stop, other, place):
    assert same_place(text, start, stop, other) == place


def test_white_space_before_a_place():
    assert end_before("is  4", 4) == 2
    assert end_before("  4", 2) == 0
