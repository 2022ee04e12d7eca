"""The vocabulary: enough of it, and no word that could be counted twice."""

from collections import Counter

from tasks.counting.words import CATEGORIES, HELD_OUT


def test_ten_categories_of_twenty_plain_words():
    assert len(CATEGORIES) >= 10
    for category, words in CATEGORIES.items():
        assert len(words) == 20, category
        assert all(word.isascii() and word.isalpha() and word.islower() for word in words), category


def test_no_word_is_in_two_categories_or_names_one():
    counts = Counter(word for words in CATEGORIES.values() for word in words)
    assert [word for word, count in counts.items() if count > 1] == []
    assert not set(counts) & set(CATEGORIES)


def test_one_word_of_each_category_is_held_out():
    assert [len(HELD_OUT & set(words)) for words in CATEGORIES.values()] == [1] * len(CATEGORIES)
    assert {"nectarine", "rutabaga", "lighthouse"} <= HELD_OUT
