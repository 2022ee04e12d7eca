"""Texts into clusters: how many, how stable, what marks each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.metrics import adjusted_rand_score, silhouette_score

STARTS = 10
"""Runs of k-means from different centres, of which the best counts."""

AGAIN = 10
"""Clusterings by which the stability is told, of either kind."""

SAMPLED = 5000
"""Above so many texts the silhouette is of a sample of so many: it takes a distance for every pair."""

Z = 1.96
"""From which on a word is told to mark a cluster."""

DIMENSIONS = 64
"""Of the vectors that stand for words."""


@dataclass(frozen=True)
class Clustering:
    """Texts in k clusters.

    Attributes:
        labels: the cluster (n,) of each text, from 0.
        centres: (k, d), of unit vectors.
        tried: mean silhouette by k, of the k that were tried and left enough texts in every cluster.
        refused: by k, the size of the smallest cluster, of those that did not; 0 where k texts do not differ.
    """

    labels: NDArray[np.int64]
    centres: NDArray[np.float64]
    tried: dict[int, float]
    refused: dict[int, int]

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Texts in each cluster."""
        return np.bincount(self.labels, minlength=len(self.centres))


def unit(vectors: NDArray[np.float32]) -> NDArray[np.float64]:
    """Vectors (n, d) scaled to length 1, so that k-means goes by their cosine; a zero vector stays zero.

    Raises:
        ValueError: one is not finite.
    """
    wide = np.asarray(vectors, dtype=np.float64)
    if not np.isfinite(wide).all():
        raise ValueError(f"{int((~np.isfinite(wide).all(1)).sum())} of {len(wide)} embeddings are not finite")
    length = np.linalg.norm(wide, axis=1, keepdims=True)
    return wide / np.where(length > 0, length, 1)


def find_clusters(vectors: NDArray[np.float64], counts: Sequence[int], *, least: int, seed: int) -> Clustering:
    """k-means of unit vectors with the k in `counts` of the highest mean silhouette (by cosine distance).

    A k that leaves a cluster of fewer than `least` texts is not taken. Of equal silhouettes the smaller k counts. The
    same vectors and seed give the same clusters.

    Raises:
        ValueError: no k leaves enough texts in every cluster, or there are fewer different texts than clusters.

    Source: Arthur & Vassilvitskii 2007 (k-means++); Rousseeuw 1987, J. Comput. Appl. Math. 20:53 (silhouette).
    """
    different = len(np.unique(vectors, axis=0))
    tried: dict[int, float] = {}
    refused: dict[int, int] = {}
    made: dict[int, Any] = {}
    for k in counts:
        if k > different:
            refused[k] = 0
            continue
        made[k] = fit(vectors, k, seed=seed)
        smallest = int(np.bincount(made[k].labels_, minlength=k).min())
        if smallest < least:
            refused[k] = smallest
        elif k == len(vectors):
            tried[k] = float("nan")
        else:
            sample = SAMPLED if len(vectors) > SAMPLED else None
            options = {"metric": "cosine", "sample_size": sample, "random_state": seed}
            tried[k] = float(silhouette_score(vectors, made[k].labels_, **options))
    if not tried:
        raise ValueError(
            f"{len(vectors)} texts ({different} different): none of {', '.join(map(str, counts))} clusters leaves at "
            f"least {least} in each; lower --min-size or --clusters"
        )
    best = max(tried, key=lambda k: (-np.inf if np.isnan(tried[k]) else tried[k], -k))
    return Clustering(made[best].labels_.astype(np.int64), made[best].cluster_centers_, tried, refused)


def fit(vectors: NDArray[np.float64], k: int, *, seed: int) -> Any:
    """k-means from `STARTS` draws of k-means++ centres, the best by inertia."""
    starts: Any = STARTS  # an int, which scikit-learn's annotations do not know
    return KMeans(k, n_init=starts, random_state=seed).fit(vectors)


