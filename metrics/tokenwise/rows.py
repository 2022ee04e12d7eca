"""Answers of several lengths side by side: values and weights of their tokens, padded, and what poolings share.

One answer is a batch of one, so a score made alone and one made in a grid come from the same lines. Float64 throughout;
sorting, sorted weights and running sums are worked out once, when the first pooling asks for them.
"""

from __future__ import annotations

import math
from functools import cached_property

import torch
from torch import Tensor

TINY = 1e-9
"""A part of an answer's total weight below which weights are rounding: limits are met to this share."""


class Values:
    """Token values (..., T), the first `count` (...) of each row an answer's, the rest padding of any value."""

    def __init__(self, padded: Tensor, count: Tensor) -> None:
        self.padded = padded.double()
        self.count = count

    @cached_property
    def ascending(self) -> tuple[Tensor, Tensor]:
        """The values from low to high, NaN last, and which token each is of."""
        found = self.padded.sort(dim=-1, stable=True)
        return found.values, found.indices

    @cached_property
    def finite(self) -> bool:
        """Whether every value is finite."""
        return bool(self.padded.isfinite().all())


class Rows:
    """Values and the weights (..., T) of the same tokens, 0 in the padding; the weights may lack the values' layers."""

    def __init__(self, values: Values, weights: Tensor) -> None:
        self.of = values
        self.values = values.padded
        self._narrow = weights.double()
        self.weights = self._narrow.expand(self.values.shape)
        self.count = values.count.expand(self.values.shape[:-1])

    @cached_property
    def total(self) -> Tensor:
        """Sum of the weights (...)."""
        return self._narrow.sum(-1).expand(self.count.shape)

    @cached_property
    def usable(self) -> Tensor:
        """Where the weights are numbers, at least 0 and not all 0 (...)."""
        total = self._narrow.sum(-1)
        return (total.isfinite() & (total > 0) & (self._narrow >= 0).all(-1)).expand(self.count.shape)

    @cached_property
    def undefined(self) -> Tensor | None:
        """Where a token that has weight has no value (...); None where no value is missing."""
        return None if self.of.finite else (self.values.isnan() & (self.weights > 0)).any(-1)

    @cached_property
    def products(self) -> Tensor:
        """Weight times value of each token (..., T); a token without weight adds nothing, whatever its value."""
        return _products(self.weights, self.values, self.of.finite)

    @cached_property
    def running(self) -> Runs:
        """Running sums along the answer."""
        return Runs(self.weights, self.values, self.products, self.of.finite)

    @cached_property
    def _sorted(self) -> tuple[Tensor, Tensor, Tensor]:
        """Values from low to high, their weights, their products."""
        values, index = self.of.ascending
        weights = self.weights.gather(-1, index)
        return values, weights, _products(weights, values, self.of.finite)

    @cached_property
    def up(self) -> tuple[Tensor, Tensor, Tensor]:
        """Values from low to high, and the running sums of their weights and products."""
        values, weights, products = self._sorted
        return values, weights.cumsum(-1), products.cumsum(-1)

    @cached_property
    def down(self) -> tuple[Tensor, Tensor, Tensor]:
        """The same from high to low."""
        values, weights, products = (part.flip(-1) for part in self._sorted)
        return values, weights.cumsum(-1), products.cumsum(-1)

    @cached_property
    def mean(self) -> Tensor:
        """Weighted mean (...): sum_t w_t v_t / sum_t w_t."""
        return self.products.sum(-1) / self.total


class Runs:
    """Means over stretches of tokens, from running sums."""

    def __init__(self, weights: Tensor, values: Tensor, products: Tensor, finite: bool) -> None:
        self.total = weights.sum(-1, keepdim=True)
        self._weights = _from_zero(weights)
        self._products = _from_zero(products if finite else products.where(products.isfinite(), 0.0))
        heavy = weights > 0
        self._odd = (
            None if finite else [_from_zero((heavy & found).double()) for found in (
                values.isnan(), values == math.inf, values == -math.inf
            )]
        )  # fmt: skip

    def means(self, start: Tensor, stop: Tensor) -> Tensor:
        """Weighted mean of the tokens from each `start` up to `stop`, both (..., S); NaN for one without weight."""

        def between(sums: Tensor) -> Tensor:
            return sums.gather(-1, stop) - sums.gather(-1, start)

        weight = between(self._weights)
        mean = between(self._products) / weight
        if self._odd is not None:
            missing, high, low = (between(sums) > 0 for sums in self._odd)
            mean = mean.masked_fill(high, math.inf).masked_fill(low, -math.inf)
            mean = mean.masked_fill(missing | (high & low), math.nan)
        return mean.masked_fill(~self.heavy(start, stop), math.nan)

    def heavy(self, start: Tensor, stop: Tensor) -> Tensor:
        """Whether a stretch has more than `TINY` of the answer's weight (..., S)."""
        return self._weights.gather(-1, stop) - self._weights.gather(-1, start) > TINY * self.total


def _products(weights: Tensor, values: Tensor, finite: bool) -> Tensor:
    return weights * values if finite else (weights * values).where(weights > 0, 0.0)


def _from_zero(values: Tensor) -> Tensor:
    return torch.nn.functional.pad(values.cumsum(-1), (1, 0))


def one(values: Tensor, weights: Tensor) -> Rows:
    """A batch of one answer: values and weights (T,)."""
    return Rows(Values(values, torch.tensor(values.shape[-1])), weights)
