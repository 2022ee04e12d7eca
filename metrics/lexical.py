"""How alike texts are, by their words alone: symmetric matrices, 1 for equal texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np


def jaccard(texts: Sequence[str]) -> np.ndarray:
    """Shared words over all words of two texts, |A ∩ B| / |A ∪ B|, words in lower case split at white space.

    Two texts without a word are alike.
    """
    words = [frozenset(text.lower().split()) for text in texts]
    return pairwise(words, lambda a, b: len(a & b) / len(a | b) if a or b else 1.0)


def pairwise(items: Sequence, similarity: Callable[..., float]) -> np.ndarray:
    """A symmetric measure of all pairs; equal items are compared once."""
    distinct = list(dict.fromkeys(items))
    at = np.array([distinct.index(item) for item in items], dtype=int)
    found = np.ones((len(distinct), len(distinct)))
    for i, a in enumerate(distinct):
        for j in range(i + 1, len(distinct)):
            found[i, j] = found[j, i] = similarity(a, distinct[j])
    return found[np.ix_(at, at)]


LEXICAL: dict[str, Callable[[Sequence[str]], np.ndarray]] = {"jaccard": jaccard}
"""By name."""
