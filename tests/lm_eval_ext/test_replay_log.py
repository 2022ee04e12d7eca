"""A log of lm-eval is read as it was asked and answered, a line at a time, and what is wrong in it is named."""

import json

import pytest
from logs import sample, write_log

from lm_eval_ext.replay_log import CHOICE, GENERATION, ROLLING, find_log, messages, read, scan, windows
from lm_eval_ext.requests import identify
from metrics.record import Key
from metrics.results import NoSamples

SETTINGS = {"until": ["\n"], "max_gen_toks": 4}


def generated(doc_id, *texts, prompt="p"):
    return sample(doc_id, [((prompt, SETTINGS), texts)])


def documents(path, limit=None):
    return list(read("toy", path, limit))


def test_generation_with_repeats(tmp_path):
    path = write_log(tmp_path, [generated(3, "a", "", "b\n"), generated(5, "c")])
    first, second = documents(path)
    assert [a.kind for a in first] == [GENERATION]
    assert first[0].responses == ["a", "", "b\n"]
    assert first[0].request.args == ("p", SETTINGS)
    assert (first[0].request.task_name, first[0].request.doc_id, first[0].request.repeats) == ("toy", 3, 3)
    assert second[0].responses == ["c"]


def test_options_and_log_likelihoods(tmp_path):
    choices = [(("p", " a"), [(-1.25, False)]), (("p", " b"), [(-0.5, True)])]
    path = write_log(tmp_path, [sample(0, choices), sample(1, [(("whole text",), [-7.5, -7.5])])])
    choice, rolling = documents(path)
    assert [(a.kind, a.request.idx, a.request.args, a.responses) for a in choice] == [
        (CHOICE, 0, ("p", " a"), [(-1.25, False)]),
        (CHOICE, 1, ("p", " b"), [(-0.5, True)]),
    ]
    assert [(a.kind, a.request.args, a.responses) for a in rolling] == [(ROLLING, ("whole text",), [-7.5, -7.5])]


def test_kinds_of_one_document_are_numbered_each_from_zero(tmp_path):
    mixed = [(("p", SETTINGS), ["a"]), (("p", " x"), [(-1.0, True)]), (("p", " y"), [(-2.0, False)])]
    (found,) = documents(write_log(tmp_path, [sample(0, mixed)]))
    assert [(a.kind, a.request.idx) for a in found] == [(GENERATION, 0), (CHOICE, 0), (CHOICE, 1)]


def test_more_than_ten_requests_stay_in_order(tmp_path):
    options = [(("p", f" {i}"), [(-float(i), False)]) for i in range(12)]
    (found,) = documents(write_log(tmp_path, [sample(0, options)]))
    assert [a.request.args[1] for a in found] == [f" {i}" for i in range(12)]


def test_arguments_as_lists_as_in_memory(tmp_path):
    line = {**generated(0, "a"), "arguments": [["p", SETTINGS]], "resps": [["a"]]}
    assert documents(write_log(tmp_path, [line]))[0][0].request.args == ("p", SETTINGS)


def test_a_document_under_two_filters_comes_once(tmp_path):
    lines = [{**generated(i, "a"), "filter": f} for f in ("strict", "flexible") for i in range(3)]
    assert [d[0].request.doc_id for d in documents(write_log(tmp_path, lines))] == [0, 1, 2]


def test_identities_are_those_of_the_log(tmp_path):
    (asked,) = documents(write_log(tmp_path, [generated(4, "a", "b")]))[0]
    line = generated(4, "a", "b")
    made = identify([asked.request] * 2, GENERATION)
    assert [i.key for i in made] == [Key("toy", 4, 0, 0, GENERATION), Key("toy", 4, 0, 1, GENERATION)]
    assert {i.doc_hash for i in made} == {line["doc_hash"]}
    assert {i.prompt_hash for i in made} == {line["prompt_hash"]}
    (bare,) = documents(write_log(tmp_path, [{**line, "doc": None, "doc_hash": "as logged"}]))[0]
    assert identify([bare.request], GENERATION)[0].doc_hash == "as logged"


