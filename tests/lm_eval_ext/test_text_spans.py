"""Spans with tokenizers of every kind, against a slow search that knows the token ids and lm-eval's answer only."""

import re
from functools import cache
from itertools import count

import pytest
from cutting import scored
from hypothesis import given, settings
from hypothesis import strategies as st
from spelling import KINDS, THINK

from lm_eval_ext.answers import spans
from metrics.record import Span

EOS, PAD = 1, 3
BROKEN = "\N{REPLACEMENT CHARACTER}"
TEXTS = [
    "4)",
    " a",
    "\n\n",
    ")",
    ").",
    "the answer",
    "😀",
    "中文",
    "e\u0301",
    "€",
    "   ",
    " .",
    "'s",
    " n't",
    "w1",
    THINK,
]


@cache
def tokenizer(kind):
    return KINDS[kind]()


def harness(tok, ids, until, think, stops_first=False):
    """The lines of `HFLM.generate_until` between the generated ids and the answer."""
    if isinstance(think, int):
        places = [i for i, token in enumerate(ids) if token == think]
        if places:
            ids = ids[places[-1] + 1 :]
    text = tok.decode(ids, skip_special_tokens=True)
    if isinstance(think, int):
        return scored(text.lstrip(), until)
    return scored(text, until, think, stops_first)


def slow(tok, ids, answer, until, think, stops_first):
    """The same spans by trying every number of tokens, one after another."""
    end = ids.index(EOS) + 1 if EOS in ids else len(ids)
    first = 1 + max((i for i in range(end) if ids[i] == think), default=-1)
    ids = ids[first:end]
    texts = [tok.decode(ids[:n], skip_special_tokens=True) for n in range(len(ids) + 1)]
    full = texts[-1]

    def through(place):
        return next(n for n, text in enumerate(texts) if text[:place] == full[:place])

    stops_first = stops_first and isinstance(think, str)
    kept = scored(full, until) if stops_first else full
    marker = len(kept) - len(re.split(re.escape(think), kept)[-1]) if isinstance(think, str) and think else 0
    start = marker
    while think is not None and think != "" and kept[start : start + 1].isspace():
        start += 1
    since = 0 if stops_first else start
    complete = [full.index(s, since) + len(s) for s in until if s and s in full[since:]]
    found = {"generation": Span(0, first + through(min(complete)) if complete else end)}
    if first or marker:
        found["thought"] = Span(0, first + through(marker))
    assert full[start:].startswith(answer)
    size = len(answer.rstrip() or answer)
    if not size:
        return {**found, "answer": Span(0, 0)}
    begin = through(start)
    if texts[begin] != full[:start]:
        begin -= 1
    else:
        begin = next(n for n in count(begin) if texts[n + 1] != full[:start])
    return {**found, "answer": Span(first + begin, first + through(start + size))}


@st.composite
def rows(draw, kind):
    """A generated row: tokens at random and of texts, an end of sequence and padding behind it, stops, a marker."""
    tok = tokenizer(kind)
    some = st.one_of(
        st.integers(0, len(tok) - 1).map(lambda i: [i]),
        st.sampled_from(TEXTS).map(lambda t: tok.encode(t, add_special_tokens=False)),
        st.sampled_from([[2], [3], [4], [0]]),  # special tokens in the midst
    )
    ids = [i for part in draw(st.lists(some, max_size=10)) for i in part if i != EOS]
    if draw(st.booleans()):
        ids += [EOS] + [PAD] * draw(st.integers(0, 3))
    text = tok.decode(ids, skip_special_tokens=True)
    piece = st.tuples(st.integers(0, max(0, len(text) - 1)), st.integers(1, 4)).map(lambda c: text[c[0] : c[0] + c[1]])
    until = draw(st.lists(st.one_of(st.sampled_from(["\n\n", ")", "w1 w2", "<eos>", "", "😀"]), piece), max_size=3))
    markers = [i for i in ids if i not in (EOS, PAD)]
    return ids, until, draw(st.one_of(st.none(), piece, st.just(THINK), st.sampled_from([*markers, len(tok) - 1])))


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=80, deadline=None)
@given(data=st.data(), stops_first=st.booleans())
def test_spans_are_those_of_the_slow_search(kind, data, stops_first):
    tok = tokenizer(kind)
    ids, until, think = data.draw(rows(kind))

    def decode(tokens):
        return tok.decode(tokens, skip_special_tokens=True)

    answer = harness(tok, ids, until, think, stops_first)
    found = spans(ids, answer, decode, {EOS}, until, think, stops_first)
    assert found == slow(tok, ids, answer, until, think, stops_first)
    start, stop = found["answer"]
    assert stop <= found["generation"].stop <= len(ids)
    shown = decode(ids[start:stop])
    if BROKEN not in shown + answer and "clean" not in kind and kind != "wordpiece":
        assert answer.strip(" \n") in shown or answer.strip() in shown
    if answer.strip():
        assert decode(ids[start : start + 1]) or "byte" in kind or kind == "metaspace"


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_of_nothing_but_the_end(kind):
    def decode(tokens):
        return tokenizer(kind).decode(tokens, skip_special_tokens=True)

    empty = Span(0, 0)
    assert spans([EOS, PAD], "", decode, {EOS}, ["\n"]) == {"answer": empty, "generation": Span(0, 1)}
    assert spans([4, EOS, PAD], "", decode, {EOS}, ["\n"]) == {"answer": empty, "generation": Span(0, 2)}


def test_white_space_is_an_answer_if_it_is_all_there_is():
    tok = tokenizer("byte fallback")
    ids = tok.encode("   ", add_special_tokens=False)[1:]  # without the mark that is put in front
    assert tok.convert_ids_to_tokens(ids) == ["▁"] * 3

    def decode(tokens):
        return tok.decode(tokens, skip_special_tokens=True)

    assert decode(ids) == "  "
    found = spans([*ids, EOS], "  ", decode, {EOS}, [])
    assert found == {"answer": Span(1, 3), "generation": Span(0, 4)}  # the first one's is not shown


def test_halves_of_characters_at_both_ends_of_an_answer():
    """A character of three byte tokens stays whole; a broken one counts as the marks that lm-eval scores."""
    tok = tokenizer("byte fallback")

    def decode(tokens):
        return tok.decode(tokens, skip_special_tokens=True)

    euro = tok.convert_tokens_to_ids(["<0xE2>", "<0x82>", "<0xAC>"])
    mark = tok.convert_tokens_to_ids(THINK)
    stop = tok.convert_tokens_to_ids(")")
    row = [*euro, mark, *euro, stop, *euro[:2]]
    assert harness(tok, row, [")"], THINK) == "€"
    whole = {"thought": Span(0, 4), "answer": Span(4, 7), "generation": Span(0, 8)}
    assert spans(row, "€", decode, {EOS}, [")"], THINK) == whole
    assert spans(row, "€", decode, {EOS}, [")"], mark) == whole
    cut = [mark, *euro[1:], stop]
    assert harness(tok, cut, [")"], THINK) == BROKEN * 2
    assert spans(cut, BROKEN * 2, decode, {EOS}, [")"], THINK)["answer"] == Span(1, 3)
