"""Labels joined by key; what does not join is counted and named, and never joined wrong."""

import json

import pytest

from metrics.labels import (
    LabelName,
    NoSamples,
    Verdict,
    find_results,
    join,
    read_results,
    read_samples,
    read_table,
    samples_of,
    settings_in,
    store_of,
)
from metrics.record import Key

NAME = LabelName("acc", "none")


def entries(*documents, task="t"):
    """Index entries of documents, given as (number, hash)."""
    return {Key(task, number, 0, 0): {"doc_hash": digest, "prompt_hash": "p"} for number, digest in documents}


def verdict(number, value=1.0, digest="", task="t"):
    return Verdict(task, number, NAME, value, digest)


def test_by_number_and_hash():
    found = join([verdict(0, 1.0, "a"), verdict(1, 0.0, "b")], entries((0, "a"), (1, "b")))
    assert found.values == {NAME: {("t", 0): 1.0, ("t", 1): 0.0}}
    assert not found.unused


def test_by_hash_where_the_numbers_differ():
    """With --samples the log says 17 where the request said 0, and 0 where it said 1."""
    found = join([verdict(17, 1.0, "a"), verdict(0, 0.0, "b")], entries((0, "a"), (1, "b")))
    assert found.values == {NAME: {("t", 0): 1.0, ("t", 1): 0.0}}
    assert not found.unused


def test_two_equal_documents_are_not_guessed_at():
    found = join([verdict(17, 1.0, "a")], entries((0, "a"), (1, "a")))
    assert found.values == {}
    assert sum(found.unused.values()) == 1


def test_another_document_under_the_number_is_not_joined():
    found = join([verdict(0, 1.0, "other")], entries((0, "a")))
    assert found.values == {}
    assert list(found.unused) == ["t: another document was recorded under that number"]


def test_what_never_reached_the_model_is_counted():
    found = join([verdict(i, 1.0, str(i)) for i in range(5)], entries((0, "0")))
    ((why, count),) = found.unused.items()
    assert why.startswith("t: never reached the model (a harness cache hit)")
    assert count == 4


def test_another_task_is_named():
    found = join([verdict(0, task="u"), verdict(0, task="")], {**entries((0, "a")), **entries((0, "a"), task="s")})
    assert set(found.unused) == {
        "task 'u' is not in the store",
        "no task column, and the store holds several tasks",
    }


def test_samples_of_several_filters_and_metrics(tmp_path):
    rows = [
        {"doc_id": 3, "filter": "strict", "metrics": ["acc", "bleu"], "acc": 1.0, "bleu": [1, 2], "doc_hash": "h"},
        {"doc_id": 3, "filter": "flexible", "metrics": ["acc"], "acc": False, "doc": {"q": "x", "n": 3, "l": [1]}},
    ]
    path = tmp_path / "samples_my_task_2_2026-01-02T03-04-05.678901.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    a, skipped, b = read_samples([path])
    assert (a.task, a.doc_id, str(a.name), a.value, a.doc_hash) == ("my_task_2", 3, "acc@strict", 1.0, "h")
    assert str(skipped) == "bleu@strict"
    assert (str(b.name), b.value, dict(b.fields)) == ("acc@flexible", 0.0, {"q": "x", "n": 3})


def test_line_ends_inside_a_logged_text(tmp_path):
    path = tmp_path / "samples_t_1.jsonl"
    row = {"doc_id": 0, "metrics": ["acc"], "acc": 1, "resps": "a\u2028b\x85c"}
    path.write_text(json.dumps(row, ensure_ascii=False) + "\n", encoding="utf-8")
    assert [v.value for v in read_samples([path])] == [1.0]


@pytest.mark.parametrize("line", ["not json", '{"metrics": []}', '{"doc_id": "x"}', "[1]"])
def test_a_foreign_line_is_named(line, tmp_path):
    path = tmp_path / "samples_t_1.jsonl"
    path.write_text('{"doc_id": 0}\n' + line + "\n")
    with pytest.raises(ValueError, match=r"samples_t_1\.jsonl, line 2: not a logged sample"):
        list(read_samples([path]))


