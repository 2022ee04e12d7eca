"""Category counting: "how many of these words are fruits?", answered by the one token after "(".

    Type: fruits
    List: [apple dog pear]
    Answer: (2

The generator gives exact answers and says of each item what makes it hard. A tiny Llama is shipped that was
trained with those difficulties left out, so that each of its errors has a known cause.

- `words`: the categories, their words, and the words no training list ever shows;
- `generator`: items, their labels, and the balanced test set `test.jsonl`;
- `train`: the script that reproduces the shipped model in `model/` (needs torch and transformers).
"""

from pathlib import Path

__all__ = ["demo_model_folder", "shipped_test_set"]

_HERE = Path(__file__).resolve().parent


def demo_model_folder() -> Path:
    """Return the folder of the shipped counting model, a plain Hugging Face Llama of 1.2 MB."""
    return _HERE / "model"


def shipped_test_set() -> Path:
    """Return the shipped test set, one JSON object a line; `generator.row` says what is in it."""
    return _HERE / "test.jsonl"
