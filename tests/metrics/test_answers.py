"""Readings of filters, put together for the records of a store, and the tokens that hold them."""

import re
import string
from collections import Counter

import numpy as np
import pytest
import spelling
import torch
from lm_eval.api.metrics import exact_match_hf_evaluate

from lm_eval_ext.filtered import read
from metrics.answers import (
    ABSENT,
    NO_TEXT,
    NO_TOKENIZER,
    NOT_GENERATED,
    NOT_READ,
    UNKNOWN,
    UNMATCHED,
    Reading,
    answers_of,
    canonical,
    locate,
    map_answers,
    read_answers,
    spans_of,
    ways,
)
from metrics.labels import Labels
from metrics.record import Key, Record, Span
from metrics.results import settings_in

STRICT = {
    "name": "strict",
    "filter": [{"function": "regex", "regex_pattern": r"#### (\d+)"}, {"function": "take_first"}],
}
LAST = {"name": "last", "filter": [{"function": "regex", "regex_pattern": r"\d+", "group_select": -1}]}
OWN = {"name": "own", "filter": [{"function": "custom", "filter_fn": "<function f>"}]}


def key(doc, sample=0, task="t"):
    return Key(task, doc, 0, sample, "generate_until")


def rules(*filters, metric=None, logged=None, task="t"):
    settings = settings_in({"configs": {task: {"filter_list": list(filters) or None, "metric_list": [metric or {}]}}})
    return Labels({}, {}, Counter(), Counter(), settings, {}, {(task, k): v for k, v in (logged or {}).items()})


def test_each_sample_is_read_by_itself():
    texts = {key(0): "a #### 4 5", key(0, 1): "b #### 4", key(0, 2): "6"}
    found = read_answers(texts, rules(STRICT, LAST), None, read)
    assert [(r.value, r.why) for r in found.values()] == [("4", ""), ("4", ""), ("[invalid]", UNMATCHED)]
    assert [r.value for r in read_answers(texts, rules(STRICT, LAST), "last", read).values()] == ["5", "4", "6"]


def test_without_a_filter_the_whole_text_is_read():
    assert read_answers({key(0): " yes\n"}, rules(), None, read) == {key(0): Reading("yes", 1, 4)}


def test_without_a_result_nothing_is_known_of_filters():
    assert read_answers({key(0): " yes\n"}, None, None, read) == {key(0): Reading("yes", why=UNKNOWN)}
    assert read_answers({key(0): " yes\n"}, rules(STRICT, task="u"), None, read)[key(0)].why == UNKNOWN


def test_a_filter_that_no_task_has():
    with pytest.raises(ValueError, match="filter 'stict' is not known; the results have last, strict"):
        read_answers({key(0): "x"}, rules(STRICT, LAST), "stict", read)
    with pytest.raises(ValueError, match="filter 'x' is not known; the results have none"):
        read_answers({key(0): "x"}, None, "x", read)


def test_python_filters_are_taken_from_the_log_for_the_first_sample():
    texts = {key(0): "so 4, yes 4", key(0, 1): "so 4", key(1): "so 5 ", key(2): "six"}
    with pytest.warns(UserWarning, match="t: filter 'own': .*Python code.*; whole answers are compared"):
        found = read_answers(texts, rules(OWN, logged={"own": {0: "4", 1: "7"}}), None, read)
    assert found == {
        key(0): Reading("so 4, yes 4", 10, 11),
        key(0, 1): Reading("so 4", why=NOT_READ),
        key(1): Reading("so 5", why=ABSENT),
        key(2): Reading("six", why=NOT_READ),
    }


def test_what_differs_from_the_log_is_counted():
    texts = {key(0): "#### 4", key(0, 1): "#### 9", key(1): "#### 5", key(2): "none"}
    with pytest.warns(UserWarning, match="filter 'strict' reads 2 of 3 answers otherwise than lm-eval logged them"):
        read_answers(texts, rules(STRICT, logged={"strict": {0: "4", 1: "6", 2: "5"}}), None, read)


def test_agreement_with_the_log_says_nothing(recwarn):
    texts = {key(0): "#### 4", key(0, 1): "#### 9", key(1): "5"}
    read_answers(texts, rules(STRICT, logged={"strict": {0: ["4", "9"], 1: "[invalid]", 7: "1"}}), None, read)
    vote = {
        "name": "strict",
        "filter": [*STRICT["filter"][:1], {"function": "majority_vote"}, {"function": "take_first"}],
    }
    read_answers(texts, rules(vote, logged={"strict": {0: "9"}}), None, read)
    assert not recwarn.list


OPTIONS = [
    {},
    {"ignore_case": True},
    {"ignore_punctuation": True},
    {"ignore_numbers": True},
    {"regexes_to_ignore": [",", r"\$", "(?s).*#### ", r"\.$"]},
    {"ignore_case": True, "ignore_punctuation": True, "regexes_to_ignore": ["the "]},
]
VALUES = ["Yes.", "yes", "YES", "1,000", "1000", "$1000.", "x #### 7", "7", "the 7", "The 7", "7!", "b2", "b3"]


@pytest.mark.parametrize("options", OPTIONS)
def test_answers_are_equal_where_the_metric_says_so(options):
    for one in VALUES:
        for other in VALUES:
            judged = exact_match_hf_evaluate([one], np.array([other]), **options)["exact_match"] == 1
            assert (canonical(one, options) == canonical(other, options)) == judged, (one, other)


