"""Spans of generated answers against a count of bytes, with tokens that cut characters, stops and answers anywhere."""

import re

import pytest
from cutting import scored
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from lm_eval.models.utils import postprocess_generated_text

from lm_eval_ext.answers import spans
from lm_eval_ext.generation import STOPS_FIRST
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


def cut(ids, decode, answer, stops=(), think=None):
    found = spans(ids, answer, decode, {EOS}, stops, think)
    return tuple(found["answer"]), tuple(found["generation"])


def harness(ids, decode, stops, think=None, stops_first=False):
    """What lm-eval's `generate_until` scores."""
    if isinstance(think, int) and think in ids:
        ids = ids[len(ids) - ids[::-1].index(think) :]
    text = decode(ids)
    if isinstance(think, int):
        return scored(text.lstrip(), stops)
    return scored(text, stops, think, stops_first)


@settings(max_examples=200, deadline=None)
@given(
    text=st.text("ab \n", max_size=12),
    stops=st.lists(st.sampled_from(["a", "b", "ab", " ", "\n", ""]), max_size=3),
    think=st.sampled_from([None, "", "a", "ba", "\n"]),
)
def test_the_installed_lm_eval_cuts_in_one_of_the_two_orders(text, stops, think):
    assert postprocess_generated_text(text, stops, think) == scored(text, stops, think, STOPS_FIRST)


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
    assert cut(ids, decode, harness(ids, decode, [")"]), [")"]) == ((0, 1), (0, 2))


END = "</t>"


@pytest.mark.parametrize(
    ("pieces", "stops", "expected"),
    [
        (["two", END, " ", "4", ")", "4"], [")"], {"thought": (0, 2), "answer": (3, 4), "generation": (0, 5)}),
        (["4", END, " ", "4", ")", "4"], [")"], {"thought": (0, 2), "answer": (3, 4), "generation": (0, 5)}),
        (["4 or 5: ", END, "4"], [")"], {"thought": (0, 2), "answer": (2, 3), "generation": (0, 3)}),
        (
            ["a)", " b", END, "4", ")"],
            [")"],
            {"thought": (0, 3), "answer": (3, 4), "generation": (0, 5)},
        ),  # a stop in it
        (["a", END, "b", END, "c", EOS], [], {"thought": (0, 4), "answer": (4, 5), "generation": (0, 6)}),  # the last
        (["a", END, "\n\n", "b", "\n\n"], ["\n\n"], {"thought": (0, 2), "answer": (3, 4), "generation": (0, 5)}),
        (["a", END, EOS, PAD], [], {"thought": (0, 2), "answer": (0, 0), "generation": (0, 3)}),  # nothing behind it
        (["a", END, ")", "b"], [")"], {"thought": (0, 2), "answer": (0, 0), "generation": (0, 3)}),
        ([" a", "b"], [")"], {"answer": (0, 2), "generation": (0, 2)}),  # never ended: lm-eval scores the thought
        ([" ", "a)", "b"], [")"], {"answer": (1, 2), "generation": (0, 2)}),  # without its white space in front
        (["a", EOS, END, "4"], [], {"answer": (0, 1), "generation": (0, 2)}),  # an end of thinking in what is padding
        (
            [END, "4"],
            [],
            {"thought": (0, 1), "answer": (1, 2), "generation": (0, 2)},
        ),  # opened in the prompt, no thought
        ([], [], {"answer": (0, 0), "generation": (0, 0)}),
    ],
)
@pytest.mark.parametrize("form", [str, int])
def test_thoughts_by_hand(pieces, stops, expected, form):
    """The same for both forms of the marker, a text and a token id."""
    if form is int and END not in pieces:
        think = 99
        ids, decode = tokens(*pieces)
    elif form is int:
        think = -3
        ids, decode = tokens(*("" if p == END else p for p in pieces))
        ids = [think if p == END else i for p, i in zip(pieces, ids)]
    else:
        think = END
        ids, decode = tokens(*pieces)
    answer = harness(ids, decode, stops, think)
    assert spans(ids, answer, decode, {EOS}, stops, think) == {k: Span(*v) for k, v in expected.items()}


