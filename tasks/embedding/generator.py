"""The data of the two embedding tasks, pure and seeded.

`python -m tasks.embedding.generator --out DIR` writes the shipped files again, byte for byte.
"""

import json
import random
from collections.abc import Sequence
from pathlib import Path

import click

from tasks.counting.generator import draw
from tasks.counting.words import CATEGORIES
from tasks.embedding import FOLDERS

SEED = 0

LENGTH = 5
"""Words in each list to count in, so that the answers are 0..5 and the number of words tells nothing."""

REPEATS = {"train": 4, "test": 10}
"""How often each pair of category and answer occurs in a split of `ListCountClassification`."""

Row = dict[str, str | int]


def word_rows(seed: int) -> list[Row]:
    """Return each of the 200 words once, as the only word of a list, in random order: sentences and labels."""
    rows: list[Row] = [
        {"sentences": f"List: [{word}]", "labels": category} for category, words in CATEGORIES.items() for word in words
    ]
    random.Random(seed).shuffle(rows)
    return rows


def count_rows(seed: int) -> dict[str, list[Row]]:
    """Return the splits train and test of counting questions: text, and as label the answer 0..`LENGTH`.

    Each pair of category and answer is equally frequent in a split, and no text occurs twice in the two.
    """
    rng = random.Random(seed)
    seen: set[str] = set()
    splits: dict[str, list[Row]] = {}
    for split, repeats in REPEATS.items():
        rows: list[Row] = []
        for category, answer in [(c, a) for c in CATEGORIES for a in range(LENGTH + 1)] * repeats:
            text = draw(rng, category, LENGTH, answer).prompt
            while text in seen:
                text = draw(rng, category, LENGTH, answer).prompt
            seen.add(text)
            rows.append({"text": text, "label": answer})
        rng.shuffle(rows)
        splits[split] = rows
    return splits


def write(path: Path, rows: Sequence[Row]) -> None:
    """Write rows to `path`, one JSON object a line, the same bytes on every system."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(("\n".join(map(json.dumps, rows)) + "\n").encode("ascii"))


@click.command()
@click.option("--seed", default=SEED, show_default=True, help="Seed of the generator.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), required=True, help="Folder to write.")
def main(seed: int, out: Path) -> None:
    """Write the data of the two embedding tasks as JSON lines; the default seed gives the shipped files.

    Example: python -m tasks.embedding.generator --out fresh
    """
    files = {f"{FOLDERS['WordCategoryClustering']}/test.jsonl": word_rows(seed)}
    for split, rows in count_rows(seed).items():
        files[f"{FOLDERS['ListCountClassification']}/{split}.jsonl"] = rows
    for name, rows in files.items():
        try:
            write(out / name, rows)
        except OSError as error:
            raise click.ClickException(str(error)) from error
        click.echo(f"{len(rows)} rows -> {out / name}", err=True)


if __name__ == "__main__":
    main()
