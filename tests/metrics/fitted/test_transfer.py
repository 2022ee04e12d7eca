"""The transfer matrix on planted shifts, and documents set apart by a field."""

from dataclasses import replace

import numpy as np
import pytest

from metrics.fitted.inputs import Inputs
from metrics.fitted.learn import learn
from metrics.fitted.methods import recipe
from metrics.fitted.nested import Scheme
from metrics.fitted.rows import Rows
from metrics.fitted.transfer import show_transfer, split_by, transfer_table
from metrics.stats import auroc

INPUTS = Inputs("", (), ("entropy_distribution",), ())
RECIPE = recipe("entropy_lr(c=1)")


def domain(name, direction, n=150, seed=0, hashes=None):
    """Wrong answers differ in the first input, upwards or downwards."""
    rng = np.random.default_rng(seed)
    wrong = rng.random(n) < 0.4
    x = rng.normal(size=(n, 3))
    x[:, 0] += 2.0 * direction * wrong
    given = hashes if hashes is not None else [f"{name}{i}" for i in range(n)]
    fields = {"size": np.arange(n).astype(object), "kind": np.array(["a", "b", "c"] * (n // 3), dtype=object)}
    return Rows(
        name, x, wrong, np.full(n, name, object), np.arange(n), np.array(given, object), np.full(n, "", object),
        {"mean_nll": rng.normal(size=n)}, fields, "acc@none",
    )  # fmt: skip


def cells(table):
    return {(row["fitted_on"], row["scored_on"]): row for row in table.rows}


def test_a_planted_shift():
    parts = [domain("a", 1), domain("b", 1, seed=1), domain("c", -1, seed=2)]
    table = transfer_table(parts, INPUTS, RECIPE, Scheme(), against="mean_nll")
    found = cells(table)
    assert all(found[pair]["auroc"] > 0.85 for pair in [("a", "a"), ("a", "b"), ("b", "a"), ("c", "c")])
    assert all(found[pair]["auroc"] < 0.15 for pair in [("a", "c"), ("c", "a"), ("c", "b")])
    assert found["a", "a"]["how"] == "out-of-fold" and found["a", "b"]["how"] == "other documents"
    assert abs(found["mean_nll (not fitted)", "c"]["auroc"] - 0.5) < 0.15
    own = np.mean([found[p, p]["auroc"] for p in "abc"])
    other = np.mean([found[p, q]["auroc"] for p in "abc" for q in "abc" if p != q])
    assert f"in-domain {own:.3f}, out-of-domain {other:.3f}" in " ".join(table.notes)
    text = show_transfer(table, "md")
    assert text.count("\n| ") == 5 and "| fitted on" in text and f"{found['a', 'c']['auroc']:.3f} [" in text


def test_cells_are_those_computed_apart():
    a, b = domain("a", 1), domain("b", 1, seed=1)
    found = cells(transfer_table([a, b], INPUTS, RECIPE, Scheme(seed=3), against="mean_nll"))
    learnt = learn(a, INPUTS, RECIPE, Scheme(seed=3))
    assert found["a", "a"]["auroc"] == auroc(learnt.out_of_fold, a.wrong).value
    assert found["a", "b"]["auroc"] == auroc(learnt.scores(b), b.wrong).value


def test_documents_of_equal_content_are_left_out():
    a = domain("a", 1)
    b = domain("b", 1, seed=1, hashes=[f"a{i}" for i in range(100)] + [f"b{i}" for i in range(50)])
    table = transfer_table([a, b], INPUTS, RECIPE, Scheme(), against="mean_nll")
    found = cells(table)
    assert found["a", "b"]["n"] == found["b", "a"]["n"] == 50 and found["a", "a"]["n"] == 150
    assert "200 documents fitted on elsewhere in the matrix" in " ".join(table.notes)


def test_documents_of_a_group_that_was_fitted_on_are_left_out():
    """Fifty documents of each part are questions on passages that the other part has questions on as well."""
    a = replace(domain("a", 1), group=np.array([f"g{i // 5}" for i in range(150)], object))
    b = replace(domain("b", 1, seed=1), group=np.array([f"g{20 + i // 5}" for i in range(150)], object))
    table = transfer_table([a, b], INPUTS, RECIPE, Scheme(), against="mean_nll")
    found = cells(table)
    assert found["a", "b"]["n"] == found["b", "a"]["n"] == 100 and found["b", "b"]["n"] == 150
    left = b.part(np.arange(150) >= 50)
    assert found["a", "b"]["auroc"] == auroc(learn(a, INPUTS, RECIPE, Scheme()).scores(left), left.wrong).value
    assert "100 documents fitted on elsewhere in the matrix" in " ".join(table.notes)


def test_parts_by_a_field():
    rows = domain("a", 1)
    low, high = split_by(rows, "size<=9")
    assert (low.name, len(low), high.name, len(high)) == ("a, size<=9", 10, "a, size>9", 140)
    assert [len(p) for p in split_by(rows, "size > 9")] == [140, 10]
    assert [p.name for p in split_by(rows, "kind")] == ["a, kind=a", "a, kind=b", "a, kind=c"]
    np.testing.assert_array_equal(low.x, rows.x[:10])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("colour", "have the fields size, kind"),
        ("size", "size has 150 values; give a limit"),
        ("kind<=2", "kind is no number in 150 documents"),
        ("size<=999", "all documents of a are on one side"),
    ],
)
def test_refused(text, says):
    with pytest.raises(ValueError, match=says):
        split_by(domain("a", 1), text)
