"""Counting items with exact answers, each labelled with what makes it hard; pure and seeded.

`python -m tasks.counting.generator --seed 0 --out test.jsonl` writes the shipped test set again, byte for
byte.
"""

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from pathlib import Path

import click

from tasks.counting.words import CATEGORIES, HELD_OUT

CAUSES = ("unseen_member", "unseen_distractor", "unseen_length")
"""What can make an item hard for a model trained on this task, in the order of `Item.causes`.

- `unseen_member`: a held-out word belongs to the asked category; not knowing it, a model counts one too few;
- `unseen_distractor`: a held-out word belongs to another category; a model may count it by mistake;
- `unseen_length`: the list is longer than `TRAINED_LENGTH`, so are, at times, the counts.
"""

SHORTEST, LONGEST, TRAINED_LENGTH = 3, 10, 8
"""Lists have 3 to 10 words; training stops at 8."""

TEST_SEED, TEST_SIZE = 0, 1200
"""The seed and the number of items of the shipped test set."""


@dataclass(frozen=True)
class Item:
    """One question: how many of `words` belong to `category`? `label` makes it and fills in the rest."""

    category: str
    words: tuple[str, ...]
    answer: int
    causes: tuple[str, ...]

    @property
    def cause(self) -> str:
        """The one cause in `causes`, or "none", or "several"."""
        if len(self.causes) > 1:
            return "several"
        return self.causes[0] if self.causes else "none"

    @property
    def prompt(self) -> str:
        """The question as the model reads it, also in `tasks/lm_eval`; the next token is the answer."""
        return f"Type: {self.category}\nList: [{' '.join(self.words)}]\nAnswer: ("


def label(category: str, words: Sequence[str]) -> Item:
    """Return the item that asks for `category` in `words`, with its exact answer and what makes it hard.

    Raises `ValueError` for an unknown category, an unknown word or a word that occurs twice.
    """
    if category not in CATEGORIES:
        raise ValueError(f"unknown category {category!r}; there are {', '.join(CATEGORIES)}")
    home = _home()
    if unknown := [word for word in words if word not in home]:
        raise ValueError(f"{unknown[0]!r} is in no category of tasks.counting.words; add it there first")
    if len(set(words)) < len(words):
        raise ValueError(f"a list must not repeat a word: {' '.join(words)}")
    present = {
        "unseen_member": any(word in HELD_OUT and home[word] == category for word in words),
        "unseen_distractor": any(word in HELD_OUT and home[word] != category for word in words),
        "unseen_length": len(words) > TRAINED_LENGTH,
    }
    answer = sum(home[word] == category for word in words)
    return Item(category, tuple(words), answer, tuple(cause for cause in CAUSES if present[cause]))


def draw(
    rng: random.Random, category: str, length: int, answer: int, *, held_out: bool = True, skew: float = 0.0
) -> Item:
    """Draw a list of `length` words of which `answer` belong to `category`, in random order, none twice.

    A word's weight is its rank within its own category to the power `-skew`: 0 draws all words alike, 1
    follows Zipf's law. `held_out=False` leaves out the held-out words. Raises `ValueError` where there are
    too few words.
    """
    if not 0 <= answer <= length:
        raise ValueError(f"a list of {length} words cannot hold {answer} of a category")
    words = _distinct(rng, *_pool(category, True, held_out, skew), answer)
    words += _distinct(rng, *_pool(category, False, held_out, skew), length - answer)
    rng.shuffle(words)
    return label(category, words)


def generate(seed: int, size: int, *, longest: int = LONGEST, held_out: bool = True, skew: float = 0.0) -> list[Item]:
    """Return `size` independent items, the same ones for the same seed.

    The category is uniform, the length uniform in 3..`longest`, the answer uniform in 0..length. The other
    keywords are those of `draw`.
    """
    rng = random.Random(seed)
    names = list(CATEGORIES)
    items = []
    for _ in range(size):
        category, length = rng.choice(names), rng.randint(SHORTEST, longest)
        items.append(draw(rng, category, length, rng.randint(0, length), held_out=held_out, skew=skew))
    return items


