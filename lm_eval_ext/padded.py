"""Texts of unequal length in one tensor, and where in the piece that is being read each one's positions stand."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from transformers import DynamicCache

Sequences = Sequence[tuple[Sequence[int], Sequence[int]]]
"""Pairs of prompt ids and continuation ids, each of at least one token."""


class Batch:
    """Texts padded on the right, and where in the piece that is being read each one's steps stand."""

    def __init__(self, sequences: Sequences, most: int | None) -> None:
        self._first = [len(prompt) - 1 for prompt, _ in sequences]
        self._read = [len(p) + len(c) - (len(p) + len(c) - 1 == most) for p, c in sequences]
        self._ids = torch.zeros((len(sequences), max(self._read)), dtype=torch.long)
        self._mask = torch.zeros_like(self._ids)
        for row, (n, (prompt, continuation)) in enumerate(zip(self._read, sequences)):
            self._ids[row, :n] = torch.tensor([*prompt, *continuation][:n])
            self._mask[row, :n] = 1
        self.width = self._ids.shape[1]
        self.start, self.stop = 0, self.width

    def read(self, module: Callable[..., Any], device: torch.device, piece: int) -> Iterator[Any]:
        """Run the module over the batch, piece by piece, and hand out what it returns."""
        width = self.width
        ids, mask = self._ids.to(device), self._mask.to(device)
        if piece >= width:
            yield module(input_ids=ids, attention_mask=mask, use_cache=False)
            return
        cache = DynamicCache()
        for start in range(0, width, piece):
            self.start, self.stop = start, min(start + piece, width)
            now = ids[:, self.start : self.stop]
            yield module(input_ids=now, attention_mask=mask[:, : self.stop], past_key_values=cache, use_cache=True)

    def steps(self) -> Iterator[tuple[int, int, int]]:
        """(row, begin, end) of the positions in this piece that are steps of a continuation: from P - 1 on."""
        for row, (first, n) in enumerate(zip(self._first, self._read)):
            begin, end = max(first, self.start), min(n, self.stop)
            if begin < end:
                yield row, begin, end

    def rows(self) -> Iterator[tuple[int, int, int]]:
        """(row, begin, end) of all positions in this piece that were read of a text, those of its prompt too."""
        for row, n in enumerate(self._read):
            end = min(n, self.stop)
            if self.start < end:
                yield row, self.start, end

    def continuations(self) -> dict[int, tuple[int, int]]:
        """By row, where the continuation of a text begins, and where what is read of it ends."""
        return {row: (first + 1, n) for row, (first, n) in enumerate(zip(self._first, self._read))}

    @property
    def ended(self) -> bool:
        """Whether this piece is the last."""
        return self.stop == self.width
