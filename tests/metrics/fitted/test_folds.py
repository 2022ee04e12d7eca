"""Folds: groups whole, classes even, the same for the same seed."""

import numpy as np
import pytest

from metrics.fitted.folds import grouped_folds, groups_of


def test_groups_join_over_several_steps():
    numbers = ["t 0", "t 1", "t 2", "t 3", "t 4"]
    hashes = ["a", "b", "a", "c", ""]
    field = ["", "x", "x", "", ""]
    found = groups_of(numbers, hashes, field)  # 0-2 by content, 1-2 by field, so 0, 1 and 2
    assert found[0] == found[1] == found[2]
    assert len({found[0], found[3], found[4]}) == 3
    assert groups_of(["", ""], ["", ""]).tolist() == [0, 1]  # no value joins nothing


def test_classes_are_even_to_one():
    y = np.random.default_rng(0).random(203) < 0.2
    fold = grouped_folds(y.astype(int), np.arange(203), 5, seed=1)
    for value in (False, True):
        counts = np.bincount(fold[y == value], minlength=5)
        assert np.ptp(counts) <= 1
    np.testing.assert_array_equal(fold, grouped_folds(y.astype(int), np.arange(203), 5, seed=1))
    assert (fold != grouped_folds(y.astype(int), np.arange(203), 5, seed=2)).any()


def test_groups_are_whole_and_shares_near():
    rng = np.random.default_rng(0)
    groups = rng.integers(60, size=400)
    y = rng.random(400) < 0.3
    fold = grouped_folds(y.astype(int), groups, 4, seed=0)
    assert all(len(set(fold[groups == g])) == 1 for g in np.unique(groups))
    shares = np.array([y[fold == k].sum() / y.sum() for k in range(4)])
    sizes = np.bincount(fold) / 400
    assert np.abs(shares - 0.25).max() < 0.05 and np.abs(sizes - 0.25).max() < 0.05


def test_one_large_group_is_one_fold():
    groups = np.r_[np.zeros(50, int), 1 + np.arange(50)]
    fold = grouped_folds(np.zeros(100, int), groups, 2, seed=0)
    assert len(set(fold[:50])) == 1 and set(fold[50:]) == {1 - fold[0]}


@pytest.mark.parametrize("folds", [1, 4])
def test_refused(folds):
    with pytest.raises(ValueError, match=f"{folds} folds of 3 groups"):
        grouped_folds(np.zeros(3, int), np.arange(3), folds, seed=0)
