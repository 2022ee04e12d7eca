"""Folds that keep groups whole and classes even."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components


def groups_of(*keys: Sequence[object]) -> np.ndarray:
    """Group numbers (n,): items that share a value of any key are in one group, also over several steps.

    An empty text is no value. So samples of one document and documents of equal content stay together.
    """
    n = len(keys[0])
    codes: dict[tuple[int, object], int] = {}
    rows, columns = [], []
    for number, key in enumerate(keys):
        for row, value in enumerate(key):
            if value != "":
                rows.append(row)
                columns.append(codes.setdefault((number, value), len(codes)))
    size = n + len(codes)
    links = coo_matrix((np.ones(len(rows)), (rows, np.array(columns, dtype=int) + n)), shape=(size, size))
    return np.unique(connected_components(links, directed=False)[1][:n], return_inverse=True)[1]


def grouped_folds(strata: np.ndarray, groups: np.ndarray, folds: int, *, seed: int) -> np.ndarray:
    """Fold of each item (n,), 0..folds-1: groups whole, and each stratum spread as evenly as they allow.

    Groups are taken in random order, the largest first, and each goes to the fold that leaves the strata's shares most
    even: the least sum over strata of (share of the stratum in the fold)^2, then the smallest fold.

    Args:
        strata: (n,) integer codes, such as the class or class and task.
        groups: (n,) integer codes.
        folds: their number.
        seed: of the order.

    Raises:
        ValueError: fewer than two folds, or fewer groups than folds.
    """
    numbers, members = np.unique(groups, return_inverse=True)
    if not 2 <= folds <= len(numbers):
        raise ValueError(f"{folds} folds of {len(numbers)} groups of documents; give a number between 2 and those")
    codes = np.unique(strata, return_inverse=True)[1]
    counts = np.zeros((len(numbers), codes.max() + 1))
    np.add.at(counts, (members, codes), 1)
    total = counts.sum(axis=0)
    order = np.random.default_rng(seed).permutation(len(numbers))
    order = order[np.argsort(-counts[order].sum(axis=1), kind="stable")]
    held = np.zeros((folds, counts.shape[1]))
    fold_of = np.empty(len(numbers), dtype=np.int64)
    for group in order:
        added = (((held + counts[group]) / total) ** 2 - (held / total) ** 2).sum(axis=1)
        best = np.flatnonzero(added <= added.min() * (1 + 1e-9))
        fold = best[np.argmin(held[best].sum(axis=1))]
        held[fold] += counts[group]
        fold_of[group] = fold
    return fold_of[members]
