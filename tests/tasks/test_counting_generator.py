"""The generator: exact answers, true labels, flat distributions, the same items for the same seed."""

import json
import random
from collections import Counter

import pytest
from click.testing import CliRunner
from scipy.stats import chisquare

from tasks.counting import shipped_test_set
from tasks.counting.generator import (
    TEST_SEED,
    TEST_SIZE,
    balanced,
    draw,
    generate,
    label,
    main,
    read,
    row,
    write,
)
from tasks.counting.words import CATEGORIES, HELD_OUT

LIKELY = 1e-4  # a p-value below this is a skewed generator, not chance


@pytest.fixture(scope="module")
def items():
    return generate(3, 20_000)


def slow_count(prompt):
    """Count from the text of the prompt alone, word by word, against the printed table."""
    asked = prompt.split("Type: ")[1].split("\n")[0]
    total = 0
    for word in prompt[prompt.index("[") + 1 : prompt.index("]")].split(" "):
        for known in CATEGORIES[asked]:
            if word == known:
                total += 1
    return total


def test_answers_are_exact(items):
    for item in [*items, *read(shipped_test_set())]:
        assert item.answer == slow_count(item.prompt)


def test_the_prompt_is_the_documented_one():
    item = label("fruits", ["apple", "dog", "pear"])
    assert item.prompt == "Type: fruits\nList: [apple dog pear]\nAnswer: ("
    assert item.answer == 2


@pytest.mark.parametrize(
    ("words", "causes", "cause"),
    [
        ("apple dog pear", (), "none"),
        ("apple nectarine pear", ("unseen_member",), "unseen_member"),
        ("apple rutabaga pear", ("unseen_distractor",), "unseen_distractor"),
        ("nectarine rutabaga pear", ("unseen_member", "unseen_distractor"), "several"),
        ("dog cat horse cow lion tiger elephant sheep", (), "none"),
        ("dog cat horse cow lion tiger elephant sheep pig", ("unseen_length",), "unseen_length"),
        ("dog cat horse cow lion tiger elephant sheep nectarine", ("unseen_member", "unseen_length"), "several"),
    ],
)
def test_what_makes_an_item_hard(words, causes, cause):
    item = label("fruits", words.split())
    assert (item.causes, item.cause) == (causes, cause)


def test_labels_agree_with_a_second_reading_of_the_words(items):
    for item in items:
        flags = row(0, item)
        members = [word for word in item.words if word in CATEGORIES[item.category]]
        others = [word for word in item.words if word not in CATEGORIES[item.category]]
        assert flags["unseen_member"] == bool(HELD_OUT.intersection(members))
        assert flags["unseen_distractor"] == bool(HELD_OUT.intersection(others))
        assert flags["unseen_length"] == (len(item.words) in (9, 10))
        assert (flags["cause"] == "none") == (not item.causes)


def test_no_list_repeats_a_word(items):
    assert all(len(set(item.words)) == len(item.words) for item in items)


def test_one_seed_gives_one_set_and_leaves_the_global_generator_alone():
    random.seed(5)
    expected = random.random()
    random.seed(5)
    first = generate(7, 200)
    assert random.random() == expected
    assert first == generate(7, 200)
    assert first != generate(8, 200)
    assert balanced(7, 80) == balanced(7, 80)
    assert balanced(7, 80) != balanced(8, 80)


def test_categories_lengths_answers_and_words_are_uniform(items):
    categories = Counter(item.category for item in items)
    lengths = Counter(len(item.words) for item in items)
    assert set(lengths) == set(range(3, 11))
    assert chisquare([categories[name] for name in CATEGORIES]).pvalue > LIKELY
    assert chisquare(list(lengths.values())).pvalue > LIKELY
    for length in lengths:
        answers = Counter(item.answer for item in items if len(item.words) == length)
        assert chisquare([answers[answer] for answer in range(length + 1)]).pvalue > LIKELY
    # Members of an asked category: drawn without replacement, so a little flatter than chi-square supposes.
    members = Counter(
        word for item in items if item.category == "fruits" for word in item.words if word in CATEGORIES["fruits"]
    )
    assert chisquare([members[word] for word in CATEGORIES["fruits"]]).pvalue > LIKELY


