"""Poolings: from the values and weights of an answer's tokens to one number.

What a weight w_t >= 0 does is said for each. In all of them only proportions count, equal weights give the plain
statistic, and a token of weight 0 is as good as absent but where positions count (windows, tail). NaN where a token
with weight has no value, where a weight is negative or no number, and where no token has weight. Every function takes
`Rows` (..., T) and returns (...), in the values' unit. `pooled` is how they are called.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from metrics.tokenwise import Pooling, pooling
from metrics.tokenwise.rows import TINY, Rows, weighted_sum

NUMPY = "https://numpy.org/doc/stable/reference/generated/numpy.quantile.html"


def pooled(made: Pooling, rows: Rows, options: Mapping[str, Any]) -> Tensor:
    """A pooling of each row (...), in float32: worked out in float64, so that equal tokens in any order tie."""
    found = made.compute(rows, **options).masked_fill(~rows.usable, math.nan)
    if rows.undefined is not None and made.whole:
        found = found.masked_fill(rows.undefined, math.nan)
    return found.float()


@pooling(source="folklore")
def mean(rows: Rows) -> Tensor:
    """Weighted mean: sum_t w_t v_t / sum_t w_t."""
    return rows.mean


@pooling(source="folklore", kind="sum")
def sum_(rows: Rows) -> Tensor:
    """Number of tokens times the weighted mean: the plain sum when weights are equal. Grows with length."""
    return rows.mean * rows.count


@pooling(source="folklore", kind="spread")
def std(rows: Rows) -> Tensor:
    """Weighted standard deviation about the weighted mean m: sqrt(sum_t w_t (v_t - m)^2 / sum_t w_t).

    0 for one token, NaN where a value with weight is infinite. Declared uncertain whatever the values mean: values of
    sure tokens lie together at one end, so a spread says that some were not.
    """
    apart = rows.values - rows.mean.unsqueeze(-1)
    return (weighted_sum(rows, apart.square_()) / rows.total).sqrt()


@pooling(source="folklore")
def max_(rows: Rows) -> Tensor:
    """Largest value among the tokens that have weight; otherwise the weights do not count."""
    return rows.values.masked_fill(~rows.heavy, -math.inf).amax(-1)


@pooling(source="folklore")
def min_(rows: Rows) -> Tensor:
    """Smallest value among the tokens that have weight; otherwise the weights do not count."""
    return rows.values.masked_fill(~rows.heavy, math.inf).amin(-1)


@pooling(source=NUMPY)
def quantile(rows: Rows, *, q: float = 0.9) -> Tensor:
    """Weighted quantile: the lowest value v such that values up to v have at least the share `q` of the weight.

    The inverse of the weighted distribution function: type 1 of Hyndman and Fan (1996), doi:10.2307/2684934, which
    NumPy calls ``inverted_cdf`` and is the only one that it defines with weights. Always the value of a token. The
    share is met to 1e-9; q = 0 is the smallest value with weight and q = 1 the largest.

    Raises:
        ValueError: q is outside [0, 1].
    """
    if not 0 <= q <= 1:
        raise ValueError(f"pooling 'quantile': q={q} is outside [0, 1]; 0.9 is the value that 90 % of the weight reach")
    at = torch.maximum(rows.reach(q) - 1, rows.lowest)
    return rows.ascending.values.gather(-1, at.unsqueeze(-1)).squeeze(-1)


@pooling(source="folklore")
def top_share(rows: Rows, *, share: float = 0.1) -> Tensor:
    """Weighted mean of the tokens of largest value that have at most `share` of the weight together, at least one.

    Of n equal weights max(1, floor(share n)) tokens. Among tokens of equal value the last counts first.

    Raises:
        ValueError: share is outside (0, 1].
    """
    _check_share("top_share", share)
    start = torch.minimum(rows.reach(1 - share), rows.highest)
    return rows.ascending.means(start, torch.full_like(start, rows.values.shape[-1]))


@pooling(source="folklore")
def bottom_share(rows: Rows, *, share: float = 0.1) -> Tensor:
    """The same of the tokens of smallest value; among equals the first counts first.

    Raises:
        ValueError: share is outside (0, 1].
    """
    _check_share("bottom_share", share)
    stop = torch.maximum(rows.within(share), rows.lowest + 1)
    return rows.ascending.means(torch.zeros_like(stop), stop)


@pooling(source="folklore", whole=False)
def first(rows: Rows) -> Tensor:
    """Value of the first token that has weight; otherwise the weights do not count."""
    at = rows.heavy.int().argmax(-1, keepdim=True).expand(*rows.count.shape, 1)
    return rows.values.gather(-1, at).squeeze(-1)


@pooling(source="arXiv:2508.15260", whole=False)
def tail(rows: Rows, *, tokens: int = 16) -> Tensor:
    """Weighted mean of the last `tokens` tokens, or of all when there are fewer; NaN when they have no weight.

    Raises:
        ValueError: tokens is below 1.
    """
    _check_width("tail", "tokens", tokens)
    return rows.along.means((rows.count - tokens).clamp(min=0), rows.count)


@pooling(source="arXiv:2508.15260")
def lowest_window(rows: Rows, *, window: int = 16) -> Tensor:
    """Least weighted mean over any `window` successive tokens; an answer shorter than that is one window.

    Windows with at most 1e-9 of the answer's weight are left out.

    Raises:
        ValueError: window is below 1.
    """
    return _windows("lowest_window", rows, window, math.inf).amin(-1)


@pooling(source="arXiv:2508.15260")
def highest_window(rows: Rows, *, window: int = 16) -> Tensor:
    """Largest weighted mean over any `window` successive tokens; as `lowest_window` otherwise.

    Raises:
        ValueError: window is below 1.
    """
    return _windows("highest_window", rows, window, -math.inf).amax(-1)


@pooling(source="arXiv:2508.15260")
def bottom_windows(rows: Rows, *, window: int = 16, share: float = 0.1) -> Tensor:
    """Plain mean of the lowest `share` of the weighted means over `window` successive tokens, at least one window.

    Raises:
        ValueError: window is below 1, or share is outside (0, 1].
    """
    return _share_of_windows("bottom_windows", rows, window, share, largest=False)


@pooling(source="arXiv:2508.15260")
def top_windows(rows: Rows, *, window: int = 16, share: float = 0.1) -> Tensor:
    """Plain mean of the highest `share` of the weighted means over `window` successive tokens, at least one window.

    Raises:
        ValueError: window is below 1, or share is outside (0, 1].
    """
    return _share_of_windows("top_windows", rows, window, share, largest=True)


def _windows(name: str, rows: Rows, window: int, fill: float) -> Tensor:
    """Means of all windows (..., S), `fill` for those that do not count."""
    _check_width(name, "window", window)
    means, counts = rows.windows(window)
    return means.masked_fill(~counts, fill)


def _share_of_windows(name: str, rows: Rows, window: int, share: float, *, largest: bool) -> Tensor:
    _check_share(name, share)
    means = _windows(name, rows, window, -math.inf if largest else math.inf)
    wanted = (rows.windows(window)[1].sum(-1, keepdim=True) * share + TINY).long().clamp(min=1)
    extreme = means.topk(int(wanted.max()), dim=-1, largest=largest).values
    taken = torch.arange(extreme.shape[-1], device=extreme.device) < wanted
    return (extreme.masked_fill(~taken, 0.0).sum(-1, keepdim=True) / wanted).squeeze(-1)


def _check_share(name: str, share: float) -> None:
    if not 0 < share <= 1:
        raise ValueError(f"pooling '{name}': share={share} is outside (0, 1]; 0.1 means 10 %")


def _check_width(name: str, option: str, width: int) -> None:
    if width < 1:
        raise ValueError(f"pooling '{name}': {option}={width} is below 1")
