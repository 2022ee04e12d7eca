"""Two small embedding tasks in the vocabulary of the counting model; `README.md` says what its layers make of them.

- `word_category_clustering/`: 200 words, each in a list by itself, to be grouped into ten categories;
- `list_count_classification/`: questions of the counting task, to be told apart by their answer;
- `generator`: writes both, byte for byte.

Each folder is one that `datasets.load_dataset` reads. `mteb_ext.shipped_tasks` makes MTEB tasks of them.
"""

from pathlib import Path

__all__ = ["FOLDERS", "REVISION", "data_folder"]

REVISION = "1.0"
"""Version of the data, which MTEB stores with each score; raised when a file changes."""

FOLDERS = {
    "WordCategoryClustering": "word_category_clustering",
    "ListCountClassification": "list_count_classification",
}
"""MTEB task name to the folder of its data."""


def data_folder(task: str) -> Path:
    """Return the folder of a shipped task's data; `KeyError` for a task that is not in `FOLDERS`."""
    return Path(__file__).resolve().parent / FOLDERS[task]