def test_the_bound_on_flatness_can_fail():
    skewed = generate(3, 20_000, skew=0.3)
    members = Counter(
        word for item in skewed if item.category == "fruits" for word in item.words if word in CATEGORIES["fruits"]
    )
    assert chisquare([members[word] for word in CATEGORIES["fruits"]]).pvalue < LIKELY


def test_members_stand_anywhere_in_the_list():
    rng = random.Random(0)
    where = Counter()
    for _ in range(5_000):
        words = draw(rng, "jobs", 5, 1).words
        where[next(i for i, word in enumerate(words) if word in CATEGORIES["jobs"])] += 1
    assert chisquare([where[place] for place in range(5)]).pvalue > LIKELY


def test_training_lists_hold_back_what_they_promise():
    items = generate(0, 3_000, longest=8, held_out=False, skew=1.0)
    assert all(item.cause == "none" for item in items)
    seen = Counter(word for item in items for word in item.words)
    assert seen["apple"] > 2 * seen["grapefruit"] > 0  # ranks 1 and 19 of the fruits
    assert not HELD_OUT & set(seen)


def test_a_balanced_set_is_balanced():
    items = balanced(1, 160)
    assert set(Counter((item.category, len(item.words)) for item in items).values()) == {2}
    for length in range(3, 11):
        answers = Counter(item.answer for item in items if len(item.words) == length)
        assert set(answers) == set(range(length + 1))
        assert max(answers.values()) - min(answers.values()) <= 1
    assert len({(item.category, item.words) for item in items}) == 160
    assert len({len(item.words) for item in items[:40]}) > 4, "a --limit run must see a mixture"


@pytest.mark.parametrize("size", [0, -80, 81])
def test_a_set_that_cannot_be_balanced_is_refused(size):
    with pytest.raises(ValueError, match=f"size is {size}"):
        balanced(0, size)


@pytest.mark.parametrize(
    ("category", "words", "message"),
    [
        ("cheeses", ["apple"], "unknown category 'cheeses'"),
        ("fruits", ["apple", "brie"], "'brie' is in no category"),
        ("fruits", ["apple", "dog", "apple"], "repeat"),
    ],
)
def test_wrong_lists_are_named(category, words, message):
    with pytest.raises(ValueError, match=message):
        label(category, words)


def test_impossible_draws_are_named():
    with pytest.raises(ValueError, match="cannot hold 4"):
        draw(random.Random(0), "fruits", 3, 4)
    with pytest.raises(ValueError, match="asked for 20 different words"):
        draw(random.Random(0), "fruits", 20, 20, held_out=False)


def test_the_shipped_file_is_what_the_generator_makes(tmp_path):
    result = CliRunner().invoke(main, ["--out", str(tmp_path / "again.jsonl")])
    assert result.exit_code == 0, result.output
    assert (tmp_path / "again.jsonl").read_bytes() == shipped_test_set().read_bytes()
    assert shipped_test_set().stat().st_size < 400_000
    assert read(shipped_test_set()) == balanced(TEST_SEED, TEST_SIZE)


def test_a_tampered_file_is_refused(tmp_path):
    path = tmp_path / "items.jsonl"
    write(path, [label("fruits", ["apple", "dog", "pear"])])
    assert read(path) == [label("fruits", ["apple", "dog", "pear"])]
    stored = json.loads(path.read_text())
    path.write_text(json.dumps({**stored, "answer": 3}))
    with pytest.raises(ValueError, match="line 1"):
        read(path)


def test_the_command_names_a_wrong_size_in_one_line(tmp_path):
    result = CliRunner().invoke(main, ["--size", "100", "--out", str(tmp_path / "x.jsonl")])
    assert result.exit_code == 1
    assert "multiple of 80" in result.output
    assert "Traceback" not in result.output
