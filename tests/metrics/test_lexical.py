"""Against rouge_score and sacrebleu themselves, which lm-eval brings."""

import random

import numpy as np
import pytest
import sacrebleu
from hypothesis import given
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from metrics.lexical import LEXICAL, bleu, common_subsequence, jaccard, rouge_l, tokens_13a

WORDS = ("the", "The", "cat", "sat,", "on", "a", "mat.", "3.5", "1,000", "4-5", "&amp;", "&lt;b&gt;", "(no)", "it's")
SENTENCES = st.lists(st.sampled_from(WORDS), min_size=1, max_size=14).map(" ".join)
ROUGE = RougeScorer(["rougeL"])


@given(SENTENCES, SENTENCES)
def test_rouge_l_is_that_of_rouge_score(a, b):
    theirs = ROUGE.score(a, b)["rougeL"].fmeasure
    assert rouge_l([a, b])[0, 1] == pytest.approx(theirs if a != b else 1, abs=1e-12)


@given(SENTENCES, SENTENCES)
def test_bleu_is_that_of_sacrebleu_both_ways_round(a, b):
    theirs = [sacrebleu.sentence_bleu(x, [y]).score / 100 for x, y in ((a, b), (b, a))]
    assert bleu([a, b])[0, 1] == pytest.approx(sum(theirs) / 2, abs=1e-12)


@given(st.text(alphabet="ab1.,-&;\n $%{}é中\"'", max_size=30))
def test_words_of_bleu_are_those_of_13a(text):
    assert list(tokens_13a(text)) == sacrebleu.BLEU().tokenizer(text.rstrip()).split()  # as sentence_bleu hands it over


@given(st.lists(st.integers(0, 4), max_size=12), st.lists(st.integers(0, 4), max_size=12))
def test_common_subsequence_is_that_of_the_table(a, b):
    table = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            table[i + 1][j + 1] = table[i][j] + 1 if x == y else max(table[i][j + 1], table[i + 1][j])
    assert common_subsequence(list(map(str, a)), list(map(str, b))) == table[-1][-1]


def test_hand_values():
    texts = ["a b c d", "a c d", "x y"]
    assert rouge_l(texts)[0].tolist() == pytest.approx([1, 6 / 7, 0])
    assert jaccard(texts)[0].tolist() == pytest.approx([1, 3 / 4, 0])
    forth = np.exp(1 - 4 / 3) * (3 / 3 * 1 / 2 * (1 / 2) / 1) ** (1 / 3)  # a c d: 3 words, one pair, no triple
    back = (3 / 4 * 1 / 3 * (1 / 2) / 2 * (1 / 4) / 1) ** (1 / 4)
    assert bleu(texts)[0].tolist() == pytest.approx([1, (forth + back) / 2, 0])


@pytest.mark.parametrize("kind", LEXICAL)
class TestEveryKind:
    def test_empty_texts_are_like_each_other_and_nothing_else(self, kind):
        assert LEXICAL[kind](["", " ", "a"]).tolist() == [[1, 1, 0], [1, 1, 0], [0, 0, 1]]

    def test_texts_of_marks_alone_are_told_apart(self, kind):
        assert LEXICAL[kind](["+", "-", "+"]).tolist() == [[1, 0, 1], [0, 1, 0], [1, 0, 1]]

    def test_other_alphabets_are_told_apart(self, kind):
        found = LEXICAL[kind](["東京", "大阪", "東京"])
        assert found.tolist() == [[1, 0, 1], [0, 1, 0], [1, 0, 1]]

    def test_is_symmetric_between_zero_and_one(self, kind):
        drawn = random.Random(0)
        texts = [" ".join(drawn.choices(WORDS, k=drawn.randint(0, 9))) for _ in range(12)]
        found = LEXICAL[kind](texts)
        assert np.array_equal(found, found.T)
        assert (found >= 0).all() and (found <= 1 + 1e-12).all()
        assert (np.diag(found) == 1).all()

    def test_one_text_and_none(self, kind):
        assert LEXICAL[kind](["a b"]).tolist() == [[1]]
        assert LEXICAL[kind]([]).shape == (0, 0)
