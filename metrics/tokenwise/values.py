"""Token metrics: one value for each token of an answer, before anything is pooled.

Those that take a step to compute are declared here. **Every stored signal with one number a token is a token metric
under its own name**: axes ``token``, ``layer x token``, or ``layer x step``, of which the states that produced the
tokens count. Its direction is that in `DIRECTIONS`, fixed before any data were seen, and neutral otherwise. Ids of
tokens and weights (`metrics.tokenwise.weights.is_weight`) are none. Where the signal of integers holds a negative
number it is undefined, so NaN.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from metrics.core import Higher, Signal, signals
from metrics.tokenwise import TokenMetric, token_metric, token_metrics_declared
from metrics.tokenwise.weights import is_weight
from metrics.uncertainty import distribution
from metrics.uncertainty.likelihood import ROUNDING

DIRECTIONS: Mapping[str, Higher] = {
    "logprob": "confident",
    "entropy": "uncertain",
    "varentropy": "uncertain",
    "boosted_probability": "confident",
    "rank": "uncertain",
    "lens_entropy": "uncertain",
    "lens_logprob": "confident",
    "lens_rank": "uncertain",
    "lens_kl": "uncertain",
    "lens_jsd": "uncertain",
    "lens_top": "confident",
    "lens_margin": "confident",
}
"""What a high value of a stored signal means. Of a layer that is far from the last (``lens_kl``, ``lens_jsd``): the
prediction was still changing there."""

LAYER = -1
"""The default of the option `layer`: the last recorded."""


@token_metric(higher="uncertain", unit="nat", source="folklore")
def nll(logprob: Tensor) -> Tensor:
    """Surprisal of the emitted token: -ln p(y_t). The pooling ``mean`` is `mean_nll`, ``sum`` is `sequence_nll`."""
    return -logprob


@token_metric(higher="confident", unit="probability", source="arXiv:2303.08896")
def probability(logprob: Tensor) -> Tensor:
    """Probability of the emitted token."""
    return logprob.exp()


@token_metric(higher="confident", unit="probability", source="folklore")
def top_probability(top_logprobs: Tensor) -> Tensor:
    """Probability of the most probable token."""
    return top_logprobs[:, 0].exp()


@token_metric(higher="confident", unit="probability", source="folklore")
def margin(top_logprobs: Tensor) -> Tensor:
    """Gap between the two most probable tokens: p_1 - p_2. The pooling ``mean`` is `margin`."""
    p = top_logprobs[:, :2].exp()
    return p[:, 0] - p[:, 1]


@token_metric(higher="confident", unit="nat", source="arXiv:2508.15260")
def confidence(top_logprobs: Tensor) -> Tensor:
    """DeepConf's token confidence, the mean of -ln p over the 20 most probable; poolings give `deepconf_mean`..."""
    return distribution.confidence(top_logprobs)


@token_metric(higher="confident", unit="nat", source="arXiv:2502.18581")
def certainty(mean_log_probability: Tensor, log_vocabulary: Tensor) -> Tensor:
    """Divergence of the next-token distribution from the uniform one; the pooling ``mean`` is `self_certainty`."""
    return -(mean_log_probability + log_vocabulary)


@token_metric(higher="confident", unit="nat", source="arXiv:2212.09171")
def renyi(log_half_power: Tensor, log_vocabulary: Tensor) -> Tensor:
    """Renyi divergence of order 1/2 from the uniform distribution at temperature 2; ``mean`` is the metric `renyi`."""
    return log_vocabulary - 2 * log_half_power


@token_metric(higher="confident", unit="sd", source="arXiv:2404.02936")
def z_logprob(logprob: Tensor, entropy: Tensor, varentropy: Tensor) -> Tensor:
    """Z-score of the emitted token's log-probability: (l_t + H_t) / sigma_t; ``bottom_share`` gives `min_k_plus_plus`.

    0 where the deviation is rounding, as in that metric.
    """
    deviation = logprob + entropy
    return (deviation / varentropy.sqrt()).where(~(deviation.abs() <= ROUNDING * entropy), 0.0)


@dataclass(frozen=True)
class Stored:
    """A stored signal as a token metric: at the steps that produced the tokens, NaN where an integer is negative."""

    steps: bool

    def __call__(self, values: Tensor) -> Tensor:
        """One number a token (token,) or (layer, token)."""
        values = values[..., :-1] if self.steps else values
        return values if values.is_floating_point() else values.double().where(values >= 0, math.nan)


def token_metrics() -> dict[str, TokenMetric]:
    """Every token metric by name: the declared ones, then stored signals."""
    known = signals()
    stored = {name: of_signal(made) for name, made in known.items() if is_token_metric(made)}
    return {**token_metrics_declared, **{n: m for n, m in stored.items() if n not in token_metrics_declared}}


def is_token_metric(made: Signal) -> bool:
    """Whether a signal has one number a token, or a layer and token, is stored, and is no id and no weight."""
    axes = made.axes in (("token",), ("layer", "token"), ("layer", "step"))
    return axes and made.kept and made.cost != "free" and made.unit != "id" and not is_weight(made)


def of_signal(made: Signal) -> TokenMetric:
    """The token metric that a stored signal is."""
    layered = made.axes[0] == "layer"
    return TokenMetric(
        made.name,
        (made.name,),
        DIRECTIONS.get(made.name, "neutral"),
        made.unit,
        "folklore",
        made.summary,
        Stored(made.axes[-1] == "step"),
        {"layer": LAYER} if layered else {},
        layered,
    )


def layer_of(values: Tensor, layer: int, name: str) -> Tensor:
    """The recorded layer `layer` of values (..., layer, token).

    Raises:
        ValueError: so many layers were not recorded.
    """
    count = values.shape[-2]
    if not -count <= layer < count:
        raise ValueError(f"token metric '{name}': layer={layer}, but {count} layers were recorded, 0 to {count - 1}")
    return torch.select(values, -2, layer)
