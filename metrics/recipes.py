"""The named influences: of each, what a block's matrix is, how blocks are joined, and which rows are read.

docs/influence.md has the equations; `metrics.influence` computes them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Join = Literal["rollout", "mean", "geometric", "product", "flow"]
Residual = Literal["share", "norm", "norm1", "projection", "cosine"]
Field = Literal["none", "column", "element"]
Rows = Literal["last", "mean", "max"]
Layers = Literal["uniform", "state", "lens"]

POSITIONS = 2048
"""A text of more positions, prompt included, has no influences: they are NaN."""

FLOW_TOKENS = 128
"""A continuation of more tokens has no attention flow, for each token takes a maximum flow of its own."""


@dataclass(frozen=True)
class Recipe:
    """How an influence is computed.

    Attributes:
        summary: one line for people.
        join: how blocks are joined: the product of matrices with a residual share (``rollout``), their mean, the
            geometric mean of ``floor + (1 - floor) A``, the product of the same, or the maximum flow through them.
        rows: which rows are read: the last, the mean over the rows that can see a token, or their maximum.
        of: what a block's matrix is made of: attention weights, averaged over heads, their maximum over heads, or
            the norms of what is carried over, heads summed.
        residual: how a rollout divides a row between the residual stream and attention.
        share: of the residual stream, where `residual` is ``share``.
        field: by what a rollout divides attention before it renormalises rows: nothing, the number of positions that
            can see a key, or the distance to it.
        layers: what the mean weights blocks by: nothing, position by position how far the block turned the state, or
            how much it changed the lens at the last position (`lens_change`), known once the text has been read.
        floor: added to attention before logarithms.
    """

    summary: str
    join: Join
    rows: Rows
    of: Literal["attention", "greatest", "norms"] = "attention"
    residual: Residual = "share"
    share: float = 0.5
    field: Field = "none"
    layers: Layers = "uniform"
    floor: float = 0.01

    @property
    def matrix(self) -> tuple[object, ...]:
        """All but the rows: recipes that agree in it share what is folded."""
        return (self.join, self.of, self.residual, self.share, self.field, self.layers, self.floor)


RECIPES: Mapping[str, Recipe] = {
    "rollout": Recipe("Attention rollout, residual share 0.5, last row.", "rollout", "last"),
    "rollout_mean": Recipe("Attention rollout, mean over the rows that can see the token.", "rollout", "mean"),
    "rollout_max": Recipe("Attention rollout, maximum over rows.", "rollout", "max"),
    "rollout_residual": Recipe("Rollout with residual share 0.9, mean over rows.", "rollout", "mean", share=0.9),
    "rollout_column": Recipe("Rollout, columns by receptive field, mean over rows.", "rollout", "mean", field="column"),
    "rollout_element": Recipe("Rollout, elements by distance, mean over rows.", "rollout", "mean", field="element"),
    "rollout_norm": Recipe("Rollout, shares by Euclidean norms, mean over rows.", "rollout", "mean", residual="norm"),
    "rollout_norm_element": Recipe(
        "Rollout, shares by Euclidean norms, elements by distance, mean over rows.",
        "rollout",
        "mean",
        residual="norm",
        field="element",
    ),
    "rollout_projection": Recipe(
        "Rollout, shares by projections onto their sum, mean over rows.", "rollout", "mean", residual="projection"
    ),
    "rollout_cosine": Recipe(
        "Rollout, attention's share by the angle it turns the state, mean over rows.",
        "rollout",
        "mean",
        residual="cosine",
    ),
    "influence_guide": Recipe("GUIDE's Influence: shares by L1 norms, last row.", "rollout", "last", residual="norm1"),
    "value_norms": Recipe(
        "Norms of attention-weighted values, mean over blocks and over rows.", "mean", "mean", of="norms"
    ),
    "value_norms_rollout": Recipe(
        "Norms of attention-weighted values, rollout, mean over rows.", "rollout", "mean", of="norms"
    ),
    "additive_mean": Recipe("Mean of attention over blocks, mean over rows.", "mean", "mean"),
    "additive_max": Recipe("Mean of attention over blocks, maximum over rows.", "mean", "max"),
    "additive_state": Recipe(
        "Mean over blocks weighted by how far each turns the state, mean over rows.", "mean", "mean", layers="state"
    ),
    "additive_lens": Recipe(
        "Mean over blocks weighted by how much each changes the last position's lens, mean over rows.",
        "mean",
        "mean",
        layers="lens",
    ),
    "geometric_max": Recipe("Geometric mean of attention over blocks, maximum over rows.", "geometric", "max"),
    "macs": Recipe("MACS: product over blocks, last row.", "product", "last", of="greatest", floor=0.8),
    "macs_max": Recipe("MACS's product, maximum over rows.", "product", "max", of="greatest", floor=0.8),
    "attention_flow": Recipe("Maximum flow from the last row to the token.", "flow", "last"),
}
"""Every named influence; each is a raw signal of cost ``influence``."""
