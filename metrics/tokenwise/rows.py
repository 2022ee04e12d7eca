"""Answers of several lengths side by side: values and weights of their tokens, padded, and what poolings share.

One answer is a batch of one, so a score made alone and one made in a grid come from the same lines. Float64 throughout;
the order of the values and running sums are worked out once, when the first pooling asks for them.
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
    def there(self) -> Tensor:
        """Which entries are tokens (..., T); the counts may lack the values' layers."""
        return torch.arange(self.padded.shape[-1], device=self.count.device) < self.count.unsqueeze(-1)

    @cached_property
    def ascending(self) -> tuple[Tensor, Tensor]:
        """The values from low to high, then the padding, then NaN; and which token each is of."""
        found = self.padded.masked_fill(~self.there, math.inf).sort(dim=-1, stable=True)
        return found.values.masked_fill(~self.there, 0.0) if self.finite else found.values, found.indices

    @cached_property
    def finite(self) -> bool:
        """Whether every value is finite."""
        return bool(self.padded.isfinite().all())


class Runs:
    """Tokens in some order, and weighted means over stretches of them, from running sums.

    `weights` (..., T) may lack the layers of `values` (..., T), and so do then their running sums `until` (..., T + 1).
    """

    def __init__(self, values: Tensor, weights: Tensor, finite: bool) -> None:
        self.values = values
        self.until = _from_zero(weights)
        products = weights * values
        self._odd = None
        if not finite:
            products = products.where(products.isfinite(), 0.0)
            kinds = values.isnan(), values == math.inf, values == -math.inf
            self._odd = [_from_zero(((weights > 0) & found).double()) for found in kinds]
        self._products = _from_zero(products)

    def means(self, start: Tensor, stop: Tensor) -> Tensor:
        """Weighted mean of the tokens from `start` up to `stop` (...) of each row; NaN where they have no weight."""

        def between(sums: Tensor) -> Tensor:
            first, last = (at.expand(sums.shape[:-1]).unsqueeze(-1) for at in (start, stop))
            return (sums.gather(-1, last) - sums.gather(-1, first)).squeeze(-1)

        if self.until.shape[:-1] != start.shape:  # where weights lack the layers that the stretches have
            self.until = self.until.expand(*start.shape, self.until.shape[-1])
        return self._mean(between(self._products), between(self.until), [between(odd) for odd in self._odd or ()])

    def windows(self, width: int) -> Tensor:
        """Weighted means over all runs of `width` tokens (..., T - width + 1); NaN for one without weight."""

        def between(sums: Tensor) -> Tensor:
            return sums[..., width:] - sums[..., : sums.shape[-1] - width]

        return self._mean(between(self._products), between(self.until), [between(odd) for odd in self._odd or ()])

    def _mean(self, products: Tensor, weight: Tensor, odd: list[Tensor]) -> Tensor:
        mean = products / weight.masked_fill(weight <= TINY * self._total(weight), math.nan)
        if odd:
            missing, high, low = (number > 0 for number in odd)
            mean = mean.masked_fill(high, math.inf).masked_fill(low, -math.inf)
            mean = mean.masked_fill(missing | (high & low) | weight.isnan(), math.nan)
        return mean

    def _total(self, like: Tensor) -> Tensor:
        total = self.until[..., -1]
        return total if total.ndim == like.ndim else total.unsqueeze(-1)


