"""What lm-eval's filters make of single texts, and where: places by hand, values against lm-eval's own."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lm_eval.api.instance import Instance
from lm_eval.filters import build_filter_ensemble

from lm_eval_ext.filtered import read
from metrics import providers
from metrics.answers import ABSENT, EMPTY, UNMATCHED

STRICT = {"function": "regex", "regex_pattern": r"#### (\-?[0-9\.\,]+)"}
FLEXIBLE = {"function": "regex", "group_select": -1, "regex_pattern": r"(-?[$0-9.,]{2,})|(-?[0-9]+)"}
TAKE = {"function": "take_first"}
LOWER, UPPER, BARE = {"function": "lowercase"}, {"function": "uppercase"}, {"function": "remove_whitespace"}


def one(text, *steps, doc=None):
    (reading,) = read(steps, [text], [doc or {}])
    return reading


@pytest.mark.parametrize(
    ("text", "steps", "value", "taken"),
    [
        ("So #### 12, then #### 7", [STRICT, TAKE], "12,", (8, 11)),
        ("So #### 12, then #### 7", [{**STRICT, "group_select": -1}, TAKE], "7", (22, 23)),
        ("So #### 12, then #### 7", [{**STRICT, "group_select": 1}], "7", (22, 23)),
        ("3 apples and 4.5 pears", [FLEXIBLE, TAKE], "4.5", (13, 16)),  # the first group
        ("3 apples and 4 pears", [FLEXIBLE, TAKE], "4", (13, 14)),  # the second: the first is empty
        ("3 apples and 4 pears", [{**FLEXIBLE, "group_select": 0}], "3", (0, 1)),
        ("is ( 12 ) so", [{"function": "regex", "regex_pattern": r"\(.*?\)"}], "( 12 )", (3, 9)),  # no group
        ("is ( 12 ) so", [{"function": "regex", "regex_pattern": r"\((.*?)\)"}], "12", (5, 7)),  # spaces stripped
        (" \n yes ", [BARE, TAKE], "yes", (3, 6)),
        (" \n yes ", [TAKE], " \n yes ", (3, 6)),  # the place of a text is that of what is no white space
        ("The Answer: B", [LOWER, {"function": "regex", "regex_pattern": "answer: (.)"}], "b", (12, 13)),
        ("İİ the Answer", [LOWER, {"function": "regex", "regex_pattern": "answer"}], "answer", (7, 13)),  # i and a dot
        ("groß 7", [UPPER, {"function": "regex", "regex_pattern": "SS (.)"}], "7", (5, 6)),  # two letters of one
        ("groß", [UPPER], "GROSS", (0, 4)),
        (
            "it is (B).",
            [{"function": "regex", "regex_pattern": r"\((.)\)"}, {"function": "map", "mapping_dict": {"B": "1"}}],
            "1",
            (7, 8),
        ),
        (
            "x=[ 3 ; 44 ]",
            [
                {"function": "regex", "regex_pattern": r"\[(.*)\]"},
                {"function": "regex", "regex_pattern": r"\d+", "group_select": -1},
            ],
            "44",
            (8, 10),
        ),
        ("no no", [{"function": "take_first_k", "k": 3}, {"function": "majority_vote"}, TAKE], "no no", (0, 5)),
    ],
)
def test_values_and_places(text, steps, value, taken):
    reading = one(text, *steps)
    assert (reading.value, (reading.start, reading.stop), reading.why) == (value, taken, "")


@pytest.mark.parametrize(
    ("text", "steps", "value", "why"),
    [
        ("nothing", [STRICT, TAKE], "[invalid]", UNMATCHED),
        ("", [STRICT, TAKE], "[invalid]", UNMATCHED),
        ("nothing", [{**STRICT, "fallback": "?"}, UPPER], "?", UNMATCHED),
        ("nothing", [STRICT, {"function": "map", "mapping_dict": {"4": "four"}}], "None", UNMATCHED),
        ("", [TAKE], "", EMPTY),
        (" \n", [BARE], "", EMPTY),
        ("ab", [{"function": "regex", "regex_pattern": "a(x?)b"}], "", EMPTY),
        ("ab", [{"function": "regex", "regex_pattern": "a(x?)(y?)b"}], "[invalid]", UNMATCHED),  # every group is empty
        ("per: ann", [{"function": "format_span"}], "per: ann", ""),  # it finds its own text again
        ("PER: Ann", [{"function": "format_span"}], "per: ann", ABSENT),
        ("[('a', 'NOUN')]", [{"function": "regex_pos"}], "['NOUN']", ABSENT),
    ],
)
def test_what_has_no_place(text, steps, value, why):
    reading = one(text, *steps)
    assert (reading.value, reading.why) == (value, why)


def test_options_of_a_document():
    choices = {"function": "multi_choice_regex", "group_select": -1, "regex_pattern": r"(\([A-Z]\))"}
    doc = {"choices": ["a cat", "a dog"]}
    assert one("not (A) but (B)!", choices, doc=doc)[:3] == ("(B)", 12, 15)
    assert one("it is a dog", choices, doc=doc)[0::3] == ("(B)", ABSENT)
    assert one("no idea", choices, doc=doc)[0::3] == ("[invalid]", UNMATCHED)


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ({"function": "custom", "filter_fn": "<function f at 0x7f>"}, "'custom' is the task's own Python code"),
        ({"function": "<class 'utils.Numbers'>"}, "'<class 'utils.Numbers'>' is the task's own Python code"),
        ({"function": "regex", "regex_pattern": "("}, "'regex' cannot be built .*unterminated subpattern"),
        ({"function": "regex", "pattern": "x"}, "'regex' cannot be built .*unexpected keyword"),
        ({"function": "regex", "regex_pattern": "t", "group_select": 5}, "'regex' fails: IndexError"),
        ({"function": "multi_choice_regex"}, "'multi_choice_regex' fails: KeyError: 'choices'"),
    ],
)
def test_filters_that_cannot_be_applied(step, message):
    with pytest.raises(ValueError, match=message):
        one("text", step)


def test_functions_at_hand_are_applied():
    """As in what simple_evaluate returns, where they are no text."""
    step = {"function": "custom", "filter_fn": lambda resps, docs: [[r.split()[-1] for r in rs] for rs in resps]}
    assert one("so 4 or 4", step)[:3] == ("4", 8, 9)


STEPS = st.sampled_from(
    [
        STRICT,
        FLEXIBLE,
        {**FLEXIBLE, "group_select": 0},
        LOWER,
        UPPER,
        BARE,
        {"function": "regex", "regex_pattern": r"(a)?(b)?\s(.)"},
        {"function": "regex", "regex_pattern": r"\S+\s", "group_select": -1},
    ]
)


@given(st.lists(st.text("aB ß\n7.#İ", max_size=12), min_size=1, max_size=4), st.lists(STEPS, max_size=3))
def test_the_values_are_lm_evals(texts, steps):
    instances = [Instance("generate_until", {}, (), 0, resps=[text]) for text in texts]
    build_filter_ensemble(
        "it", [(s["function"], {k: v for k, v in s.items() if k != "function"}) for s in steps]
    ).apply(instances)
    found = read(steps, texts, [{}] * len(texts))
    assert [[r.value] for r in found] == [i.filtered_resps["it"] for i in instances]
    for text, reading in zip(texts, found):
        if not reading.why:
            taken = text[reading.start : reading.stop]
            assert taken.strip() == taken
            assert taken.casefold() == reading.value.strip().casefold()


def test_it_is_found_by_name():
    assert providers.load("answers") is read
