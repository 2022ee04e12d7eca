"""What a judge is asked and what its replies mean."""

import json

import pytest
from judging import logged, write_log

from lm_eval_ext.filtered import read
from metrics.judge import (
    Item,
    Wanted,
    check_template,
    key_of,
    label_rows,
    make_work,
    normalised,
    prompt_of,
    unmatched,
    verdict,
)
from metrics.logged import read_logged


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("yes", True),
        ("Yes.", True),
        ("**No**", False),
        ("  'no', because it is 5", False),
        ("_Yes_, yes it does", True),
        ("NO", False),
        ("No, no.", False),
        ("yes and no", None),
        ("Yes/No", None),
        ("No. Yes, on reflection", None),
        ("not the same", None),
        ("nope", None),
        ("yesterday", None),
        ("I cannot say", None),
        ("The answer is yes", None),
        ("", None),
        ("да", None),
    ],
)
def test_verdicts(reply, expected):
    assert verdict(reply) is expected


def test_a_prompt_holds_what_is_judged():
    text = prompt_of(Item("Who {answer} wrote it?", ("Ann",), "She did {gold}"))
    assert "Question: Who {answer} wrote it?\nExpected answer: Ann\nProposed answer: She did {gold}\n" in text
    assert "does the proposed answer mean the same as the expected answer?" in text
    assert text.endswith("Reply with yes or no only.\n")


def test_several_gold_answers():
    text = prompt_of(Item("q", ("Ann", "Anna"), "x"))
    assert "Expected answers:\n- Ann\n- Anna\nProposed answer: x" in text
    assert "any of the expected answers?" in text


def test_an_own_template():
    assert prompt_of(Item("q", ("g",), "a"), "{answer}|{gold}|{question}|{other}{{answer}}") == "a|g|q|{other}{a}"
    assert check_template("{gold} {answer}", "--prompt p") == "{gold} {answer}"
    with pytest.raises(ValueError, match=r"--prompt p lacks \{gold\} and \{answer\}; .* \{question\}, \{gold\} and"):
        check_template("{question}", "--prompt p")


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        ("The Nile.", " the  nile ", True),
        ('"4"', "4", True),
        ("-5", "5", False),
        ("3.14", "314", False),
        ("A", "a", True),
        (".", ".", True),
        (".", "", False),
    ],
)
def test_normalised(a, b, same):
    assert (normalised(a) == normalised(b)) is same


def documents(tmp_path, *lines):
    return read_logged([write_log(tmp_path, [line for of in lines for line in of])])


def test_what_needs_no_judge(tmp_path):
    found = documents(
        tmp_path,
        logged(0, "four"),
        logged(1, " four "),
        logged(2, "  "),
        logged(3, "4."),
        logged(4, "x", target=""),
        logged(5, "", resps=[[["-1", "True"]], [["-2", "False"]]]),
        logged(6, "four", question="Another?"),
    )
    work = make_work(found, Wanted(skip_exact=True))
    assert {item: [d.doc_id for d in of] for item, of in work.asked.items()} == {
        Item("What is 2 + 2?", ("4",), "four"): [0, 1],
        Item("Another?", ("4",), "four"): [6],
    }
    assert [(d.doc_id, right, by) for d, right, by in work.known] == [(2, False, "empty"), (3, True, "exact")]
    assert work.left_out == {
        "sums: no gold answer": 1,
        "sums: the answer is not a text (multiple choice, or a log-likelihood)": 1,
    }
    assert work.sources == {"sums": {"question": 3}}
    assert [d.doc_id for d, *_ in make_work(found, Wanted()).known] == [2]  # 3 is asked about


def test_filters(tmp_path):
    lines = logged(0, "It is 4.", filters={"strict": "[invalid]", "flexible": "4"})
    found = documents(tmp_path, lines)
    (item,) = make_work(found, Wanted(filter="flexible")).asked
    assert item.answer == "4"
    with pytest.raises(ValueError, match="no task has the filter 'loose'; the samples have flexible, strict"):
        make_work(found, Wanted(filter="loose"))


def test_a_fallback_is_wrong_without_asking(tmp_path):
    filters = {"strict": "[invalid]", "last": "4"}
    lines = [*logged(0, "It is 4.", filters=filters), *logged(1, "#### 4", filters={"strict": "4", "last": "4"})]
    lines += logged(2, "#### [invalid]", "[invalid]", filters={"strict": "[invalid]", "last": "4"})  # it says so itself
    found = documents(tmp_path, lines)
    steps = ({"function": "regex", "regex_pattern": "#### (.+)"}, {"function": "take_first"})
    lost, said = unmatched(found, "strict", {"sums": {"strict": steps}}, read)
    assert (lost, said) == ({("sums", 0)}, [])
    work = make_work(found, Wanted(filter="strict", skip_exact=True), lost)
    assert [(one.doc_id, right, by) for one, right, by in work.known] == [
        (0, False, "unmatched"),
        (1, True, "exact"),
        (2, True, "exact"),
    ]
    own, (line,) = unmatched(found, "strict", {"sums": {"strict": ({"function": "custom"},)}}, read)
    assert own == set() and line.startswith("sums: filter 'strict': its function 'custom' is the task's own Python")
    assert unmatched(found, "strict", {}, read) == (set(), [])


def test_a_filter_of_one_task_only(tmp_path):
    one = read_logged([write_log(tmp_path / "a", logged(0, "4", filters={"strict": "4"}), "a")])
    two = read_logged([write_log(tmp_path / "b", logged(0, "4"), "b")])
    work = make_work([*one, *two], Wanted(filter="strict"))
    assert (len(work.asked), work.left_out) == (1, {"b has no filter strict": 1})


def test_labels_and_unclear_replies(tmp_path):
    found = documents(tmp_path, logged(0, "a"), logged(1, "b"), logged(2, "a"), logged(3, ""), logged(4, "c"))
    work = make_work(found, Wanted())
    a, b, _ = work.asked
    rows, unclear = label_rows(work, {a: "Yes", b: "Perhaps"}, "m")
    assert [(r["doc_id"], r["correct"], r["by"]) for r in rows] == [(0, 1, "judge"), (2, 1, "judge"), (3, 0, "empty")]
    assert rows[0] == {"task": "sums", "doc_id": 0, "doc_hash": "h0", "correct": 1, "by": "judge", "judge": "m"}
    assert unclear == {"Perhaps": 1}  # document 4 has no reply, which is not an unclear one


def test_keys_tell_models_prompts_and_settings_apart():
    keys = [
        key_of(*given) for given in (("m", "p", {"a": 1, "b": 2}), ("n", "p", {"a": 1, "b": 2}), ("m", "p", {"a": 1}))
    ]
    assert len(set(keys)) == 3
    assert key_of("m", "p", {"b": 2, "a": 1}) == keys[0]
    assert key_of("m", "\ud800", {}) != key_of("m", "", {})
    assert json.dumps(keys[0]).strip('"').isalnum()
