"""Spans of generated answers against a count of bytes, with tokens that cut characters, stops and answers anywhere."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lm_eval.models.utils import postprocess_generated_text

from lm_eval_ext.answers import spans
from metrics.record import Span

EOS, PAD = -1, -2


def lossy(raw):
    """As byte-level tokenizers decode: one mark for each broken character."""
    return raw.decode("utf-8", "replace")


def fallback(raw):
    """As SentencePiece's byte fallback decodes: one mark for each byte of a broken character, so text may shrink."""
    return re.sub(
        "[\udc80-\udcff]",
        "\N{REPLACEMENT CHARACTER}",
        raw.decode("utf-8", "surrogateescape"),
    )


class Pieces:
    """A tokenizer without merges: token i stands for the i-th piece of bytes; EOS and PAD are special."""

    def __init__(self, pieces, rule=lossy):
        self.pieces = pieces
        self.rule = rule

    def __call__(self, ids):
        return self.rule(b"".join(self.pieces[i] for i in ids if i >= 0))


def tokens(*texts, rule=lossy):
    """Ids and decoder of a continuation of these pieces, text or bytes; EOS and PAD stand for themselves."""
    pieces, ids = [], []
    for text in texts:
        if text in (EOS, PAD):
            ids.append(text)
        else:
            ids.append(len(pieces))
            pieces.append(text if isinstance(text, bytes) else text.encode())
    return ids, Pieces(pieces, rule)


def cut(ids, decode, answer, stops=()):
    found = spans(ids, answer, decode, {EOS}, stops)
    return tuple(found["answer"]), tuple(found["generation"])


def harness(ids, decode, stops):
    return postprocess_generated_text(decode(ids), list(stops), None)


@pytest.mark.parametrize(
    ("pieces", "stops", "answer", "generation"),
    [
        (["4", ")", " more"], [")"], (0, 1), (0, 2)),
        (["4)", " more"], [")"], (0, 1), (0, 1)),  # the stop begins inside the answer's token
        (["a", "b#", "#c", "d"], ["##"], (0, 2), (0, 3)),  # a stop across tokens
        (["a", "\n", "\n", "b"], ["\n\n"], (0, 1), (0, 3)),
        (["a", "b"], ["\n"], (0, 2), (0, 2)),  # no stop reached
        (["a", EOS, PAD, PAD], ["\n"], (0, 1), (0, 2)),
        (["a", "b", EOS, PAD, PAD, PAD], [], (0, 2), (0, 3)),
        ([EOS, PAD], ["\n"], (0, 0), (0, 1)),  # nothing but the end
        (["\n", "a"], ["\n"], (0, 0), (0, 1)),  # the stop at once
        (["a", " ", " ", "\n"], ["\n"], (0, 1), (0, 4)),  # white space at the end is no answer
        (["a ", "\n"], ["\n"], (0, 1), (0, 2)),
        ([" ", "a", "\n"], ["\n"], (0, 2), (0, 3)),  # white space in front belongs to it
        (["a", "b", "c"], ["b", "c"], (0, 1), (0, 2)),  # the first of several
        (["a", "b", "c"], ["", "c"], (0, 2), (0, 3)),  # an empty stop string is none
        (["a", ")", ")"], [")", "))"], (0, 1), (0, 2)),
    ],
)
def test_spans_by_hand(pieces, stops, answer, generation):
    ids, decode = tokens(*pieces)
    assert cut(ids, decode, harness(ids, decode, stops), stops) == (answer, generation)


@pytest.mark.parametrize("rule", [lossy, fallback])
def test_an_answer_that_ends_in_a_character_of_several_tokens_is_whole(rule):
    smile = "😀".encode()
    ids, decode = tokens("a", smile[:1], smile[1:2], smile[2:3], smile[3:], "\n", "b", rule=rule)
    assert cut(ids, decode, "a😀", ["\n"]) == ((0, 5), (0, 6))


@pytest.mark.parametrize("rule", [lossy, fallback])
def test_a_stop_of_a_character_of_several_tokens(rule):
    smile = "😀".encode()
    ids, decode = tokens("a", smile[:2], smile[2:], "b", rule=rule)
    assert cut(ids, decode, "a", ["😀"]) == ((0, 1), (0, 3))


def test_a_stop_behind_the_end_of_sequence_is_padding():
    ids, decode = tokens("a", EOS, "b", ")", PAD)
    assert cut(ids, decode, "a", [")"]) == ((0, 1), (0, 2))


