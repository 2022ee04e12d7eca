"""Logged documents: texts, filters, verdicts, questions and gold answers, and what is no such log."""

import json
import re

import pytest
from judging import logged, write_log

from metrics.logged import PROMPT, golds_of, question_of, read_logged, results_at
from metrics.results import NoSamples, samples_of
from metrics.verdicts import read_samples


def read(tmp_path, lines):
    return read_logged([write_log(tmp_path, lines)])


def test_a_document_and_its_filters(tmp_path):
    (one,) = read(tmp_path, logged(3, "It is 4.", filters={"strict": "[invalid]", "flexible": "4"}))
    assert (one.task, one.doc_id, one.response, one.doc_hash) == ("sums", 3, "It is 4.", "h3")
    assert one.filtered == {"strict": "[invalid]", "flexible": "4"}
    assert one.verdicts == {("exact_match", "strict"): 0.0, ("exact_match", "flexible"): 1.0}
    assert question_of(one) == ("What is 2 + 2?", "question")
    assert golds_of(one) == ("4",)


def test_samples_are_the_first(tmp_path):
    (one,) = read(tmp_path, logged(0, "", resps=[["one", "two"]], filtered_resps=[["three", "four"]]))
    assert (one.response, one.filtered) == ("one", {"none": "three"})


def test_multiple_choice_has_no_text(tmp_path):
    choices = [[["-1.5", "False"]], [["-2.5", "True"]]]
    (one,) = read(tmp_path, logged(0, "", resps=choices, filtered_resps=[["-1.5", "False"], ["-2.5", "True"]]))
    assert (one.response, one.filtered) == (None, {"none": None})


def test_a_graded_verdict_and_one_that_is_no_number(tmp_path):
    (one,) = read(tmp_path, logged(0, "4", metrics=["f1", "bleu"], f1=0.5, bleu=[["a"], ["b"]]))
    assert one.verdicts == {("f1", "none"): 0.5}


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ({"goal": "g", "text": "t"}, ("g", "goal")),
        ({"question": "  ", "input": "i"}, ("i", "input")),
        ({"question": {"stem": "s"}}, ("Q: What is 2 + 2?\nA:", PROMPT)),
    ],
)
def test_where_the_question_is(tmp_path, document, expected):
    (one,) = read(tmp_path, logged(0, "4", doc=document))
    assert question_of(one) == expected


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("['a', \"b's\", 'a', ' ']", ("a", "b's")),
        ("['a' and 'b", ("['a' and 'b",)),
        ("[4]", ("[4]",)),
        ("  ", ()),
        (" x ", ("x",)),
    ],
)
def test_gold_answers_of_the_target(tmp_path, target, expected):
    (one,) = read(tmp_path, logged(0, "4", target))
    assert golds_of(one) == expected


def test_fields_asked_for(tmp_path):
    document = {"q": {"stem": "s"}, "answer": {"aliases": ["x", "y"], "number": 3}}
    (one,) = read(tmp_path, logged(0, "4", doc=document))
    assert question_of(one, "q.stem") == ("s", "q.stem")
    assert golds_of(one, "answer.aliases") == ("x", "y")
    assert golds_of(one, "answer.number") == ("3",)
    with pytest.raises(ValueError, match=r"sums: document 0 has no field 'answer\.none'; it has q, answer"):
        golds_of(one, "answer.none")


def test_a_later_result_wins(tmp_path):
    first = write_log(tmp_path / "a", [*logged(0, "old"), *logged(1, "kept")])
    second = write_log(tmp_path / "b", logged(0, "new"))
    assert [one.response for one in read_logged([first, second])] == ["new", "kept"]


def test_a_truncated_file(tmp_path):
    results = write_log(tmp_path, [*logged(0, "a"), *logged(1, "b")])
    (samples,) = tmp_path.glob("samples_*")
    samples.write_text(samples.read_text()[:-20])
    with pytest.warns(UserWarning, match=r"samples_sums_.*jsonl: the last line is broken off and left out"):
        (one,) = read_logged([results])
    assert one.response == "a"
    samples.write_text(samples.read_text() + "\n")
    with pytest.raises(ValueError, match=r"samples_sums_.*jsonl, line 2: not a logged sample"):
        read_logged([results])


@pytest.mark.parametrize("line", ["[]", '{"doc": {}}', '{"doc_id": "x"}'])
def test_lines_that_are_no_samples(tmp_path, line):
    results = write_log(tmp_path, [])
    next(tmp_path.glob("samples_*")).write_text(line + "\n")
    with pytest.raises(ValueError, match="line 1: not a logged sample"):
        read_logged([results])


def test_paths(tmp_path):
    results = write_log(tmp_path / "out" / "model", logged(0, "a"))
    assert results_at(tmp_path / "out") == results_at(results) == [results]
    with pytest.raises(FileNotFoundError, match="nowhere does not exist; give lm-eval's --output_path or a store"):
        results_at(tmp_path / "nowhere")
    (tmp_path / "labels.csv").write_text("")
    with pytest.raises(ValueError, match=r"labels\.csv is neither a store nor"):
        results_at(tmp_path / "labels.csv")


def test_no_samples_beside_it(tmp_path):
    results = tmp_path / "results_x.json"
    results.write_text(json.dumps({}))
    with pytest.raises(NoSamples, match="--log_samples"):
        read_logged([results])


def test_whole_lines_that_are_lost(tmp_path):
    lines = [line for i in range(3) for line in logged(i, "4", filters={"a": "4", "b": "4"})]
    results = write_log(tmp_path, lines, content={"n-samples": {"sums": {"original": 9, "effective": 5}}})
    (samples,) = samples_of(results)
    told = f"{samples.name}: holds 3 of the 5 documents that {results.name} counts"
    with pytest.warns(UserWarning, match=re.escape(told)):
        assert len(read_logged([results])) == 3
    with pytest.warns(UserWarning, match=re.escape(told)):
        assert len({one.doc_id for one in read_samples([samples])}) == 3
    for whole in ({"n-samples": {"sums": {"effective": 3}}}, {"n-samples": {}}, {}):
        write_log(tmp_path, lines, content=whole)
        assert len(read_logged([results])) == 3
