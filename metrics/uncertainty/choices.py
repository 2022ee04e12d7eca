"""Multiple choice: how sure the model is among a document's options.

The options' log-likelihoods become probabilities by a softmax, raw or divided by each option's length. `norm` is
``none`` (what lm-eval's acc compares), ``tokens`` or ``bytes``.
"""

import math

import torch
from torch import Tensor

from metrics.core import metric

LENGTHS = [{"norm": "tokens"}, {"norm": "bytes"}]


@metric(higher="uncertain", unit="nat", source="arXiv:2207.05221", variants=LENGTHS)
def choice_entropy(
    option_loglikelihood: Tensor, option_tokens: Tensor, option_bytes: Tensor, *, norm: str = "none"
) -> Tensor:
    """Entropy of the distribution over a document's options: -sum_o q_o ln q_o. Range [0, ln of their number]."""
    q = option_probabilities(option_loglikelihood, option_tokens, option_bytes, norm)
    return torch.special.entr(q).sum()


@metric(higher="confident", unit="probability", source="arXiv:2207.05221", variants=LENGTHS)
def choice_margin(
    option_loglikelihood: Tensor, option_tokens: Tensor, option_bytes: Tensor, *, norm: str = "none"
) -> Tensor:
    """Gap between the two most probable options. Range [0, 1]; NaN with a single option."""
    q = option_probabilities(option_loglikelihood, option_tokens, option_bytes, norm)
    if len(q) < 2:
        return q.new_tensor(math.nan)
    first, second = q.topk(2).values
    return first - second


@metric(higher="confident", unit="probability", source="arXiv:2207.05221", variants=LENGTHS)
def choice_probability(
    option_loglikelihood: Tensor, option_tokens: Tensor, option_bytes: Tensor, *, norm: str = "none"
) -> Tensor:
    """Probability of the most probable option. Range [1 / number of options, 1]."""
    return option_probabilities(option_loglikelihood, option_tokens, option_bytes, norm).max()


def option_probabilities(loglikelihood: Tensor, tokens: Tensor, bytes_: Tensor, norm: str) -> Tensor:
    """Softmax over options of the log-likelihood divided by the chosen length; NaN where a length is 0.

    Raises:
        ValueError: `norm` is none of ``none``, ``tokens``, ``bytes``.
    """
    lengths = {"none": torch.ones_like(loglikelihood), "tokens": tokens, "bytes": bytes_}
    if norm not in lengths:
        raise ValueError(f"norm='{norm}' is not known; choose one of {', '.join(lengths)}")
    length = lengths[norm].double()
    return (loglikelihood.double() / length.where(length > 0, math.nan)).softmax(-1)