def stability(vectors: NDArray[np.float64], found: Clustering, *, seed: int) -> tuple[NDArray, NDArray]:
    """Adjusted Rand index with the clusterings of other seeds, and of resampled texts, `AGAIN` of each.

    1 is the same clusters, 0 what chance agrees on. A resampled clustering is of texts drawn with replacement, and then
    every text goes to its nearest centre.

    Source: Hubert & Arabie 1985, J. Classif. 2:193; Hennig 2007, Comput. Stat. Data Anal. 52:258 (resampling).
    """
    k = len(found.centres)
    rng = np.random.default_rng(seed)
    seeds = [adjusted_rand_score(found.labels, fit(vectors, k, seed=seed + 1 + i).labels_) for i in range(AGAIN)]
    drawn = [vectors[rng.integers(len(vectors), size=len(vectors))] for _ in range(AGAIN)]
    redrawn = [
        adjusted_rand_score(found.labels, fit(part, k, seed=seed).predict(vectors))
        for part in drawn
        if len(np.unique(part, axis=0)) >= k
    ]
    return np.array(seeds), np.array(redrawn)


def examples(vectors: NDArray[np.float64], found: Clustering) -> list[int]:
    """The text nearest to each centre; of equal ones the first."""
    chosen = []
    for k, centre in enumerate(found.centres):
        members = np.flatnonzero(found.labels == k)
        chosen.append(int(members[np.argmin(((vectors[members] - centre) ** 2).sum(1))]))
    return chosen


def word_vectors(texts: Sequence[str], *, seed: int) -> NDArray[np.float32]:
    """Vectors (n, d) of the words in texts, without any model: TF-IDF, cut to `DIMENSIONS` by singular values.

    Raises:
        ValueError: the texts hold no words.

    Source: Deerwester et al. 1990, J. Am. Soc. Inf. Sci. 41:391 (latent semantic analysis).
    """
    try:
        weights = TfidfVectorizer(sublinear_tf=True, token_pattern=r"(?u)\b\w+\b").fit_transform(texts)
    except ValueError:
        raise ValueError(f"{len(texts)} texts hold no word to tell them apart by; give an encoder") from None
    size = min(DIMENSIONS, min(weights.shape) - 1)
    if size < 1:
        return np.asarray(weights.toarray(), dtype=np.float32)
    return TruncatedSVD(size, random_state=seed).fit_transform(weights).astype(np.float32)


def marking_words(texts: Sequence[str], labels: NDArray[np.int64], *, most: int = 5) -> list[list[str]]:
    """The words that mark each cluster: held by more of its texts than of the others, at z > `Z`, the highest first.

    z = d / se(d), d the difference of the log-odds that a text of the cluster, and of all others, holds the word, where
    both are given one text more, which holds each word as often as all texts do. English function words, and words of
    every text, are left out.

    Source: Monroe, Colaresi & Quinn 2008, Political Analysis 16:372, eqs. 15, 16, 20 and 22, of texts for tokens.
    """
    count, n = int(labels.max()) + 1, len(texts)
    try:
        counter = CountVectorizer(binary=True, stop_words="english")
        held: Any = counter.fit_transform(texts)
    except ValueError:  # no words but function words
        return [[] for _ in range(count)]
    whole = np.asarray(held.sum(0)).ravel()
    usable = np.flatnonzero(whole < n)
    words, share = counter.get_feature_names_out()[usable], whole[usable] / n
    found = []
    for k in range(count):
        here = np.asarray(held[labels == k].sum(0)).ravel()[usable]
        size = int((labels == k).sum())
        inside, outside = here + share, whole[usable] - here + share
        without, without_outside = size + 1 - inside, n - size + 1 - outside
        difference = np.log(inside / without) - np.log(outside / without_outside)
        z = difference / np.sqrt(1 / inside + 1 / without + 1 / outside + 1 / without_outside)
        best = np.argsort(-z, kind="stable")[:most]
        found.append([str(words[i]) for i in best if z[i] > Z])
    return found