def test_a_chat_endpoints_messages(tmp_path):
    chat = [{"role": "user", "content": "hi"}]
    line = sample(0, [(([json.dumps(chat)], SETTINGS), ["a"])])
    (asked,) = documents(write_log(tmp_path, [line]))[0]
    assert asked.request.args[0] == json.dumps(chat)
    assert messages(asked.request.args[0]) == chat
    assert [messages(text) for text in ("plain", '[{"a": 1}]', '[{"broken', '["x"]')] == [None] * 4


def test_windows_hold_whole_documents(tmp_path):
    path = write_log(tmp_path, [generated(i, *"abc") for i in range(5)])
    found = list(windows(read("toy", path), 4))
    assert [[a.request.doc_id for a in w] for w in found] == [[0, 1], [2, 3], [4]]


def test_limit_reads_no_further(tmp_path):
    path = write_log(tmp_path, [generated(0, "a"), generated(1, "b")])
    path.write_text(path.read_text() + "not json\n")
    assert [d[0].request.doc_id for d in documents(path, 2)] == [0, 1]
    assert scan("toy", path, 2).requests == 2


def test_a_scan_counts_and_digests(tmp_path):
    path = write_log(tmp_path, [generated(0, "a", "b"), generated(1, "c")])
    found = scan("toy", path)
    assert (found.documents, found.requests, found.cut) == (2, 3, False)
    path.write_text(path.read_text().replace('"c"', '"d"'))
    assert scan("toy", path).sha256 != found.sha256


@pytest.mark.parametrize("lost", [1, 30, 200])
def test_a_last_line_that_is_broken_off_is_left_out(lost, tmp_path):
    path = write_log(tmp_path, [generated(i, "中") for i in range(3)])
    path.write_bytes(path.read_bytes()[:-lost])
    found = scan("toy", path)
    assert (found.documents, found.cut) == ((3, False) if lost == 1 else (2, True))


WRONG = {
    "not json": ("{]", "not a logged sample of lm-eval"),
    "no object": ("[1]", "no doc_id"),
    "no document": ('{"doc_id": "x"}', "no doc_id"),
    "no arguments": (
        json.dumps({**generated(1, "a"), "arguments": None}),
        "no 'arguments', so its requests are not known",
    ),
    "empty arguments": (json.dumps({**generated(1, "a"), "arguments": {}}), "no 'arguments'"),
    "no responses": (json.dumps({**generated(1, "a"), "resps": []}), "no 'resps', so its responses are not known"),
    "too few": (json.dumps({**generated(1, "a"), "resps": [["a"], ["b"]]}), "1 requests and 2 lists of responses"),
    "a number": (json.dumps({**generated(1, "a"), "resps": [[1]]}), "a response to generate_until cannot be read"),
    "half": (json.dumps(sample(1, [(("p", " a"), ["-1.0"])])), "a response to loglikelihood cannot be read"),
    "a word": (json.dumps(sample(1, [(("p",), ["many"])])), "a response to loglikelihood_rolling cannot be read"),
    "images": (json.dumps(sample(1, [(("p", SETTINGS, {"visual": []}), ["a"])])), "images, say"),
    "ids": (json.dumps(sample(1, [(([1, 2], SETTINGS), ["a"])], prompt_hash="")), "the prompt is no text"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_named_with_its_line(case, tmp_path):
    line, says = WRONG[case]
    path = write_log(tmp_path, [generated(0, "a")])
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(ValueError, match=r"samples_toy_.*\.jsonl, line 2: ") as caught:
        scan("toy", path)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_empty_file(tmp_path):
    path = write_log(tmp_path, [])
    with pytest.raises(ValueError, match="holds no sample"):
        scan("toy", path)


def test_folder_result_or_sample_file(tmp_path):
    path = write_log(tmp_path / "out" / "model", [generated(0, "a")], task="a_b_1")
    results = next(path.parent.glob("results_*"))
    for given in (tmp_path / "out", results, path):
        log = find_log(given)
        assert (dict(log.files), log.results, log.config["model"]) == ({"a_b_1": path}, results, "vllm")
    results.unlink()
    assert find_log(path).results is None


def test_what_is_not_a_log_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist; give lm-eval's output folder"):
        find_log(tmp_path / "nothing")
    path = write_log(tmp_path / "out", [generated(0, "a")])
    path.unlink()
    with pytest.raises(NoSamples, match="there is nothing to replay; run lm_eval with --log_samples"):
        find_log(tmp_path / "out")