def test_equal_answers_of_a_task():
    metric = {"metric": "exact_match", "ignore_case": True, "regexes_to_ignore": [","]}
    last = {"name": "w", "filter": [{"function": "regex", "regex_pattern": r"\S+$"}]}
    found = read_answers({key(0): "it is 1,0A", key(0, 1): "10a"}, rules(last, metric=metric), None, read)
    assert {r.value for r in found.values()} == {"10a"}


def test_the_last_place_counts():
    assert locate("4 or 4 ", " 4") == Reading(" 4", 5, 6)


# --- tokens -----------------------------------------------------------------------------------------------------------

TOKENIZERS = [spelling.byte_level, spelling.byte_fallback, spelling.metaspace]


def decode_of(tokenizer):
    def decode(ids, *, special=True):
        return tokenizer.decode(list(ids), skip_special_tokens=not special)

    return decode


@pytest.mark.parametrize("make", TOKENIZERS)
@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("a answer 4)", r"4"),
        ("a b 44).", r"44"),
        ("😀 é 中 4", r"中"),
        ("4) 4 4", r"4$"),
        ("4", "4"),
        ("a\n\n4).", "4"),
    ],
)
def test_spans_of_tokenizers(make, text, match):
    """Against all ranges of tokens: the smallest whose removal takes a part of what was read away."""
    tokenizer = make()
    decode = decode_of(tokenizer)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    start, stop = re.search(match, text).span()
    found = spans_of(ids, text, Reading(match, start, stop), ways(decode))
    exact, reasoning = found["exact"], found["reasoning"]
    inside = "".join(text[start:stop].split())
    before = len("".join(text[:start].split()))

    def solid(n):
        return "".join(decode(ids[:n]).split())

    assert solid(exact.stop)[before : before + len(inside)] == inside
    assert solid(exact.stop - 1)[before : before + len(inside)] != inside
    assert len(solid(exact.start).replace("\ufffd", "")) <= before
    assert len(solid(exact.start + 1)) > before
    assert reasoning.start == 0
    if before:
        assert solid(reasoning.stop)[:before] == "".join(text[:start].split())
        assert solid(reasoning.stop - 1)[:before] != "".join(text[:start].split())
    else:
        assert reasoning.stop == 0


PIECES = ["</think>", " The", " total", " is", " 4", "2", ".", "<eos>", "=4", "é4"]


def piecewise(ids, *, special=True):
    return "".join(PIECES[i] for i in ids if special or i != 7)


@pytest.mark.parametrize(
    ("ids", "text", "match", "exact", "reasoning"),
    [
        ([1, 2, 3, 4, 5, 6], "The total is 42.", "42", (3 + 0, 5), (0, 3)),  # the space belongs to neither
        ([1, 2, 8, 5, 6], "The total=42.", "42", (2, 4), (0, 3)),  # a token of both belongs to both
        ([4, 5, 6], "42.", "42", (0, 2), (0, 0)),  # nothing before it
        ([1, 7, 4], "The 4", "4", (2, 3), (0, 1)),  # a special token that the text does not show
        ([1, 7, 4], "The<eos> 4", "4", (2, 3), (0, 2)),  # and one that it shows
        ([9], "é4", "4", (0, 1), (0, 1)),
        ([1, 2], "other", "other", None, None),
    ],
)
def test_spans_by_hand(ids, text, match, exact, reasoning):
    start = text.rindex(match)
    found = spans_of(ids, text, Reading(match, start, start + len(match)), ways(piecewise))
    assert (found and (found["exact"], found["reasoning"])) == (exact and (exact, reasoning))


def record(doc, ids, answer, span):
    spans = {"generation": Span(0, len(ids)), **({"answer": Span(*span)} if span else {})}
    return Record(
        key(doc), "generate_until", 1, len(ids), spans, answer, "", "", "", signals={"tokens": torch.tensor(ids)}
    )


def test_spans_count_from_the_generation_and_reasons_are_kept():
    thinking = record(0, [2, 0, 1, 3, 4], "The is 4", (2, 5))
    lost, without = record(1, [1, 4], "A 4", (0, 2)), record(2, [1, 4], "The 4", None)
    readings = {
        key(0): Reading("4", 7, 8),
        key(1): Reading("4", 2, 3),
        key(2): Reading("4", 4, 5),
        key(3): Reading("[invalid]", why=UNMATCHED),
    }
    spans, unmapped = map_answers(readings, [without, lost, thinking], piecewise)
    assert spans == {key(0): {"exact": Span(4, 5), "reasoning": Span(2, 4)}}
    assert unmapped == {
        key(1): "the tokens do not spell the answer",
        key(2): "the record has no answer",
        key(3): UNMATCHED,
    }


def test_records_of_a_store_that_cannot_be_mapped(tmp_path):
    entries = {
        key(0): {"answer": "#### 4"},
        key(1): {"answer": None},
        key(2): {"answer": "none"},
        key(3)._replace(kind="loglikelihood"): {"answer": [-1.0, True]},
    }
    manifest = {"model": str(tmp_path), "revision": None}
    found = answers_of(entries, rules(STRICT), None, manifest=manifest, fetch=lambda names, keys: [])
    assert found.values == {key(0): "4", key(2): "[invalid]"}
    assert found.spans == {}
    assert list(found.unmapped.values()) == [NO_TEXT, NOT_GENERATED, NO_TOKENIZER, UNMATCHED]
    assert answers_of(entries, rules(STRICT), None, manifest=manifest, fetch=None).unmapped == {}


def test_punctuation_is_pythons():
    assert canonical(string.punctuation, {"ignore_punctuation": True}) == ""
