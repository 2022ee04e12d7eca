"""Layer indices: what users write, and the integers it means.

Layer 0 is the embedding output and layer k the output of block k, so a model of L blocks has L + 1 layers.
"""

from __future__ import annotations

import json
from collections.abc import Sequence


def select(text: str | int | float | Sequence[int | float | str], blocks: int) -> tuple[int, ...]:
    """The layers that a selection names, ascending and without repeats.

    Args:
        text: ``all``, ``last:4``, or entries joined by ``+`` or ``,`` (or a list, also as JSON): an integer is an
            index, negative from the end; a number with a decimal point in [0, 1] is a depth, 0 the embedding output
            and 1 the last block, rounded to the nearest layer (halves to the even one); a whole negative such as
            ``-1.0`` is an index, for lm-eval turns -1 into it.
        blocks: the number L of blocks.

    Raises:
        ValueError: an entry is no number, or lies outside 0..L, or there is none.

    >>> select("0+4+-1", 12)
    (0, 4, 12)
    >>> select(0.5, 24), select("last:2", 4)
    ((12,), (3, 4))
    """
    if isinstance(text, str):
        text = text.strip()
        if text == "all":
            return tuple(range(blocks + 1))
        if text.startswith("last:"):
            count = text[5:]
            if not count.isdecimal() or not 1 <= int(count) <= blocks + 1:
                raise ValueError(f"layers '{text}': after 'last:' comes a number from 1 to {blocks + 1}")
            return tuple(range(blocks + 1 - int(count), blocks + 1))
        entries = _json(text) if text.startswith("[") else text.replace(",", "+").split("+")
    elif isinstance(text, (int, float)):
        entries = [text]
    else:
        entries = list(text)
    if not entries:
        raise ValueError("no layer is named; give indices such as 0+4+-1, depths such as 0.5, 'last:4' or 'all'")
    return tuple(sorted({_index(entry, blocks) for entry in entries}))


def _json(text: str) -> list[int | float | str]:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"layers '{text}' is not a JSON list: {error}") from None


def _index(entry: int | float | str, blocks: int) -> int:
    text = str(entry).strip()
    try:
        number = float(text)
        whole = number == int(number)
    except (ValueError, OverflowError):  # int() of nan and of inf
        raise ValueError(
            f"layer '{text}' is not a number; give indices such as 0+4+-1, depths such as 0.5, 'last:4' or 'all'"
        ) from None
    if ("." in text or not whole) and 0 <= number <= 1:
        return round(number * blocks)
    if not whole:
        raise ValueError(f"layer {text} is neither an index nor a depth in [0, 1]")
    index = int(number) + (blocks + 1 if number < 0 else 0)
    if not 0 <= index <= blocks:
        raise ValueError(f"layer {text} is outside 0..{blocks} of this model of {blocks} blocks (0 = embeddings)")
    return index
