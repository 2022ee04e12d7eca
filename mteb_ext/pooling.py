"""From one hidden state a token to one row a text, in float32; padding never enters."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Pooling = Callable[[Tensor, Tensor], Tensor]
"""(batch, tokens, d) hidden states and a (batch, tokens) mask of ones and zeros -> (batch, d) in float32."""


def mean(hidden: Tensor, mask: Tensor) -> Tensor:
    r"""Mean over a text's tokens: $\sum_t m_t h_t / \sum_t m_t$."""
    return _averaged(hidden, mask.float())


def weighted(hidden: Tensor, mask: Tensor) -> Tensor:
    r"""Position-weighted mean: $\sum_t t\, h_t / \sum_t t$ over a text's tokens, t = 1, 2, ...

    Source: SGPT (Muennighoff, arXiv 2202.08904), section 3.1.1. Of a prompt that is not pooled, no token is counted;
    sentence-transformers counts them.
    """
    return _averaged(hidden, mask.float().cumsum(1) * mask)


def cls(hidden: Tensor, mask: Tensor) -> Tensor:
    """The first token of a text."""
    return _picked(hidden, mask.int().argmax(1))


def last(hidden: Tensor, mask: Tensor) -> Tensor:
    """The last token of a text."""
    return _picked(hidden, mask.shape[1] - 1 - mask.flip(1).int().argmax(1))


def maximum(hidden: Tensor, mask: Tensor) -> Tensor:
    """The largest value of each dimension over a text's tokens."""
    return hidden.float().masked_fill(~mask.bool()[..., None], -torch.inf).amax(1)


POOLINGS: dict[str, Pooling] = {"mean": mean, "cls": cls, "last": last, "max": maximum, "weighted": weighted}

PICKS = frozenset({"cls", "last"})
"""Poolings that read one token a text."""


def _averaged(hidden: Tensor, weights: Tensor) -> Tensor:
    weights = weights / weights.sum(1, keepdim=True)
    padded = hidden.float().masked_fill((weights == 0)[..., None], 0)  # a NaN at a padding is not the text's
    return torch.bmm(weights[:, None], padded)[:, 0]


def _picked(hidden: Tensor, at: Tensor) -> Tensor:
    return hidden[torch.arange(len(hidden), device=hidden.device), at].float()
