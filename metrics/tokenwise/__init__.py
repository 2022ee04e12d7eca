"""Scores put together from three parts: a token metric, a weighting and a pooling, as in ``entropy:mean@rollout``.

A *token metric* is a pure function from signals to one value a token; a *weighting* one from signals to one weight a
token, at least 0; a *pooling* turns values and weights into one number. Each is declared once, under a decorator, and
every combination follows: nothing is coded for a pair of them. As with metrics, positional parameters are signals and
keyword-only parameters are options (a pooling's only positional parameter is its `Rows`).

::

    @token_metric(higher="uncertain", unit="nat", source="folklore")
    def nll(logprob: Tensor) -> Tensor: ...

    @weighting(source="arXiv:...")
    def improbability(logprob: Tensor) -> Tensor: ...

    @pooling(source="folklore")
    def tail(rows: Rows, *, tokens: int = 16) -> Tensor: ...

Stored signals of one number a token are token metrics and influences are weightings under their own names, without a
declaration (`metrics.tokenwise.values`, `metrics.tokenwise.weights`). `metrics.tokenwise.composite` holds the grammar.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from metrics.core import Higher, needs_of, options_of, summary_of

Kind = Literal["location", "sum", "spread"]
F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class TokenMetric:
    """One value a token, (token,), or when `layered` one a layer and token, (layer, token), with its natural sign.

    A layered one takes the option `layer`: which of the recorded layers, counted from 0, or from the end when negative.
    """

    name: str
    needs: tuple[str, ...]
    higher: Higher
    unit: str
    source: str
    summary: str
    compute: Callable[..., Any]
    options: Mapping[str, Any] = field(default_factory=dict)
    layered: bool = False


@dataclass(frozen=True)
class Weighting:
    """One weight a token, (token,), at least 0; only their proportions count."""

    name: str
    needs: tuple[str, ...]
    source: str
    summary: str
    compute: Callable[..., Any]
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Pooling:
    """From `Rows` of values and weights to one number a row.

    `kind`: a ``location`` is a value like the tokens', of their direction and unit; a ``sum`` has their direction; a
    ``spread`` is declared uncertain whatever the values mean. `whole` says that it looks at every token with weight.
    """

    name: str
    kind: Kind
    whole: bool
    source: str
    summary: str
    compute: Callable[..., Any]
    options: Mapping[str, Any] = field(default_factory=dict)


token_metrics_declared: dict[str, TokenMetric] = {}
weightings_declared: dict[str, Weighting] = {}
poolings_declared: dict[str, Pooling] = {}


def token_metric(*, higher: Higher, unit: str, source: str) -> Callable[[F], F]:
    """Declare a token metric."""

    def register(function: F) -> F:
        name, needs = function.__name__, needs_of(function, "token metric")
        token_metrics_declared[name] = TokenMetric(
            name, needs, higher, unit, source, summary_of(function), function, options_of(function)
        )
        return function

    return register


def weighting(*, source: str) -> Callable[[F], F]:
    """Declare a weighting."""

    def register(function: F) -> F:
        name, needs = function.__name__, needs_of(function, "weighting")
        weightings_declared[name] = Weighting(name, needs, source, summary_of(function), function, options_of(function))
        return function

    return register


def pooling(*, source: str, kind: Kind = "location", whole: bool = True) -> Callable[[F], F]:
    """Declare a pooling; its one positional parameter is a `metrics.tokenwise.rows.Rows`.

    Its name is the function's, less a last underscore: `max_` is ``max``.
    """

    def register(function: F) -> F:
        name = function.__name__.removesuffix("_")
        if len(needs_of(function, "pooling")) != 1:
            raise TypeError(f"pooling '{name}': its one positional parameter is the rows; options come after *")
        poolings_declared[name] = Pooling(
            name, kind, whole, source, summary_of(function), function, options_of(function)
        )
        return function

    return register
