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
from metrics.tokenwise.rows import TINY, Rows

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
    apart = (rows.values - rows.mean.unsqueeze(-1)).square_()
    spread = rows.weights * apart if rows.of.finite else (rows.weights * apart).where(rows.weights > 0, 0.0)
    return (spread.sum(-1) / rows.total).sqrt()


@pooling(source="folklore")
def max_(rows: Rows) -> Tensor:
    """Largest value among the tokens that have weight; otherwise the weights do not count."""
    return rows.values.masked_fill(rows.weights <= 0, -math.inf).amax(-1)


@pooling(source="folklore")
def min_(rows: Rows) -> Tensor:
    """Smallest value among the tokens that have weight; otherwise the weights do not count."""
    return rows.values.masked_fill(rows.weights <= 0, math.inf).amin(-1)


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
    values, weights, _ = rows.up
    goal = (q - TINY if q > 2 * TINY else TINY) * rows.total
    at = torch.searchsorted(weights, goal.unsqueeze(-1)).clamp(max=values.shape[-1] - 1)
    return values.gather(-1, at).squeeze(-1)


@pooling(source="folklore")
def top_share(rows: Rows, *, share: float = 0.1) -> Tensor:
    """Weighted mean of the tokens of largest value that have at most `share` of the weight together, at least one.

    Of n equal weights max(1, floor(share n)) tokens.

    Raises:
        ValueError: share is outside (0, 1].
    """
    return _share("top_share", rows.down, rows, share)


@pooling(source="folklore")
def bottom_share(rows: Rows, *, share: float = 0.1) -> Tensor:
    """The same of the tokens of smallest value.

    Raises:
        ValueError: share is outside (0, 1].
    """
    return _share("bottom_share", rows.up, rows, share)


def _share(name: str, ordered: tuple[Tensor, Tensor, Tensor], rows: Rows, share: float) -> Tensor:
    _check_share(name, share)
    _, weights, products = ordered
    limits = torch.stack([rows.total * (share + TINY), rows.total * TINY], -1)
    within = torch.searchsorted(weights, limits[..., :1].contiguous(), right=True) - 1
    first = torch.searchsorted(weights, limits[..., 1:].contiguous())
    last = torch.maximum(within, first).clamp(max=weights.shape[-1] - 1)
    return (products.gather(-1, last) / weights.gather(-1, last)).squeeze(-1)


@pooling(source="folklore", whole=False)
def first(rows: Rows) -> Tensor:
    """Value of the first token that has weight; otherwise the weights do not count."""
    at = (rows.weights > 0).int().argmax(-1, keepdim=True)
    return rows.values.gather(-1, at).squeeze(-1)


@pooling(source="arXiv:2508.15260", whole=False)
def tail(rows: Rows, *, tokens: int = 16) -> Tensor:
    """Weighted mean of the last `tokens` tokens, or of all when there are fewer; NaN when they have no weight.

    Raises:
        ValueError: tokens is below 1.
    """
    _check_width("tail", "tokens", tokens)
    stop = rows.count.unsqueeze(-1)
    return rows.running.means((stop - tokens).clamp(min=0), stop).squeeze(-1)


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
    return _share_of_windows("bottom_windows", rows, window, share, descending=False)


@pooling(source="arXiv:2508.15260")
def top_windows(rows: Rows, *, window: int = 16, share: float = 0.1) -> Tensor:
    """Plain mean of the highest `share` of the weighted means over `window` successive tokens, at least one window.

    Raises:
        ValueError: window is below 1, or share is outside (0, 1].
    """
    return _share_of_windows("top_windows", rows, window, share, descending=True)


def _windows(name: str, rows: Rows, window: int, fill: float) -> Tensor:
    """Means of all windows (..., S), `fill` where there is none."""
    _check_width(name, "window", window)
    start, stop = _stretches(rows, window)
    there = _there(rows, start, stop, window)
    return rows.running.means(start, stop).masked_fill(~there, fill)


def _stretches(rows: Rows, window: int) -> tuple[Tensor, Tensor]:
    starts = 1 + max(0, rows.values.shape[-1] - window)
    start = torch.arange(starts, device=rows.values.device).expand(*rows.count.shape, starts)
    count = rows.count.unsqueeze(-1)
    return torch.minimum(start, count), torch.minimum(start + window, count)


def _there(rows: Rows, start: Tensor, stop: Tensor, window: int) -> Tensor:
    """Which windows lie within their answer, or are all of it, and have weight."""
    return ((stop - start == window) | (start == 0)) & rows.running.heavy(start, stop)


def _share_of_windows(name: str, rows: Rows, window: int, share: float, *, descending: bool) -> Tensor:
    _check_share(name, share)
    ordered = _windows(name, rows, window, -math.inf if descending else math.inf).sort(-1, descending=descending).values
    start, stop = _stretches(rows, window)
    number = _there(rows, start, stop, window).sum(-1, keepdim=True)
    wanted = (number * share + TINY).long().clamp(min=1)
    taken = torch.arange(ordered.shape[-1], device=ordered.device) < wanted
    return (ordered.masked_fill(~taken, 0.0).sum(-1, keepdim=True) / wanted).squeeze(-1)


def _check_share(name: str, share: float) -> None:
    if not 0 < share <= 1:
        raise ValueError(f"pooling '{name}': share={share} is outside (0, 1]; 0.1 means 10 %")


def _check_width(name: str, option: str, width: int) -> None:
    if width < 1:
        raise ValueError(f"pooling '{name}': {option}={width} is below 1")
