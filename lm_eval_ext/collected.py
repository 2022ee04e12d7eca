"""Signals of some texts as they come, piece by piece and layer by layer, put together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from lm_eval_ext.padded import Sequences
from metrics.core import signals

Found = list[dict[str, Tensor]]
"""The signals of each text."""


class Collected:
    """Signals of some texts as they come, piece by piece and layer by layer."""

    def __init__(self, sequences: Sequences, in_pieces: bool) -> None:
        self._lengths = [(len(prompt), len(continuation)) for prompt, continuation in sequences]
        self._in_pieces = in_pieces
        self._held: dict[tuple[str, int], dict[int, list[Tensor]]] = {}
        self._sums: dict[tuple[str, int], dict[int, Tensor]] = {}
        self._parts: list[dict[tuple[str, int], list[Tensor]]] = [{} for _ in sequences]

    def add(self, row: int, made: dict[str, Tensor], layer: int = 0) -> None:
        """The next piece of some signals of a text, of one layer where they have layers."""
        for name, value in made.items():
            self._parts[row].setdefault((name, layer), []).append(value)

    def hold(self, name: str, layer: int, row: int, piece: Tensor) -> None:
        """The next piece of a layer's raw tensor of a text, a copy: all layers are held until the last piece."""
        pieces = self._held.setdefault((name, layer), {}).setdefault(row, [])
        pieces.append(piece.cpu().clone() if self._in_pieces else piece)

    def held(self, name: str, layer: int, dim: int = 0) -> Iterator[tuple[int, Tensor]]:
        """What was held of a layer that has been read to its end, a text at a time, its pieces joined along `dim`."""
        for row, parts in self._held.pop((name, layer), {}).items():
            yield row, parts[0] if len(parts) == 1 else torch.cat(parts, dim)

    def sum(self, name: str, layer: int, row: int, piece: Tensor) -> None:
        """Add a piece over keys ``[..., key]`` to a layer's sum of a text; later pieces know more keys."""
        sums = self._sums.setdefault((name, layer), {})
        before = sums.get(row)
        missing = 0 if before is None else piece.shape[-1] - before.shape[-1]
        sums[row] = piece if before is None else piece + nn.functional.pad(before, (0, missing))

    def summed(self, name: str, layer: int) -> dict[int, Tensor]:
        """The sums of a layer that has been read to its end, by text."""
        return self._sums.pop((name, layer), {})

    def whole(self) -> Found:
        """The signals of each text: pieces end to end, layers stacked, on the CPU."""
        found: Found = []
        for row, by_layer in enumerate(self._parts):
            layers: dict[str, list[Tensor]] = {}
            for (name, _), parts in sorted(by_layer.items()):
                layers.setdefault(name, []).append(self._end_to_end(row, name, parts).cpu())
            found.append({name: torch.cat(parts) for name, parts in layers.items()})
        return found

    def _end_to_end(self, row: int, name: str, parts: Sequence[Tensor]) -> Tensor:
        """One layer's pieces; NaN for a step or a position that was not read, no weight on keys behind a piece."""
        prompt, continuation = self._lengths[row]
        axes = signals()[name].axes
        if "key" in axes:
            nothing = 0.0 if "step" in axes else torch.nan
            parts = [nn.functional.pad(p, (0, prompt + continuation - p.shape[-1]), value=nothing) for p in parts]
        if "step" in axes:
            dim = axes.index("step")
            return to_steps(torch.cat(list(parts), dim), dim, continuation)
        if "token" in axes:
            return torch.cat(list(parts), axes.index("token"))
        (only,) = parts
        return only


def to_steps(value: Tensor, dim: int, tokens: int) -> Tensor:
    """One step more than tokens: NaN where the last was not read."""
    missing = tokens + 1 - value.shape[dim]
    shape = [missing if i == dim else size for i, size in enumerate(value.shape)]
    return torch.cat([value, value.new_full(shape, torch.nan)], dim) if missing else value
