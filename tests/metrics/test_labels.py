"""Labels joined by key; what does not join is counted and named, and never joined wrong."""

import pytest

from metrics.labels import join
from metrics.record import Key
from metrics.results import NoSamples
from metrics.verdicts import LabelName, Verdict, read_results

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


def test_another_prompt_is_not_joined():
    found = join([Verdict("t", 0, NAME, 1.0, "d", "another")], entries((0, "d")))
    assert not found.values
    assert list(found.unused) == ["t: recorded with another prompt (few-shot, system prompt or chat template)"]


def test_a_document_of_which_the_log_shows_more_requests_is_not_joined():
    found = join([Verdict("t", 0, NAME, 1.0, "d", "p", 2)], entries((0, "d")))
    assert not found.values
    assert list(found.unused) == ["t: not every option was recorded"]


def test_what_simple_evaluate_returns_is_read():
    samples = {"t": [{"doc_id": 0, "metrics": ["acc"], "acc": 1.0, "filter": "none", "doc_hash": "d"}]}
    found = join(read_results({"samples": samples}), entries((0, "d")))
    assert found.values == {NAME: {("t", 0): 1.0}}
    with pytest.raises(NoSamples, match="log_samples=True"):
        list(read_results({"results": {}}))
