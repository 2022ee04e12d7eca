"""Clusters that are there are found, those that are not are not, and words mark them as a slow count says."""

import math

import numpy as np
import pytest

from metrics.clusters import Clustering, examples, find_clusters, marking_words, stability, unit, word_vectors


def blobs(sizes, *, seed=0, spread=0.05, width=6):
    rng = np.random.default_rng(seed)
    centres = np.eye(width)[: len(sizes)]
    rows = np.concatenate([c + spread * rng.standard_normal((n, width)) for c, n in zip(centres, sizes)])
    return unit(rows), np.repeat(np.arange(len(sizes)), sizes)


def same(a, b):
    return len(set(zip(a.tolist(), b.tolist()))) == len(set(a.tolist())) == len(set(b.tolist()))


def test_the_number_of_clusters_is_found():
    vectors, truth = blobs([40, 30, 25])
    found = find_clusters(vectors, range(2, 7), least=20, seed=0)
    assert same(found.labels, truth)
    assert sorted(found.sizes.tolist()) == [25, 30, 40]
    assert max(found.tried, key=found.tried.get) == 3
    assert set(found.tried) | set(found.refused) == set(range(2, 7))
    assert all(size < 20 for size in found.refused.values())
    again = find_clusters(vectors, range(2, 7), least=20, seed=0)
    np.testing.assert_array_equal(found.labels, again.labels)


def test_small_clusters_are_refused():
    vectors, _ = blobs([40, 30, 5])
    found = find_clusters(vectors, [2, 3], least=20, seed=0)
    assert len(found.centres) == 2
    assert found.refused == {3: 5}
    with pytest.raises(
        ValueError, match=r"75 texts .* none of 3 clusters leaves at least 20 in each; lower --min-size"
    ):
        find_clusters(vectors, [3], least=20, seed=0)


def test_fewer_different_texts_than_clusters():
    vectors = unit(np.array([[1.0, 0], [0, 1]]).repeat(30, 0))
    found = find_clusters(vectors, [2, 3], least=20, seed=0)
    assert len(found.centres) == 2
    assert found.refused == {3: 0}
    with pytest.raises(ValueError, match=r"60 texts \(2 different\)"):
        find_clusters(vectors, [3], least=1, seed=0)


def test_stability_of_clusters_that_are_there_and_are_not():
    vectors, _ = blobs([40, 30, 25])
    seeds, redrawn = stability(vectors, find_clusters(vectors, [3], least=1, seed=0), seed=0)
    assert seeds.min() == redrawn.min() == 1
    noise = unit(np.random.default_rng(0).standard_normal((200, 20)))
    _, loose = stability(noise, find_clusters(noise, [5], least=1, seed=0), seed=0)
    assert loose.mean() < 0.5


def test_unit():
    np.testing.assert_allclose(unit(np.array([[3.0, 4], [0, 0]], np.float32)), [[0.6, 0.8], [0, 0]], atol=1e-7)
    with pytest.raises(ValueError, match="1 of 2 embeddings are not finite"):
        unit(np.array([[np.inf, 0], [1, 0]]))


def test_examples_are_nearest_to_their_centre():
    vectors = np.array([[1.0, 0], [0.9, 0.1], [0, 1.0], [0.3, 0.7]])
    found = Clustering(np.array([0, 0, 1, 1]), np.array([[0.9, 0.1], [0, 1.0]]), {}, {})
    assert examples(vectors, found) == [1, 2]


def slow_z(texts, inside, word):
    n, holding = len(texts), [word in t.split() for t in texts]
    share = sum(holding) / n
    z = []
    for side in (True, False):
        members = [h for h, i in zip(holding, inside) if i is side]
        with_, without = sum(members) + share, len(members) - sum(members) + 1 - share
        z.append((math.log(with_ / without), 1 / with_ + 1 / without))
    return (z[0][0] - z[1][0]) / math.sqrt(z[0][1] + z[1][1])


def test_marking_words_against_a_slow_count():
    texts = ["apple pear fruit"] * 8 + ["apple hammer fruit"] * 3 + ["hammer saw fruit the"] * 9
    labels = np.array([0] * 11 + [1] * 9)
    found = marking_words(texts, labels)
    inside = (labels == 0).tolist()
    z = {word: slow_z(texts, inside, word) for word in ("apple", "pear", "hammer", "saw")}
    assert found[0] == sorted((w for w in z if z[w] > 1.96), key=lambda w: -z[w]) == ["apple", "pear"]
    assert found[1] == sorted((w for w in z if -z[w] > 1.96), key=lambda w: z[w])
    assert "fruit" not in found[0] + found[1]  # all texts hold it
    assert "the" not in found[1]


def test_marking_words_where_there_are_none():
    assert marking_words(["the", "of"], np.array([0, 1])) == [[], []]
    assert marking_words(["same words"] * 4, np.array([0, 0, 1, 1])) == [[], []]


def test_word_vectors():
    texts = ["apple pear plum", "pear apple", "hammer saw", "saw hammer drill"]
    vectors = unit(word_vectors(texts, seed=0))
    assert vectors[0] @ vectors[1] > 0.5 > 0.1 > vectors[0] @ vectors[2]
    np.testing.assert_array_equal(word_vectors(texts, seed=0), word_vectors(texts, seed=0))
    assert word_vectors(["7", "8", "7"], seed=0).shape[0] == 3  # figures are words too
    assert word_vectors(["a", "a"], seed=0).shape == (2, 1)
    with pytest.raises(ValueError, match="2 texts hold no word"):
        word_vectors(["?", ""], seed=0)