def balanced(seed: int, size: int) -> list[Item]:
    """Return `size` different items, each pair of category and length equally often, in random order.

    Within a length the answers 0..length are equally frequent, give or take one. `size` must be a multiple of
    the number of pairs (80), else `ValueError`.
    """
    rng = random.Random(seed)
    lengths = range(SHORTEST, LONGEST + 1)
    pairs = len(CATEGORIES) * len(lengths)
    if size <= 0 or size % pairs:
        raise ValueError(f"size is {size}, but a balanced set needs a positive multiple of {pairs}")
    items: dict[tuple[str, tuple[str, ...]], Item] = {}
    for length in lengths:
        categories = list(CATEGORIES) * (size // pairs)
        answers = [i % (length + 1) for i in range(len(categories))]
        rng.shuffle(answers)
        for category, answer in zip(categories, answers):
            item = draw(rng, category, length, answer)
            while (category, item.words) in items:
                item = draw(rng, category, length, answer)
            items[category, item.words] = item
    shuffled = list(items.values())
    rng.shuffle(shuffled)
    return shuffled


def row(number: int, item: Item) -> dict[str, object]:
    """Return the item as a flat JSON row: id, category, words, length, answer, cause, a flag per cause."""
    flags = {cause: cause in item.causes for cause in CAUSES}
    return {
        "id": number,
        "category": item.category,
        "words": list(item.words),
        "length": len(item.words),
        "answer": item.answer,
        "cause": item.cause,
        **flags,
    }


def write(path: Path, items: Sequence[Item]) -> None:
    """Write items to `path`, one JSON row a line, the same bytes on every system."""
    lines = [json.dumps(row(number, item)) for number, item in enumerate(items)]
    path.write_bytes(("\n".join(lines) + "\n").encode("ascii"))


def read(path: Path) -> list[Item]:
    """Read what `write` wrote; `ValueError` where an answer or a cause is not what the words give."""
    items = []
    for number, line in enumerate(path.read_text(encoding="ascii").splitlines()):
        stored = json.loads(line)
        item = label(stored["category"], stored["words"])
        if row(number, item) != stored:
            raise ValueError(f"{path}, line {number + 1}: stored {stored}, but it should be {row(number, item)}")
        items.append(item)
    return items


@cache
def _home() -> dict[str, str]:
    """Word to its category."""
    return {word: category for category, words in CATEGORIES.items() for word in words}


@cache
def _pool(category: str, inside: bool, held_out: bool, skew: float) -> tuple[list[str], list[float]]:
    """Words of the category (or of all others) and their cumulative weights."""
    ranked = [
        (word, rank**-skew)
        for name, words in CATEGORIES.items()
        if (name == category) == inside
        for rank, word in enumerate(words, start=1)
        if held_out or word not in HELD_OUT
    ]
    return [word for word, _ in ranked], list(accumulate(weight for _, weight in ranked))


def _distinct(rng: random.Random, words: list[str], cumulative: list[float], size: int) -> list[str]:
    """Draw `size` different words, one after the other, by weight."""
    if size > len(words):
        raise ValueError(f"asked for {size} different words, but the category has {len(words)}")
    drawn: dict[str, None] = {}
    while len(drawn) < size:
        drawn[rng.choices(words, cum_weights=cumulative)[0]] = None
    return list(drawn)


@click.command()
@click.option("--seed", default=TEST_SEED, show_default=True, help="Seed of the generator.")
@click.option("--size", default=TEST_SIZE, show_default=True, help="Number of items, a multiple of 80.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), required=True, help="File to write.")
def main(seed: int, size: int, out: Path) -> None:
    """Write a balanced set of counting items as JSON lines; the defaults give the shipped test set.

    Example: python -m tasks.counting.generator --seed 1 --size 800 --out fresh.jsonl
    """
    try:
        write(out, balanced(seed, size))
    except (ValueError, OSError) as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"{size} items -> {out}", err=True)


if __name__ == "__main__":
    main()
