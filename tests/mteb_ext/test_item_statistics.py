"""Statistics on counts against scipy and scikit-learn on the expanded samples."""

import warnings

import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.metrics import average_precision_score, f1_score

from metrics.stats import resampled_average_precision
from mteb_ext import item_statistics
from mteb_ext.item_statistics import means, resampled_ap, resampled_f1, resampled_spearman, rounded_means

N, DRAWS = 40, 60


def draws(rng, n=N, size=DRAWS):
    return rng.multinomial(n, np.full(n, 1 / n), size=size)


def expanded(counts):
    return [np.repeat(np.arange(len(row)), row) for row in counts]


def scores(rng, ties, shape):
    values = rng.normal(size=shape)
    return np.round(values) if ties else values


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("strip", [1, 7 * N, 10**6])
def test_spearman_is_scipys(ties, strip, monkeypatch):
    monkeypatch.setattr(item_statistics, "STRIP", strip)
    rng = np.random.default_rng(int(ties))
    values, gold, counts = scores(rng, ties, (3, N)), scores(rng, ties, N), draws(rng)
    expected = [[spearmanr(row[drawn], gold[drawn])[0] for row in values] for drawn in expanded(counts)]
    np.testing.assert_allclose(resampled_spearman(values, gold, counts), expected, rtol=0, atol=1e-12)


def test_spearman_by_hand():
    # drawn: x = 1, 1, 2, 3 and y = 2, 2, 1, 3; midranks 1.5 1.5 3 4 and 2.5 2.5 1 4
    counts = np.array([[2, 1, 1, 0]])
    # centred: -1 -1 .5 1.5 and 0 0 -1.5 1.5; products -.75 + 2.25; squares 4.5 and 4.5
    found = resampled_spearman(np.array([[1.0, 2, 3, 9]]), np.array([2.0, 1, 3, 9]), counts)
    np.testing.assert_allclose(found, [[1.5 / 4.5]], atol=1e-15)


def test_spearman_is_nan_where_something_is_constant_or_nothing_is_drawn():
    values = np.array([[1.0, 1, 2], [1, 2, 3]])
    counts = np.array([[2, 1, 0], [0, 3, 0], [0, 0, 0], [1, 1, 1]])
    found = resampled_spearman(values, np.array([1.0, 2, 3]), counts)
    np.testing.assert_array_equal(np.isnan(found), [[True, False], [True, True], [True, True], [False, False]])
    assert np.isnan(resampled_spearman(values, np.ones(3), counts)).all()


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("strip", [1, 10**6])
def test_average_precision_is_scikit_learns(ties, strip, monkeypatch):
    monkeypatch.setattr(item_statistics, "STRIP", strip)
    rng = np.random.default_rng(3)
    values, positive, counts = scores(rng, ties, (2, 3, N)), rng.random(N) < 0.3, draws(rng)
    expected = [
        [max(average_precision_score(positive[drawn], row[drawn]) for row in rows) for rows in values]
        for drawn in expanded(counts)
    ]
    found = resampled_ap(values, positive, counts)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)
    ours = np.max([resampled_average_precision(row, positive, counts) for row in values[0]], axis=0)
    np.testing.assert_allclose(found[:, 0], ours, rtol=0, atol=1e-12)


def test_average_precision_is_nan_with_one_class_drawn():
    values, positive = np.array([[[4.0, 3, 2, 1]]]), np.array([True, False, True, False])
    counts = np.array([[2, 0, 2, 0], [0, 1, 0, 3], [0, 0, 0, 0], [1, 1, 1, 1], [0, 3, 1, 0]])
    found = resampled_ap(values, positive, counts)[:, 0]
    np.testing.assert_allclose(found, [np.nan, np.nan, np.nan, (1 + 2 / 3) / 2, 1 / 4])


@pytest.mark.parametrize("label", [True, False])
def test_average_precision_without_a_class_in_the_data(label):
    assert np.isnan(resampled_ap(np.zeros((1, 1, 3)), np.full(3, label), np.ones((2, 3), int))).all()


def test_f1_is_scikit_learns():
    rng = np.random.default_rng(5)
    gold, counts = rng.integers(0, 4, N), draws(rng, size=15)
    values = np.where(rng.random((2, 3, N)) < 0.5, gold, rng.integers(0, 6, (2, 3, N)))  # classes that gold lacks
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = [
            [np.mean([f1_score(gold[drawn], row[drawn], average="macro") for row in rows]) for rows in values]
            for drawn in expanded(counts)
        ]
    np.testing.assert_allclose(resampled_f1(values, gold, counts), expected, rtol=0, atol=1e-12)
    assert np.isnan(resampled_f1(values, gold, np.zeros((1, N), int))).all()


def test_means_and_their_rounding():
    values = np.array([[0.0, 1.0, 0.000012], [1.0, 1.0, 1.0]])
    counts = np.array([[1, 1, 1], [0, 0, 3], [2, 1, 0], [0, 0, 0]])
    expected = np.array([[1.000012 / 3, 1], [0.000012, 1], [1 / 3, 1], [np.nan, np.nan]])
    np.testing.assert_allclose(means(values, counts), expected, atol=1e-15)
    np.testing.assert_array_equal(rounded_means(values, counts), [[0.33334, 1], [1e-05, 1], [0.33333, 1], [np.nan] * 2])