@pytest.mark.parametrize(
    ("pieces", "stops", "answer", "expected"),
    [
        (["a)", " b", END, "4", ")"], [")"], "a", {"answer": (0, 1), "generation": (0, 1)}),  # a stop in the thought
        (["4", ")", " b", END, "4", ")"], [")"], "4", {"answer": (0, 1), "generation": (0, 2)}),  # as scored behind it
        (["a", END, " 4", ")"], [")"], "4", {"thought": (0, 2), "answer": (2, 3), "generation": (0, 4)}),
        (["a", END, "b", ")", END, "c"], [")"], "b", {"thought": (0, 2), "answer": (2, 3), "generation": (0, 4)}),
        (["a", END, "\n\n", "b"], ["\n\n"], "", {"thought": (0, 2), "answer": (0, 0), "generation": (0, 3)}),
        (["a", "</", "t>", "b"], ["/t"], "a<", {"answer": (0, 2), "generation": (0, 3)}),  # a stop inside the marker
        ([" ", "a", EOS, PAD], [")"], "a", {"answer": (1, 2), "generation": (0, 3)}),
    ],
)
def test_thoughts_where_stops_are_cut_first(pieces, stops, answer, expected):
    """As lm-eval does before 0.4.12 with a marker that is a text; a token id is cut first in all versions."""
    ids, decode = tokens(*pieces)
    assert harness(ids, decode, stops, END, True) == answer
    found = spans(ids, answer, decode, {EOS}, stops, END, stops_first=True)
    assert found == {k: Span(*v) for k, v in expected.items()}


def test_an_answer_cut_in_the_other_order_has_no_span():
    ids, decode = tokens("a)", " b", END, "4", ")")
    assert "answer" not in spans(ids, "a", decode, {EOS}, [")"], END)
    assert "answer" not in spans(ids, "4", decode, {EOS}, [")"], END, stops_first=True)


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        (["a", "<", "/t", ">b", "c"], {"thought": (0, 4), "answer": (3, 5), "generation": (0, 5)}),
        (["a</t>b"], {"thought": (0, 1), "answer": (0, 1), "generation": (0, 1)}),
        (["a</", "t>4</t", ">5"], {"thought": (0, 3), "answer": (2, 3), "generation": (0, 3)}),
    ],
)
def test_a_marker_inside_tokens_gives_its_token_to_both(pieces, expected):
    ids, decode = tokens(*pieces)
    answer = harness(ids, decode, [], END)
    assert spans(ids, answer, decode, {EOS}, [], END) == {k: Span(*v) for k, v in expected.items()}


def test_markers_that_overlap_are_split_from_the_left():
    ids, decode = tokens("a", "t", "t", "t", "b")
    assert harness(ids, decode, [], "tt") == "tb"
    assert cut(ids, decode, "tb", [], "tt") == ((3, 5), (0, 5))


def test_a_thought_that_begins_as_the_answer_does():
    ids, decode = tokens("4", " or five", "</think>", "4", EOS, PAD)
    assert cut(ids, decode, "4", [], "</think>") == ((3, 4), (0, 5))


def test_the_answer_is_not_looked_for_inside_the_stop():
    ids, decode = tokens("</think>", "a", ")a", "b")
    assert cut(ids, decode, "a", [")a"], "</think>") == ((1, 2), (0, 3))


@pytest.mark.parametrize("rule", [lossy, fallback])
def test_an_answer_behind_a_thought_that_ends_in_a_broken_character(rule):
    smile = "😀".encode()
    ids, decode = tokens("ab", smile[:1], smile[1:], "</think>", smile[:2], smile[2:], "!", "\n", rule=rule)
    assert cut(ids, decode, "😀!", ["\n"], "</think>") == ((4, 7), (0, 8))


@pytest.mark.parametrize("rule", [lossy, fallback])
def test_an_answer_whose_first_character_begins_in_the_markers_token(rule):
    smile = "😀".encode()
    ids, decode = tokens("ab", b"</think>" + smile[:1], smile[1:], "!", rule=rule)
    assert spans(ids, "😀!", decode, {EOS}, [], "</think>")["answer"] == Span(1, 4)


