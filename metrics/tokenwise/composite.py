"""Composites: ``TOKEN_METRIC:POOLING@WEIGHTING``, each part with options in brackets, as ordinary metrics.

``entropy:mean``, ``nll:top_share(share=0.2)@rollout``, ``lens_entropy(layer=12):quantile(q=0.5)@entropy``. Without
``@`` every token counts the same. Nothing needs quoting in a shell but brackets. The id of a composite leaves options
at their defaults out, and ``@uniform``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from metrics.core import Choice, Metric, Signal, signals
from metrics.naming import settled, spelled
from metrics.tokenwise import Pooling, TokenMetric, Weighting, poolings_declared
from metrics.tokenwise.pooling import pooled
from metrics.tokenwise.rows import one
from metrics.tokenwise.values import layer_of, token_metrics
from metrics.tokenwise.weights import weightings

UNIFORM = "uniform"

_PART = r"[^()@:]+(?:\([^()]*\))?"
_GRAMMAR = re.compile(rf"({_PART}):({_PART})(?:@({_PART}))?")


@dataclass(frozen=True)
class Composite:
    """A token metric, a pooling and a weighting with their options settled: the function of a composite metric."""

    token: TokenMetric
    token_options: Mapping[str, Any]
    pooling: Pooling
    pooling_options: Mapping[str, Any]
    weighting: Weighting
    weighting_options: Mapping[str, Any]

    @cached_property
    def needs(self) -> tuple[str, ...]:
        """The signals of values and weights, each once."""
        return tuple(dict.fromkeys((*self.token.needs, *self.weighting.needs)))

    @property
    def layer(self) -> int | None:
        """Which recorded layer it is of; None where the token metric has none."""
        return self.token_options["layer"] if self.token.layered else None

    def parts(self) -> tuple[str, str, str]:
        """Token metric, pooling and weighting, each as it is spelled."""
        return (
            spelled(self.token.name, self.token_options, self.token.options),
            spelled(self.pooling.name, self.pooling_options, self.pooling.options),
            spelled(self.weighting.name, self.weighting_options, self.weighting.options),
        )

    def values(self, available: Mapping[str, Tensor]) -> Tensor:
        """The token metric's values, of all layers where it has some."""
        options = {k: v for k, v in self.token_options.items() if not (self.token.layered and k == "layer")}
        return self.token.compute(*(available[name] for name in self.token.needs), **options)

    def weights(self, available: Mapping[str, Tensor]) -> Tensor:
        """The weights (token,)."""
        return self.weighting.compute(*(available[name] for name in self.weighting.needs), **self.weighting_options)

    def __call__(self, *given: Tensor) -> Tensor:
        """The score of one answer from the signals `needs`, in order."""
        available = dict(zip(self.needs, given))
        values = self.values(available)
        if self.layer is not None:
            values = layer_of(values, self.layer, self.token.name)
        if not values.shape[-1]:
            return torch.tensor(math.nan)
        return pooled(self.pooling, one(values, self.weights(available)), self.pooling_options)


def composite(word: str) -> Choice:
    """The metric that a composite's name means.

    Raises:
        ValueError: not of the grammar, an unknown part or option, or an option's value out of its range.
    """
    match = _GRAMMAR.fullmatch(word)
    if match is None:
        raise ValueError(f"metric '{word}': write TOKEN_METRIC:POOLING@WEIGHTING, such as entropy:mean@improbability")
    token, pool, weight = match.groups()
    known = signals()
    pool_made, pool_options = _checked(*settled("pooling", pool, poolings_declared))
    return as_choice(
        Composite(
            *settled("token metric", token, token_metrics()),
            pool_made,
            pool_options,
            *settled("weighting", weight or UNIFORM, weightings()),
        ),
        known,
    )


def _checked(made: Pooling, options: dict[str, Any]) -> tuple[Pooling, dict[str, Any]]:
    """The same, once the pooling has shown on one token that it takes these options."""
    pooled(made, one(torch.zeros(1), torch.ones(1)), options)
    return made, options


def as_choice(made: Composite, known: Mapping[str, Signal]) -> Choice:
    """A composite as a metric among others.

    Raises:
        ValueError: it needs an intermediate that is never stored.
    """
    for need in made.needs:
        if not known[need].kept:
            raise ValueError(f"token metric '{made.token.name}' needs '{need}', which is never stored")
    token, pool, weight = made.parts()
    name = f"{token}:{pool}" + ("" if weight == UNIFORM else f"@{weight}")
    spread = made.pooling.kind == "spread"
    as_it_was = made.pooling.kind == "location" or made.token.unit != "probability"
    return Choice(
        Metric(
            name=name,
            needs=made.needs,
            options={},
            higher="uncertain" if spread and made.token.higher != "neutral" else made.token.higher,
            unit=made.token.unit if as_it_was else "1",
            source=made.token.source,
            compute=made,
            summary=f"{made.pooling.name} over tokens of {token}, weights {weight}.",
        )
    )


def combine(tokens: Sequence[str], poolings: Sequence[str], weights: Sequence[str]) -> Iterator[Choice]:
    """Every combination of the parts named, token metric slowest.

    Raises:
        ValueError: as `composite`.
    """
    known, metrics, weighers = signals(), token_metrics(), weightings()
    firsts = [settled("token metric", word, metrics) for word in tokens]
    seconds = [_checked(*settled("pooling", word, poolings_declared)) for word in poolings]
    thirds = [settled("weighting", word, weighers) for word in weights]
    for token in firsts:
        for third in thirds:
            for second in seconds:
                yield as_choice(Composite(*token, *second, *third), known)
