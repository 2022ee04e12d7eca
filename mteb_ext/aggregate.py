"""One embedding from the rows of one or several layers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mteb_ext.digest import short

KINDS = ("mean", "concat", "weighted")


@dataclass(frozen=True)
class Aggregate:
    """Which layers, and how they become one embedding: (layers, n, d) -> (n, d').

    Attributes:
        kind: ``layer`` (one layer as it is), ``mean``, ``concat`` (d' = layers x d, in ascending order of layers) or
            ``weighted`` (the weighted mean, weights summing to one).
    """

    kind: str
    layers: tuple[int, ...]
    weights: tuple[float, ...] = ()

    def __call__(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """The embeddings of the rows (layers, n, d), in the order of `layers`."""
        if self.kind == "layer":
            return rows[0]
        if self.kind == "mean":
            return rows.mean(0, dtype=np.float64).astype(np.float32)
        if self.kind == "concat":
            return np.ascontiguousarray(rows.transpose(1, 0, 2)).reshape(rows.shape[1], -1)
        total = np.zeros(rows.shape[1:])
        for weight, layer in zip(self.weights, rows):
            total += weight * layer.astype(np.float64)
        return total.astype(np.float32)

    def kwargs(self) -> dict[str, Any]:
        """What tells this aggregate from every other, in JSON scalars."""
        if self.kind == "layer":
            return {"layer": self.layers[0]}
        named = {"aggregate": self.kind, "layers": "-".join(map(str, self.layers))}
        return {**named, "weights": short([f"{w:.12g}" for w in self.weights])} if self.weights else named


def make_aggregate(kind: str | None, layers: Sequence[int], weights: dict[int, float] | None = None) -> Aggregate:
    """The aggregate in its one canonical form: a mean or a concatenation of one layer is that layer.

    Args:
        kind: ``mean``, ``concat``, ``weighted``, or None for a single layer.
        layers: indices, ascending.
        weights: weight by layer for ``weighted``; layers of weight zero are left out.

    Raises:
        ValueError: weights for other layers than those chosen, or weights that are not finite or sum to zero.
    """
    if kind != "weighted":
        return Aggregate("layer" if len(layers) == 1 else kind or "mean", tuple(layers))
    weights = weights or {}
    strange = sorted(set(weights) - set(layers))
    if strange:
        raise ValueError(f"weights are given for layers {strange}, which are not among {list(layers)}")
    used = [layer for layer in layers if weights.get(layer, 0.0) != 0]
    total = sum(weights[layer] for layer in used)
    if not np.isfinite(total) or abs(total) <= 1e-12 * sum(abs(weights[layer]) for layer in used):
        raise ValueError(f"weights {weights} must be finite and must not sum to zero")
    if len(used) == 1:
        return Aggregate("layer", tuple(used))
    return Aggregate("weighted", tuple(used), tuple(weights[layer] / total for layer in used))


def read_weights(path: Path, blocks: int) -> dict[int, float]:
    """Weights by layer from a JSON file: a list of L + 1 numbers, or an object such as ``{"3": 0.2, "-1": 0.8}``.

    Raises:
        ValueError: the file is neither, or names a layer the model does not have.
    """
    shape = f"a list of {blocks + 1} numbers (layers 0..{blocks}), or an object of layer: weight"
    try:
        held = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=tuple)  # pairs, to see a layer twice
    except (OSError, ValueError) as problem:
        raise ValueError(f"weights={path} cannot be read ({problem}); it holds {shape}") from None
    pairs = held if isinstance(held, tuple) else enumerate(held) if isinstance(held, list) else None
    if pairs is None or (isinstance(held, list) and len(held) != blocks + 1):
        raise ValueError(f"weights={path} does not hold {shape}")
    found: dict[int, float] = {}
    for layer, weight in pairs:
        try:
            index = int(layer)
            number = float(weight)
        except (TypeError, ValueError):
            raise ValueError(f"weights={path}: {layer}: {weight} is not a layer and a number") from None
        index += blocks + 1 if index < 0 else 0
        if not 0 <= index <= blocks or index in found:
            raise ValueError(f"weights={path}: layer {layer} is not one of 0..{blocks}, or is there twice")
        found[index] = number
    return found
