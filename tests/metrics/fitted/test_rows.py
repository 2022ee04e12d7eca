"""Rows of several tasks, documents left out with their count, and embeddings from a file."""

from dataclasses import replace

import numpy as np
import pytest

from metrics.cases import Way
from metrics.fitted.embeddings import attach, read_embeddings
from metrics.fitted.inputs import Inputs
from metrics.fitted.learn import judge, learn
from metrics.fitted.methods import recipe
from metrics.fitted.nested import Scheme
from metrics.fitted.rows import Rows, pooled, usable


def rows(name="a", n=100, seed=0, width=3):
    rng = np.random.default_rng(seed)
    wrong = rng.random(n) < 0.4
    x = rng.normal(size=(n, width))
    x[:, 0] += wrong
    hashes = np.array([f"{name}{i}" for i in range(n)], object)
    return Rows(
        name, x, wrong, np.full(n, name, object), np.arange(n), hashes, np.full(n, "", object), {}, {}, "acc@none"
    )


INPUTS = Inputs("", (), ("entropy_distribution",), ("p", "q"))


def test_undefined_rows_are_counted_and_empty_metrics_named():
    part = rows(width=4)  # two numbers of the feature, p and q
    part.x[:5, 0], part.x[5:7, 2], part.x[:, 3] = np.nan, np.inf, np.nan
    ((kept,), inputs) = usable([part], INPUTS)
    assert kept.x.shape == (93, 3) and inputs.metrics == ("p",)
    assert kept.lost == (
        "Inputs without any value here, left out: q.",
        "a: 7 of 100 documents left out, an input or the target is undefined.",
    )
    whole = rows(width=4)
    with pytest.raises(ValueError, match="inputs of 3 and 4 numbers; models differ in size"):
        usable([whole, rows("b")], INPUTS)
    with pytest.raises(ValueError, match="undefined for each of 100 documents"):
        usable([replace(whole, values=np.full(100, np.nan))], INPUTS)


def test_a_metric_is_dropped_where_one_task_has_none_of_it():
    first, second = rows(width=4), rows("b", width=4, seed=1)
    second.x[:, 2] = np.nan
    parts, inputs = usable([first, second], INPUTS)
    assert inputs.metrics == ("q",) and [p.x.shape for p in parts] == [(100, 3), (100, 3)]


def test_pooled_tasks():
    both = pooled([rows(), rows("b", seed=1)])
    assert both.name == "a + b" and len(both) == 200 and len(np.unique(both.groups())) == 200
    with pytest.raises(ValueError, match="judge differently picked options"):
        pooled([rows(), replace(rows("b"), verdict="acc_norm@none", way=Way("chars"))])


def test_pooled_tasks_are_read_by_one_filter():
    """A filter that is the first of one task and the second of another is one filter."""
    first, second = replace(rows(), verdict="em@x"), replace(rows("b", seed=1), verdict="em@x", way=Way(filter="x"))
    assert pooled([first, second]).way == Way(filter="x")
    with pytest.raises(ValueError, match="em@y, em@x judge what different filters read; choose one by --filter"):
        pooled([replace(first, verdict="em@y"), second])


def test_groups_widen_the_interval_by_resampling():
    part = rows()
    alike = replace(part, hashes=np.array([f"{i // 2}" for i in range(100)], object))
    learnt = learn(alike, Inputs("", (), ("entropy_distribution",), ()), recipe("entropy_lr(c=1)"), Scheme())
    assert len(np.unique(learnt.groups)) == 50
    assert all(len(set(learnt.fitted.fold[2 * i : 2 * i + 2])) == 1 for i in range(50))
    found = judge(learnt)
    assert found.lower < found.value < found.upper


def test_calibrated_scores_are_probabilities_by_other_folds():
    learnt = learn(rows(n=300), Inputs("", (), ("x",), ()), recipe("entropy_lr(c=1)"), Scheme(), "isotonic")
    raw = learnt.fitted.out_of_fold
    for k in range(5):
        here = learnt.fitted.fold == k
        from metrics.stats import fit_isotonic

        curve = fit_isotonic(raw[~here], learnt.rows.wrong[~here])
        np.testing.assert_array_equal(learnt.out_of_fold[here], curve(raw[here]))


def test_embeddings_of_a_file(tmp_path):
    file = tmp_path / "e.npz"
    vectors = np.arange(12.0).reshape(6, 2)
    np.savez(file, task=np.array(["a"] * 6), doc_id=np.array([0, 0, 1, 1, 1, 7]), embedding=vectors)
    found = attach(rows(n=9), read_embeddings(file)).embeddings
    assert found.shape == (9, 3, 2)
    np.testing.assert_array_equal(found[0], [[0, 1], [2, 3], [np.nan, np.nan]])
    np.testing.assert_array_equal(found[1], vectors[2:5])
    assert np.isnan(found[2]).all()
    with pytest.raises(ValueError, match="none of the 9 documents has an embedding"):
        attach(rows("b", n=9), read_embeddings(file))


def test_files_that_are_no_embeddings(tmp_path):
    file = tmp_path / "e.npz"
    np.savez(file, task=np.array(["a"]), doc_id=np.array([0]))
    with pytest.raises(ValueError, match="no array 'embedding'"):
        read_embeddings(file)
    np.savez(file, task=np.array(["a"]), doc_id=np.array([0]), embedding=np.zeros((2, 2)))
    with pytest.raises(ValueError, match="one row a sample"):
        read_embeddings(file)
    np.savez(file, task=np.array(["a"], object), doc_id=np.array([0]), embedding=np.zeros((1, 2)))
    with pytest.raises(ValueError, match="allow_pickle"):
        read_embeddings(file)
    file.write_text("no")
    with pytest.raises(ValueError, match=str(file)):
        read_embeddings(file)
    with pytest.raises(FileNotFoundError):
        read_embeddings(tmp_path / "gone.npz")
