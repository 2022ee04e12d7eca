"""Weightings: how much each token of an answer counts.

Three are declared here. **Every stored influence is a weighting under its own name**: a signal with the axis ``token``
of cost ``influence``, or of cost ``passes`` that is no log-probability. A weight is at least 0; where one is not,
or is no number, the score is NaN. That only the scored answer counts is not a weighting but the span.
"""

from __future__ import annotations

import torch
from torch import Tensor

from metrics.core import Signal, signals
from metrics.tokenwise import Weighting, weighting, weightings_declared


@weighting(source="folklore")
def uniform(token_count: Tensor) -> Tensor:
    """Every token counts the same."""
    return torch.ones(int(token_count))


@weighting(source="folklore")
def entropy(entropy: Tensor) -> Tensor:
    """Entropy of the next-token distribution: tokens count as far as the model hesitated."""
    return entropy.clamp(min=0.0)  # a certain distribution's is 0 but for rounding


@weighting(source="folklore")
def improbability(logprob: Tensor) -> Tensor:
    """One minus the probability of the emitted token: 1 - p(y_t)."""
    return -torch.expm1(logprob.clamp(max=0.0))


def weightings() -> dict[str, Weighting]:
    """Every weighting by name: the declared ones, then stored influences."""
    found = {
        name: Weighting(name, (name,), "folklore", made.summary, _as_it_is)
        for name, made in signals().items()
        if is_weight(made)
    }
    return {**weightings_declared, **{n: w for n, w in found.items() if n not in weightings_declared}}


def is_weight(made: Signal) -> bool:
    """Whether a signal says how much each token counts."""
    weight = made.cost == "influence" or (made.cost == "passes" and "logprob" not in made.name)
    return weight and made.kept and made.axes == ("token",)


def _as_it_is(weights: Tensor) -> Tensor:
    return weights
