"""Token influence: from what every block did with a text to one weight a token of its continuation.

Each *recipe* says what one block's matrix is, how matrices of blocks are joined, and which rows of the result are read.
A text of ``N`` positions, ``P`` of them prompt, has ``n = N - P`` tokens of continuation. Attention is causal, so what
positions of the continuation pass on to each other goes through positions of the continuation alone: all that is
folded are the squares of ``n`` at the lower right of the squares of ``N``, one block at a time, and only the rows of
the continuation are needed of a block. Whatever normalises a row sees the whole row, prompt included.

Pure: neither model nor files. `lm_eval_ext.influence` takes the blocks out of a model; docs/influence.md has the
equations together.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from metrics.flow import max_flows
from metrics.recipes import FLOW_TOKENS, RECIPES, Field, Recipe, Residual, Rows


@dataclass(frozen=True)
class Block:
    """What one block did at the positions of the continuation, in single precision.

    Attributes:
        attention: ``[token, key]``, weights averaged over heads, all N keys.
        greatest: ``[token, key]``, the maximum over heads.
        norms: ``[token, key]``, `value_norms`; None where no recipe needs them.
        before: ``[token, dim]``, the residual stream that the block read.
        output: ``[token, dim]``, what its attention put out, after the output projection.
        after: ``[token, dim]``, the residual stream after the block.
    """

    attention: Tensor
    greatest: Tensor
    norms: Tensor | None
    before: Tensor
    output: Tensor
    after: Tensor


class Fold:
    """Joins the blocks of one text, first block first, and reads the influences.

    Args:
        names: of `RECIPES`.

    Raises:
        ValueError: an unknown name.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._recipes = {name: recipe(name) for name in names}
        self._joined: dict[tuple[object, ...], Tensor] = {}
        self._weights: dict[tuple[object, ...], Tensor] = {}
        self._flow: list[Tensor] = []
        self._read_of: dict[tuple[object, ...], list[Tensor]] = {}
        self._blocks = self._tokens = 0

    def add(self, block: Block) -> None:
        """Join the next block.

        Raises:
            ValueError: a recipe needs what the block does not have.
        """
        self._blocks, self._tokens = self._blocks + 1, len(block.attention)
        for made in {r.matrix: r for r in self._recipes.values()}.values():
            self._join(made, block)

    def _join(self, made: Recipe, block: Block) -> None:
        key, tokens = made.matrix, len(block.attention)
        matrix = _matrix(made, block)
        if made.join == "rollout":
            whole = with_residual(receptive_field(matrix, made.field), block, made.residual, made.share)
            one = own(whole)
            self._joined[key] = one @ self._joined[key] if key in self._joined else one
        elif made.join == "flow":
            if tokens <= FLOW_TOKENS:
                self._flow.append(own(with_residual(rows_to_one(matrix), block, made.residual, made.share)))
        elif made.layers == "lens":
            self._read_of.setdefault(key, []).append(read(own(rows_to_one(matrix)), made.rows))
        elif made.join == "mean":
            weight = _layer_weight(made, block)
            self._joined[key] = self._joined.get(key, 0) + weight.unsqueeze(-1) * own(rows_to_one(matrix))
            self._weights[key] = self._weights.get(key, 0) + weight
        else:
            logarithm = (made.floor + (1 - made.floor) * own(matrix)).log()
            self._joined[key] = self._joined.get(key, 0) + logarithm

    def result(self, lens: Tensor | None = None) -> dict[str, Tensor]:
        """Each influence, ``[token]``.

        Args:
            lens: ``[block]``, how much each block changed the lens; without it, what is weighted by it is NaN.

        Raises:
            ValueError: no block was added.
        """
        if not self._blocks:
            raise ValueError("no block was added, so there is no influence; add the blocks of a text first")
        return {name: self._read(made, lens) for name, made in self._recipes.items()}

    def _read(self, made: Recipe, lens: Tensor | None) -> Tensor:
        key = made.matrix
        if made.join == "flow":
            return max_flows(self._flow) if self._flow else torch.full((self._tokens,), torch.nan)
        if made.layers == "lens":
            each = torch.stack(self._read_of[key])
            weights = each.new_full((len(each),), torch.nan) if lens is None else lens.to(each)
            return (weights / weights.sum()) @ each
        joined = self._joined[key]
        if made.join == "mean":
            joined = joined / self._weights[key].unsqueeze(-1)
        elif made.join == "geometric":
            joined = (joined / self._blocks).exp().tril()
        elif made.join == "product":
            joined = joined.exp().tril()
        return read(joined, made.rows)


def recipe(name: str) -> Recipe:
    """The recipe of a named influence.

    Raises:
        ValueError: there is none; the message lists all.
    """
    if name not in RECIPES:
        raise ValueError(f"unknown influence '{name}'; known: {', '.join(RECIPES)}")
    return RECIPES[name]


def needs(names: Iterable[str], what: Literal["norms", "lens", "flow"]) -> bool:
    """Whether any of the influences needs the norms of values, the lens, or a maximum flow."""
    return any(what in (r.of, r.layers, r.join) for r in map(recipe, names))


def matrices(names: Iterable[str]) -> int:
    """How many squares ``[token, token]`` are alive while these influences are folded."""
    return len({recipe(name).matrix for name in names})


# --- one block


def own(matrix: Tensor) -> Tensor:
    """The square of the continuation, ``[token, token]``, of rows over all positions ``[token, key]``."""
    return matrix[:, matrix.shape[1] - len(matrix) :]


def rows_to_one(matrix: Tensor) -> Tensor:
    """Rows divided by their sums; half precision and attention sinks leave those below or above one. NaN where 0."""
    return matrix / matrix.sum(-1, keepdim=True)