def test_a_last_line_that_is_broken_off_is_left_out(tmp_path):
    rows = [json.dumps({"doc_id": i, "metrics": ["acc"], "acc": i}) for i in range(3)]
    path, whole = tmp_path / "samples_t_1.jsonl", tmp_path / "samples_u_1.jsonl"
    path.write_text("\n".join(rows)[:-5])
    whole.write_text("\n".join(rows))
    with pytest.warns(UserWarning, match=r"samples_t_1\.jsonl: the last line is broken off and left out"):
        found = list(read_samples([path, whole]))
    assert [(v.task, v.value) for v in found] == [("t", 0.0), ("t", 1.0), ("u", 0.0), ("u", 1.0), ("u", 2.0)]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("l.csv", "doc_id,correct\n0,true\n1,0\n2,0.5\n"),
        ("l.csv", "doc_id,label\n0,1\n1,False\n2,.5\n"),
        ("l.jsonl", '{"doc_id": 0, "correct": true}\n{"doc_id": 1, "correct": 0}\n\n{"doc_id": "2", "correct": 0.5}\n'),
    ],
)
def test_tables(name, text, tmp_path):
    (tmp_path / name).write_text(text)
    assert [(v.doc_id, v.value) for v in read_table(tmp_path / name)] == [(0, 1.0), (1, 0.0), (2, 0.5)]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("id,correct\n0,1\n", "row 1: columns doc_id and correct are needed; found id, correct"),
        ("doc_id,correct\n0,1\n1,maybe\n", "row 2: doc_id='1', correct='maybe': not numbers"),
        ("doc_id,correct\n0,nan\n", "row 1: correct is nan; leave the row out"),
    ],
)
def test_a_bad_table_is_named(text, said, tmp_path):
    (tmp_path / "l.csv").write_text(text)
    with pytest.raises(ValueError, match=said):
        list(read_table(tmp_path / "l.csv"))


def test_the_newest_result_or_the_one_of_the_run(tmp_path):
    for stamp, run in (("2026-01-01T00-00-00", "a"), ("2026-01-02T00-00-00", "b")):
        content = {"config": {"hf_store": {"store": "s", "run_id": run}}}
        (tmp_path / f"results_{stamp}.json").write_text(json.dumps(content))
    (tmp_path / "results_2025-01-01T00-00-00.json").write_text("{trunc")
    assert find_results(tmp_path).stem == "results_2026-01-02T00-00-00"
    assert find_results(tmp_path, "a").stem == "results_2026-01-01T00-00-00"
    assert store_of(find_results(tmp_path, "a")) == {"store": "s", "run_id": "a"}
    with pytest.raises(FileNotFoundError, match="--output_path"):
        find_results(tmp_path, "c")


@pytest.mark.parametrize("readable", [True, False])
def test_the_last_run_is_the_stores_last_not_the_clocks(readable, tmp_path):
    """The clock went back a day between two runs of one store; another store's result is of that day too."""
    store = tmp_path / "store"
    (store / "shards").mkdir(parents=True)
    runs = [{"run_id": name, "started": "x"} for name in ("first", "second")]
    manifest = {"schema": 1, "model": "m", "signals": {}, "runs": runs}
    (store / "manifest.json").write_text(json.dumps(manifest) if readable else "{trunc")
    for stamp, run, of in (
        ("2026-01-03T00-00-00", "first", store),
        ("2026-01-02T00-00-00", "second", store),
        ("2026-01-02T12-00-00", "other", tmp_path / "elsewhere"),
    ):
        content = {"config": {"hf_store": {"store": str(of), "run_id": run}}}
        (tmp_path / f"results_{stamp}.json").write_text(json.dumps(content))
    assert find_results(tmp_path).stem == f"results_2026-01-0{2 if readable else 3}T00-00-00"


def test_a_result_without_samples_says_what_to_do(tmp_path):
    (tmp_path / "results_1.json").write_text("{}")
    (tmp_path / "samples_t_2.jsonl").write_text("")
    with pytest.raises(ValueError, match="--log_samples, or pass --labels FILE"):
        samples_of(tmp_path / "results_1.json")


def test_another_prompt_is_not_joined():
    found = join([Verdict("t", 0, NAME, 1.0, "d", "another")], entries((0, "d")))
    assert not found.values
    assert list(found.unused) == ["t: recorded with another prompt (few-shot, system prompt or chat template)"]


def test_a_document_of_which_the_log_shows_more_requests_is_not_joined():
    found = join([Verdict("t", 0, NAME, 1.0, "d", "p", 2)], entries((0, "d")))
    assert not found.values
    assert list(found.unused) == ["t: not every option was recorded"]


def test_directions_and_delimiters_come_from_the_results():
    found = settings_in(
        {
            "higher_is_better": {"a": {"error": False, "acc": True}, "b": {"perplexity": False}},
            "configs": {"a": {"target_delimiter": ""}, "b": {}},
        }
    )
    assert found.lower_is_better == {("a", "error")}  # a document's "perplexity" is logged as a log-likelihood
    assert found.delimiters == {"a": "", "b": " "}


def test_what_simple_evaluate_returns_is_read():
    samples = {"t": [{"doc_id": 0, "metrics": ["acc"], "acc": 1.0, "filter": "none", "doc_hash": "d"}]}
    found = join(read_results({"samples": samples}), entries((0, "d")))
    assert found.values == {NAME: {("t", 0): 1.0}}
    with pytest.raises(NoSamples, match="log_samples=True"):
        list(read_results({"results": {}}))