def test_tokens_in_front_that_decode_to_nothing_are_no_part_of_the_answer():
    ids, decode = tokens("", "", "4", "", ")", "")
    assert cut(ids, decode, "4", [")"]) == ((2, 3), (0, 5))


def test_a_run_of_bytes_that_decodes_as_a_whole():
    """As SentencePiece's decoder does: a run that is broken anywhere is broken everywhere."""

    def whole_run(raw):
        try:
            return raw.decode()
        except UnicodeDecodeError:
            return "\N{REPLACEMENT CHARACTER}" * len(raw)

    euro, smile = "€".encode(), "😀".encode()
    ids, decode = tokens(*(bytes([b]) for b in euro + smile + smile), rule=whole_run)
    assert cut(ids, decode, "€", ["😀"]) == ((0, 3), (0, 7))
    assert cut(ids, decode, "€", ["😀😀"]) == ((0, 3), (0, 11))
    assert cut(ids, decode, "€😀😀", []) == ((0, 11), (0, 11))
    ids, decode = tokens(*(bytes([b]) for b in euro + smile[:2]), rule=whole_run)
    assert cut(ids, decode, harness(ids, decode, []), []) == ((0, 5), (0, 5))


def test_an_answer_that_was_cut_otherwise_has_no_span():
    ids, decode = tokens("a", "b", EOS, PAD)
    assert spans(ids, "rewritten", decode, {EOS}, []) == {"generation": Span(0, 3)}


THINK = -3
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
    think=st.sampled_from([None, "", "a", "é", "#", "aa", THINK]),
    thoughts=st.lists(st.integers(0, 14), max_size=2),
    rule=st.sampled_from([lossy, fallback]),
    stops_first=st.booleans(),
)
def test_spans_cover_the_bytes_of_their_texts(made, stops, think, thoughts, rule, stops_first):
    """Offsets of bytes say where each text lies, whatever the marks of broken characters look like."""
    ids, pieces = made
    if think == THINK:
        for at in thoughts:
            if at <= ids.index(EOS) if EOS in ids else at <= len(ids):
                ids = [*ids[:at], THINK, *ids[at:]]
    decode = Pieces(pieces, rule)
    sizes = [len(pieces[i]) if i >= 0 else 0 for i in ids]
    first = len(ids) - ids[::-1].index(THINK) if think == THINK and THINK in ids else 0
    raw = b"".join(pieces[i] for i in ids[first:] if i >= 0)
    assume(rule(raw).encode() == raw)  # no thought that ends inside a character
    answer = harness(ids, decode, stops, think, stops_first)
    found = spans(ids, answer, decode, {EOS}, stops, think, stops_first)

    def through(place):
        return next(n for n in range(first, len(ids) + 1) if sum(sizes[first:n]) >= place)

    stops_first = stops_first and think != THINK
    kept = raw
    for stop in stops if stops_first else []:
        kept = kept.split(stop.encode())[0]
    marker = len(kept) - len(kept.split(think.encode())[-1]) if think and think != THINK else 0
    start = marker
    while think and kept[start : start + 1].isspace():
        start += 1
    since = 0 if stops_first else start
    complete = [raw.find(s.encode(), since) + len(s.encode()) for s in stops if s.encode() in raw[since:]]
    end = ids.index(EOS) + 1 if EOS in ids else len(ids)
    expected = {"generation": Span(0, through(min(complete)) if complete else end)}
    if first or marker:
        expected["thought"] = Span(0, through(marker))
    size = len((answer.rstrip() or answer).encode())
    if size:
        begin = max(n for n in range(first, len(ids)) if sum(sizes[first:n]) <= start)
        expected["answer"] = Span(begin, through(start + size))
    else:
        expected["answer"] = Span(0, 0)
    assert found == expected
    assert found["answer"].stop <= found["generation"].stop


@settings(max_examples=200, deadline=None)
@given(made=continuations(), padding=st.lists(st.just(PAD), max_size=5))
def test_spans_do_not_depend_on_padding(made, padding):
    ids, pieces = made
    decode = Pieces(pieces)
    ids = [*(i for i in ids if i != PAD), EOS]
    answer = harness(ids, decode, ["\n"])
    assert cut(ids, decode, answer, ["\n"]) == cut([*ids, *padding], decode, answer, ["\n"])