def receptive_field(matrix: Tensor, field: Field) -> Tensor:
    """Attention divided by how many could see a position, rows brought to one again.

    ``column``: ``A[i, j] / (N - j)``; ``element``: ``A[i, j] / (i - j + 1)``; positions i, j from 0, of N. Without it,
    rows are brought to one and nothing else. The normalisations are those of the notebook of Memoli's thesis.

    Args:
        matrix: ``[token, key]``.
        field: which.
    """
    if field == "none":
        return rows_to_one(matrix)
    tokens, positions = matrix.shape
    key = torch.arange(positions, device=matrix.device)
    if field == "column":
        return rows_to_one(matrix / (positions - key))
    query = key[positions - tokens :].unsqueeze(-1)
    return rows_to_one(matrix / (query - key + 1).clamp_min(1))  # keys behind the query have no weight to divide


def with_residual(matrix: Tensor, block: Block, residual: Residual, share: float) -> Tensor:
    """``diag(1 - s) A + diag(s) I``: each row divided between attention and the residual stream.

    With x the state that the block read and a the output of its attention, at each position:

    - ``share``: ``s`` as given;
    - ``norm``: ``|x| / (|x| + |a|)``, Euclidean; ``norm1``: the same with sums of absolute values;
    - ``projection``: the same with the lengths of the projections of x and of a onto ``x + a``;
    - ``cosine``: ``1 / (1 + d)`` with ``d = 1 - cos(x, x + a)``.

    Args:
        matrix: ``[token, key]``, rows that sum to one.
        block: where x and a are.
        residual: how to divide.
        share: the residual's, for ``share``.
    """
    if residual == "share":
        kept = matrix.new_full((len(matrix),), share)
    else:
        kept = _residual_share(block.before.float(), block.output.float(), residual)
    mixed = (1 - kept).unsqueeze(-1) * matrix
    own(mixed).diagonal().add_(kept)
    return mixed


def _residual_share(x: Tensor, a: Tensor, residual: Residual) -> Tensor:
    if residual == "cosine":
        return 1 / (1 + turn(x, x + a))
    if residual == "projection":
        stream, attended = (torch.linalg.vecdot(part, x + a).abs() for part in (x, a))
    else:
        order = 1 if residual == "norm1" else 2
        stream, attended = (part.norm(p=order, dim=-1) for part in (x, a))
    return stream / (stream + attended)


def turn(a: Tensor, b: Tensor) -> Tensor:
    """``1 - cos(a, b)`` along the last axis; NaN where a vector is 0.

    As half the squared distance of unit vectors, which is exact for small angles and never below 0.
    """
    return (a / a.norm(dim=-1, keepdim=True) - b / b.norm(dim=-1, keepdim=True)).square().sum(-1) / 2


def value_norms(attention: Tensor, values: Tensor, projection: Tensor) -> Tensor:
    """Norms of what each position gets from each: ``N[i, j] = |sum_h A[h, i, j] v[h, j] W[h]|``, ``[query, key]``.

    Computed from the inner products of the heads' parts at each key, so that nothing of size ``query x key x dim``
    arises: ``N^2 = sum_{h, g} A[h, i, j] A[g, i, j] <v[h, j] W[h], v[g, j] W[g]>``. Cancellation leaves errors of about
    1e-7 of the largest term; a square that it makes negative counts as 0.

    Args:
        attention: ``[head, query, key]``.
        values: ``[head, key, width]``.
        projection: ``[head, width, dim]``, the output projection without its bias.

    Source: Kobayashi et al. 2020, equation 6 (arXiv:2004.10102), for several heads.
    """
    attention, values, projection = attention.float(), values.float(), projection.float()
    squares = attention.new_empty(attention.shape[1:])
    width = 64  # keys at a time
    for start in range(0, attention.shape[-1], width):
        keys = slice(start, start + width)
        carried = torch.einsum("hkw,hwd->khd", values[:, keys], projection)
        inner = carried @ carried.transpose(1, 2)
        weights = attention[:, :, keys].permute(2, 1, 0)
        squares[:, keys] = ((weights @ inner) * weights).sum(-1).T
    return squares.clamp_min(0).sqrt()


def lens_change(before: Tensor, after: Tensor) -> Tensor:
    """Total variation between two lenses: half the sum of absolute differences of their probabilities, ``[...]``.

    Args:
        before: ``[..., vocab]``, logits of the state that a block read, through final norm and head.
        after: the same of the state after it.
    """
    return (after.float().softmax(-1) - before.float().softmax(-1)).abs().sum(-1) / 2


def _matrix(made: Recipe, block: Block) -> Tensor:
    found = getattr(block, made.of)
    if found is None:
        raise ValueError(f"the block has no {made.of}, which this influence needs: {made.summary}")
    return found


def _layer_weight(made: Recipe, block: Block) -> Tensor:
    """How much a block counts in the mean, at each position."""
    if made.layers == "state":
        return turn(block.before.float(), block.after.float())
    return block.attention.new_ones(len(block.attention))


# --- the joined matrix


def read(matrix: Tensor, rows: Rows) -> Tensor:
    """One weight a column of a causal square ``[token, token]``.

    ``last``: the last row. ``max``: the largest of the column. ``mean``: the column's sum over the number of rows that
    can see it, ``n - j``.
    """
    if rows == "last":
        return matrix[-1]
    if rows == "max":
        return matrix.amax(0)
    return matrix.sum(0) / torch.arange(len(matrix), 0, -1, device=matrix.device)


def fold(blocks: Sequence[Block], names: Iterable[str], lens: Tensor | None = None) -> dict[str, Tensor]:
    """The influences of a text whose blocks are all at hand; `lens` as in `Fold.result`."""
    whole = Fold(names)
    for block in blocks:
        whole.add(block)
    return whole.result(lens)