def test_text_behind_the_end_of_sequence_is_left_out_even_if_the_host_scores_it():
    """Models that do not stop at it go on while others of the batch do; alone they would have stopped."""
    ids, decode = tokens("a", EOS, "b", ")")
    assert cut(ids, decode, harness(ids, decode, [")"]), [")"]) == ((0, 2), (0, 2))


@pytest.mark.parametrize("thought", ["two", "4 or 5: ", "4"])
def test_thoughts_before_the_answer_are_no_part_of_it(thought):
    """lm-eval strips what stands before the end of thinking; the answer may occur in the thought as well."""
    ids, decode = tokens("<think>", thought, "</think>", " ", "4", ")", "4")
    answer = postprocess_generated_text(decode(ids), [")"], "</think>")
    assert answer == "4"
    assert cut(ids, decode, answer, [")"]) == ((4, 5), (0, 6))


def test_a_thought_that_begins_as_the_answer_does():
    ids, decode = tokens("4", " or five", "</think>", "4", EOS, PAD)
    assert cut(ids, decode, "4", []) == ((3, 4), (0, 5))


def test_the_answer_is_not_looked_for_inside_the_stop():
    ids, decode = tokens("</think>", "a", ")a", "b")
    assert cut(ids, decode, "a", [")a"]) == ((1, 2), (0, 3))


@pytest.mark.parametrize("rule", [lossy, fallback])
def test_an_answer_behind_a_thought_that_ends_in_a_broken_character(rule):
    smile = "😀".encode()
    ids, decode = tokens("ab", smile[:1], smile[1:], "</think>", smile[:2], smile[2:], "!", "\n", rule=rule)
    assert cut(ids, decode, "😀!", ["\n"]) == ((4, 7), (0, 8))


def test_an_answer_that_is_not_in_the_text_takes_the_whole_generation():
    ids, decode = tokens("a", "b", EOS, PAD)
    assert cut(ids, decode, "rewritten", []) == ((0, 3), (0, 3))


ALPHABET = "ab \n#😀é"


@st.composite
def continuations(draw):
    """Text cut into tokens at arbitrary bytes, perhaps an end of sequence, and padding."""
    raw = draw(st.text(ALPHABET, max_size=14)).encode()
    at = sorted(draw(st.sets(st.integers(1, max(1, len(raw) - 1)), max_size=10))) if len(raw) > 1 else []
    pieces = [raw[i:j] for i, j in zip([0, *at], [*at, len(raw)]) if i < j]
    ends = draw(st.booleans())
    ids = [*range(len(pieces)), *([EOS] if ends or not pieces else []), *[PAD] * draw(st.integers(0, 3))]
    if not ends and PAD in ids and EOS not in ids:
        ids = [i for i in ids if i != PAD]
    return ids, pieces


@settings(max_examples=400, deadline=None)
@given(
    made=continuations(),
    stops=st.lists(st.sampled_from(["\n", "#", "##", "b#", "é", "😀", "\n\n"]), max_size=3),
    rule=st.sampled_from([lossy, fallback]),
)
def test_spans_cover_the_bytes_of_the_answer(made, stops, rule):
    ids, pieces = made
    decode = Pieces(pieces, rule)
    raw = b"".join(pieces)
    offsets = [0]
    for i in ids:
        offsets.append(offsets[-1] + (len(pieces[i]) if i >= 0 else 0))
    answer = harness(ids, decode, stops)
    found = spans(ids, answer, decode, {EOS}, stops)

    complete = [raw.find(s.encode()) + len(s.encode()) for s in stops if s.encode() in raw]
    through = ids.index(EOS) + 1 if EOS in ids else len(ids)
    expected = next((n for n in range(1, through + 1) if complete and offsets[n] >= min(complete)), through)
    assert found["generation"] == Span(0, expected)

    scored = len((answer.rstrip() or answer).encode())
    if not scored:
        assert found["answer"] == Span(0, 0)
    else:
        last = next(n for n in range(1, len(offsets)) if offsets[n] >= scored)
        assert found["answer"] == Span(0, last)
    assert found["answer"].stop <= found["generation"].stop


@settings(max_examples=200, deadline=None)
@given(made=continuations(), padding=st.lists(st.just(PAD), max_size=5))
def test_spans_do_not_depend_on_padding(made, padding):
    ids, pieces = made
    decode = Pieces(pieces)
    ids = [*(i for i in ids if i != PAD), EOS]
    answer = harness(ids, decode, ["\n"])
    assert cut(ids, decode, answer, ["\n"]) == cut([*ids, *padding], decode, answer, ["\n"])