class Rows:
    """Values and the weights (..., T) of the same tokens, 0 in the padding; the weights may lack the values' layers."""

    def __init__(self, values: Values, weights: Tensor) -> None:
        self.of = values
        self.values = values.padded
        self.weights = weights.double()
        self.count = values.count.expand(self.values.shape[:-1])

    @cached_property
    def total(self) -> Tensor:
        """Sum of the weights, as many as there are rows of weights."""
        return self.weights.sum(-1)

    @cached_property
    def heavy(self) -> Tensor:
        """Which tokens have weight (..., T)."""
        return self.weights > 0

    @cached_property
    def usable(self) -> Tensor:
        """Where the weights are numbers, at least 0 and not all 0."""
        return self.total.isfinite() & (self.total > 0) & (self.weights >= 0).all(-1)

    @cached_property
    def undefined(self) -> Tensor | None:
        """Where a token that has weight has no value (...); None where no value is missing."""
        return None if self.of.finite else (self.values.isnan() & self.heavy).any(-1)

    @cached_property
    def even(self) -> bool:
        """Whether every token of every answer has weight 1."""
        return bool((self.weights == self.of.there).all())

    @cached_property
    def along(self) -> Runs:
        """The tokens in the order of the answer."""
        return Runs(self.values, self.weights, self.of.finite)

    @cached_property
    def ascending(self) -> Runs:
        """The tokens from low to high value; what is not a number or padding has no place among those with weight."""
        values, index = self.of.ascending
        weights = self.weights if self.even else self.weights.expand(values.shape).gather(-1, index)
        return Runs(values, weights, self.of.finite)

    def reach(self, share: float) -> Tensor:
        """The smallest number of ascending tokens (...) that have at least a share of the weight, to `TINY` of it."""
        return self._search(share - TINY, right=False)

    def within(self, share: float) -> Tensor:
        """The largest number of ascending tokens (...) that have at most a share of the weight, to `TINY` of it."""
        return self._search(share + TINY, right=True) - 1

    def _search(self, share: float, *, right: bool) -> Tensor:
        until = self.ascending.until
        goal = (self.total * share).expand(until.shape[:-1]).unsqueeze(-1).contiguous()
        found = torch.searchsorted(until.contiguous(), goal, right=right).squeeze(-1)
        return found.clamp(max=self.values.shape[-1]).expand(self.count.shape)

    @cached_property
    def lowest(self) -> Tensor:
        """Where the first token with weight stands in ascending order (...)."""
        return (self.reach(2 * TINY) - 1).clamp(min=0)

    @cached_property
    def highest(self) -> Tensor:
        """Where the last token with weight stands in ascending order (...)."""
        return (self.reach(1.0) - 1).clamp(min=0)

    @cached_property
    def mean(self) -> Tensor:
        """Weighted mean (...): sum_t w_t v_t / sum_t w_t."""
        return weighted_sum(self, self.values) / self.total

    @cached_property
    def _windows(self) -> dict[int, tuple[Tensor, Tensor]]:
        return {}

    def windows(self, width: int) -> tuple[Tensor, Tensor]:
        """Weighted means over the runs of `width` tokens, or over all where there are fewer; and which of them count.

        Those that count (..., S) lie within their answer, or are all of it, and have more than `TINY` of its weight.
        """
        width = min(width, self.values.shape[-1])
        if width not in self._windows:
            means = self.along.windows(width)
            start = torch.arange(means.shape[-1], device=means.device)
            weight = self.along.until[..., width:] - self.along.until[..., : means.shape[-1]]
            inside = (start + width <= self.of.count.unsqueeze(-1)) | (start == 0)
            self._windows[width] = means, inside & (weight > TINY * self.total.unsqueeze(-1))
        return self._windows[width]


def weighted_sum(rows: Rows, values: Tensor) -> Tensor:
    """sum_t w_t x_t (...); a token without weight adds nothing, whatever its value."""
    if rows.of.finite:
        return torch.linalg.vecdot(rows.weights, values)
    return (rows.weights * values).where(rows.heavy, 0.0).sum(-1)


def _from_zero(values: Tensor) -> Tensor:
    return torch.nn.functional.pad(values.cumsum(-1), (1, 0))


def one(values: Tensor, weights: Tensor) -> Rows:
    """A batch of one answer: values and weights (T,)."""
    return Rows(Values(values, torch.tensor(values.shape[-1])), weights)
