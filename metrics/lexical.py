"""How alike texts are, by their words alone: symmetric matrices of numbers from 0 to 1, 1 for equal texts.

ROUGE-L and BLEU are those of the packages `rouge_score` (without stemming) and `sacrebleu`, written for many pairs of
few texts: a text is cut into words once, and equal texts are compared once.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")
ORDERS = 4
"""BLEU compares runs of one to four words."""

ENTITIES = {"&quot;": '"', "&amp;": "&", "&lt;": "<", "&gt;": ">"}
MARKS = (
    (re.compile(r"([\{-\~\[-\` -\&\(-\+\:-\@\/])"), r" \1 "),
    (re.compile(r"([^0-9])([\.,])"), r"\1 \2 "),
    (re.compile(r"([\.,])([^0-9])"), r" \1 \2"),
    (re.compile(r"([0-9])(-)"), r"\1 \2 "),
)
"""What mteval-v13a sets apart: marks, full stops and commas that are not inside a number, a dash after one."""


def jaccard(texts: Sequence[str]) -> np.ndarray:
    """Shared words over all words of two texts, |A ∩ B| / |A ∪ B|, words in lower case split at white space.

    Two texts without a word are alike.
    """
    words = [frozenset(text.lower().split()) for text in texts]
    return pairwise(words, lambda a, b: len(a & b) / len(a | b) if a or b else 1.0)


def rouge_l(texts: Sequence[str]) -> np.ndarray:
    """ROUGE-L: 2 c / (m + n), c the length of the longest common subsequence of two texts of m and n words.

    Words are runs of letters and digits in lower case, of a text without any what white space parts. On English text
    equal to the F-measure of rouge_score, which drops letters other than a to z. Two empty texts are alike.
    """
    words = [tuple(re.findall(r"[^\W_]+", text.lower()) or text.split()) for text in texts]
    return pairwise(words, lambda a, b: 2 * common_subsequence(a, b) / (len(a) + len(b)))


def common_subsequence(a: Sequence[str], b: Sequence[str]) -> int:
    """Length of the longest common subsequence, a row of the table at a time in the bits of one integer.

    Source: Hyyrö, Bit-parallel LCS-length computation revisited (2004).
    """
    places: dict[str, int] = {}
    for i, word in enumerate(a):
        places[word] = places.get(word, 0) | 1 << i
    full = (1 << len(a)) - 1
    row = full
    for word in b:
        matches = row & places.get(word, 0)
        row = (row + matches | row - matches) & full
    return len(a) - row.bit_count()


def bleu(texts: Sequence[str]) -> np.ndarray:
    """BLEU of two texts, the mean of both ways round: brevity penalty times the geometric mean of n-gram precisions.

    As `sentence_bleu` of sacrebleu with its defaults, over 100: words by 13a, n-grams up to four or the text's length,
    an order without a match counts 1/2, the next 1/4, and so on. Two texts without a word are alike.
    """
    words = [tokens_13a(text) for text in texts]
    counts = {one: _ngrams(one) for one in words}

    def both_ways(a: tuple[str, ...], b: tuple[str, ...]) -> float:
        found = _matches(counts[a], counts[b])
        return (_bleu(found, len(a), len(b)) + _bleu(found, len(b), len(a))) / 2

    return pairwise(words, both_ways)


def _ngrams(words: tuple[str, ...]) -> Counter[tuple[str, ...]]:
    """How often each run of one to four words occurs."""
    return Counter(words[i : i + n] for n in range(1, ORDERS + 1) for i in range(len(words) - n + 1))


def _matches(a: Counter[tuple[str, ...]], b: Counter[tuple[str, ...]]) -> list[int]:
    """Shared n-grams of each order, each as often as it is in both."""
    found = [0] * ORDERS
    for ngram in a.keys() & b.keys():
        found[len(ngram) - 1] += min(a[ngram], b[ngram])
    return found


def _bleu(matches: Sequence[int], length: int, reference: int) -> float:
    """BLEU of a text of `length` words against one of `reference` words."""
    if not matches[0]:
        return 0.0
    orders = min(length, ORDERS)
    smallest, logs = 1.0, 0.0
    for n in range(orders):
        if not matches[n]:
            smallest /= 2
        logs += math.log((matches[n] or smallest) / (length - n))
    return math.exp(min(0.0, 1 - reference / length) + logs / orders)


def tokens_13a(text: str) -> tuple[str, ...]:
    """Words as mteval-v13a cuts them, in their own case."""
    text = text.rstrip().replace("<skipped>", "").replace("-\n", "").replace("\n", " ")
    for entity, character in ENTITIES.items():
        text = text.replace(entity, character)
    text = f" {text} "
    for pattern, replacement in MARKS:
        text = pattern.sub(replacement, text)
    return tuple(text.split())


def pairwise(items: Sequence[T], similarity: Callable[[T, T], float]) -> np.ndarray:
    """A symmetric measure of all pairs; equal items are compared once."""
    distinct = list(dict.fromkeys(items))
    at = np.array([distinct.index(item) for item in items], dtype=int)
    found = np.ones((len(distinct), len(distinct)))
    for i, a in enumerate(distinct):
        for j in range(i + 1, len(distinct)):
            found[i, j] = found[j, i] = similarity(a, distinct[j])
    return found[np.ix_(at, at)]


LEXICAL: dict[str, Callable[[Sequence[str]], np.ndarray]] = {"jaccard": jaccard, "rouge_l": rouge_l, "bleu": bleu}
"""By name."""
