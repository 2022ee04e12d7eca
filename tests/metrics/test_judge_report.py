"""The estimate, and the agreement with lm-eval's labels."""

import math

import pytest
from judging import logged, write_log

from metrics.judge import Wanted, make_work
from metrics.judge_report import agreement_table, estimate, show_agreement
from metrics.logged import read_logged


@pytest.fixture
def found(tmp_path):
    lines = [line for i in range(12) for line in logged(i, str(i % 4), right=float(i % 3 == 0))]
    lines += logged(12, "")
    return read_logged([write_log(tmp_path, lines)])


def test_estimate(found):
    work = make_work(found, Wanted())
    made = estimate(work, ["x" * 9, "y" * 8], most_tokens=16, price_in=2.0, price_out=10.0)
    assert (made.documents, made.items, made.cached, made.calls) == (13, 4, 2, 2)
    assert made.prompt_tokens == (3 + 8) + (2 + 8)
    assert made.completion_tokens == 32
    assert made.cost == pytest.approx((21 * 2 + 32 * 10) / 1e6)
    first, second = made.lines(work)
    assert first == (
        "13 documents (1 with an empty answer, wrong without asking): 4 different questions with answers, 2 of them in "
        "the cache."
    )
    assert "2 calls: about 21 prompt tokens (estimated as characters / 4) and at most 32 completion" in second
    assert "at most about 0.00 in the currency of the prices" in second


def test_estimate_without_prices_and_by_a_tokenizer(found):
    made = estimate(make_work(found, Wanted()), ["a b c"], most_tokens=4, count=lambda text: len(text.split()))
    assert (made.prompt_tokens, made.cost) == (11, None)
    assert "cost" not in made.lines(make_work(found, Wanted()))[1]
    assert "counted by the tokenizer given" in made.lines(make_work(found, Wanted()))[1]


def test_agreement(found):
    # documents 0..11: lm-eval calls 0, 3, 6, 9 right; the judge 0, 3, 6 and 1, 2
    rows = [{"task": "sums", "doc_id": i, "correct": int(i in (0, 1, 2, 3, 6))} for i in range(12)]
    table = agreement_table(rows, found)
    (row,) = table.rows
    assert (row["n"], row["judge_only"], row["label_only"]) == (12, 2, 1)
    assert row["agreement"] == pytest.approx(9 / 12)
    expected = 5 / 12 * 4 / 12 + 7 / 12 * 8 / 12
    assert row["kappa"] == pytest.approx((9 / 12 - expected) / (1 - expected))
    assert row["agreement_lower"] < 9 / 12 < row["agreement_upper"]
    assert row["kappa_lower"] < row["kappa"] < row["kappa_upper"]
    assert "exact_match@none" in show_agreement(table, "md")


def test_only_documents_with_both(found):
    rows = [{"task": "sums", "doc_id": i, "correct": 1} for i in (0, 3, 99)]
    table = agreement_table(rows, found)
    assert table.rows[0]["n"] == 2
    assert math.isnan(table.rows[0]["kappa"])
    assert any("both raters say the same" in note for note in table.notes)
    assert agreement_table([], found).rows == []


def test_which_verdicts(tmp_path):
    lines = logged(0, "4", filters={"a": "4", "b": "5"}, metrics=["exact_match", "f1"], f1=0.5)
    found = read_logged([write_log(tmp_path, lines)])
    rows = [{"task": "sums", "doc_id": 0, "correct": 1}]
    assert [r["label"] for r in agreement_table(rows, found).rows] == ["exact_match@a", "exact_match@b"]
    assert [r["label"] for r in agreement_table(rows, found, filter_="b").rows] == ["exact_match@b"]
    assert agreement_table(rows, found, without={("sums", "exact_match")}).rows == []
