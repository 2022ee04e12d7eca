"""What is kept of the logits: about a hundred bytes a token instead of a whole vocabulary.

Every function works on the last axis, so a stack of tokens of many records is as good as one record. Natural
logarithms; float32 throughout, whatever the model's precision. A logit of minus infinity (a token the model itself
rules out) has probability 0 and takes no part in means over the vocabulary; so has the lowest finite number of the
logits' type, which some models write instead. NaN in gives NaN out, and -1 where the output is an integer.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from metrics.core import signal

TOP = 20
"""How many of the largest log-probabilities are kept: the number DeepConf uses."""

JUMP = 0.005
"""The least drop between successive probabilities at which BoostedProb's dominant group may end."""

DOMINANT = 200
"""No more than 200 tokens can have probability above `JUMP`."""

LOWEST = torch.finfo(torch.float32).min


@signal(axes=("token", "vocab"), unit="logit", kept=False)
def shifted_logits(logits: Tensor) -> Tensor:
    """Logits in float32 less their largest, so that exponentials cannot overflow."""
    z = logits.float()
    shifted = z - z.amax(-1, keepdim=True)
    if logits.dtype in (torch.float16, torch.bfloat16):  # their lowest is an ordinary number in float32
        shifted.masked_fill_(logits == torch.finfo(logits.dtype).min, -torch.inf)
    return shifted


@signal(axes=("token", "vocab"), unit="1", kept=False)
def weights(shifted_logits: Tensor) -> Tensor:
    """exp(z_v - max z): the softmax before its division, computed once for everything below."""
    return shifted_logits.exp()


@signal(axes=("token",), unit="1", kept=False)
def normalizer(weights: Tensor) -> Tensor:
    """sum_v exp(z_v - max z), at least 1."""
    return weights.sum(-1)


@signal(axes=("token",), unit="nat")
def log_normalizer(logits: Tensor, normalizer: Tensor) -> Tensor:
    """Logarithm of the softmax's denominator, ln sum_v exp(z_v): what a log-probability lacks to be a logit."""
    return logits.amax(-1).float() + normalizer.log()


@signal(axes=("token", "vocab"), unit="nat", kept=False)
def log_probabilities(shifted_logits: Tensor, normalizer: Tensor) -> Tensor:
    """Log-softmax: ln p_v = z_v - max z - ln(normalizer); the lowest finite number stands for minus infinity."""
    return (shifted_logits - normalizer.log().unsqueeze(-1)).clamp_(min=LOWEST)


@signal(axes=("token", "vocab"), unit="probability", kept=False)
def probabilities(weights: Tensor, normalizer: Tensor) -> Tensor:
    """Softmax of the logits."""
    return weights / normalizer.unsqueeze(-1)


@signal(axes=("token",), unit="nat")
def logprob(log_probabilities: Tensor, tokens: Tensor) -> Tensor:
    """Log-probability of the token that was emitted or scored: l_t = ln p(y_t | y_<t, x); -inf if it is ruled out."""
    own = log_probabilities.gather(-1, tokens.long().unsqueeze(-1)).squeeze(-1)
    return own.masked_fill(own <= LOWEST, -torch.inf)


@signal(axes=("token",), unit="nat")
def entropy(log_probabilities: Tensor, probabilities: Tensor) -> Tensor:
    """Shannon entropy of the next-token distribution: H_t = -sum_v p_v ln p_v, from 0 to ln V."""
    return -torch.linalg.vecdot(probabilities, log_probabilities)


@signal(axes=("token",), unit="nat^2")
def varentropy(log_probabilities: Tensor, probabilities: Tensor, entropy: Tensor) -> Tensor:
    """Variance of the surprisal: sum_v p_v (ln p_v + H)^2; 0 for a uniform and for a certain distribution."""
    centred = (log_probabilities + entropy.unsqueeze(-1)).clamp_(min=-1e4)
    return torch.linalg.vecdot(probabilities, centred.square_())


@signal(axes=("token",), unit="1", dtype="int64", kept=False)
def possible(log_probabilities: Tensor) -> Tensor:
    """Number of tokens that the model does not rule out; 0 where the logits are not numbers."""
    if (
        log_probabilities.is_cpu and log_probabilities.numel() and log_probabilities.amin() > LOWEST
    ):  # the usual case, six times faster
        return torch.full(log_probabilities.shape[:-1], log_probabilities.shape[-1])
    return (log_probabilities > LOWEST).sum(-1)


@signal(axes=("token",), unit="nat")
def mean_log_probability(log_probabilities: Tensor, possible: Tensor) -> Tensor:
    """Unweighted mean of ln p_v over the possible tokens.

    Its negative, the cross-entropy of p from the uniform distribution, is at least the logarithm of their number.
    """
    return torch.nn.functional.threshold(log_probabilities, LOWEST, 0.0).sum(-1) / possible


@signal(axes=("token",), unit="nat")
def log_vocabulary(possible: Tensor) -> Tensor:
    """Logarithm of the number of possible tokens: the entropy of the uniform distribution over them."""
    return possible.where(possible > 0, torch.nan).log()


@signal(axes=("token",), unit="1")
def log_half_power(probabilities: Tensor) -> Tensor:
    """Logarithm of sum_v sqrt(q_v) for the distribution q at temperature 2: q_v proportional to sqrt(p_v).

    Renyi divergence of order one half and Fisher-Rao distance to the uniform distribution both follow from it. It lies
    in [0, ln(V) / 2], the upper end for the uniform distribution.
    """
    half = probabilities.sqrt()
    return half.sqrt().sum(-1).log() - 0.5 * half.sum(-1).log()


@signal(axes=("token", "top=20"), unit="nat")
def top_logprobs(largest: Tensor) -> Tensor:
    """The 20 largest log-probabilities, descending; minus infinity where fewer tokens are possible."""
    first = _first(largest, TOP, -torch.inf)
    return first.masked_fill(first <= LOWEST, -torch.inf)


@signal(axes=("token", "top=20"), unit="id", dtype="int32")
def top_tokens(largest: Tensor, largest_tokens: Tensor) -> Tensor:
    """Token ids of `top_logprobs`, -1 where fewer tokens are possible."""
    return _first(largest_tokens.where(largest > LOWEST, -1), TOP, -1).int()


@signal(axes=("token", "top=200"), unit="nat", kept=False)
def largest(log_probabilities: Tensor) -> Tensor:
    """The largest log-probabilities, descending: all above 0.005, at least 20, at most 200 (or the vocabulary)."""
    top = top_values(log_probabilities, TOP)
    if top.is_cpu and bool((top[..., -1] <= math.log(JUMP)).all()):
        return top
    return top_values(log_probabilities, DOMINANT)


@signal(axes=("token", "top=200"), unit="id", dtype="int64", kept=False)
def largest_tokens(log_probabilities: Tensor, largest: Tensor) -> Tensor:
    """Token ids of `largest`."""
    return log_probabilities.topk(largest.shape[-1], dim=-1).indices


@signal(axes=("token",), unit="probability")
def boosted_probability(largest: Tensor, logprob: Tensor) -> Tensor:
    """Probability of the emitted token, or of the whole dominant group when the token belongs to it.

    Sorted p_1 >= p_2 >= ...; the group ends at the last i with p_i - p_{i+1} > 0.3 p_i and > 0.005. When there is none,
    no token is dominant. A token tied with the last dominant one cannot be outside: the drop there is positive.

    Source: arXiv:2502.11115, Dinh and Niehues, "Are Generative Models Underconfident?", EMNLP 2025, as in their package
    boostedprob 0.1.3 (difference_jump, sum_dominant_mass).
    """
    p = _first(largest.exp(), max(2, largest.shape[-1]), 0.0)
    drop = p[..., :-1] - p[..., 1:]  # what is not among the largest is at most JUMP, so no drop there counts
    p = p[..., :-1]
    cut = (drop > 0.3 * p) & (drop > JUMP)
    last = torch.where(cut, torch.arange(cut.shape[-1], device=cut.device), -1).amax(-1, keepdim=True)
    mass = p.cumsum(-1).gather(-1, last.clamp(min=0)).squeeze(-1)
    least = largest.gather(-1, last.clamp(min=0)).squeeze(-1)
    dominant = (last.squeeze(-1) >= 0) & (logprob >= least)
    return torch.where(dominant, mass, logprob.exp())


@signal(axes=("token",), unit="1", dtype="int32")
def rank(log_probabilities: Tensor, logprob: Tensor) -> Tensor:
    """How many tokens were strictly more probable than the emitted one: 0 when it was the most probable."""
    above = (log_probabilities > logprob.clamp(min=LOWEST).unsqueeze(-1)).sum(-1)
    return above.masked_fill(logprob.isnan(), -1).int()


def top_values(values: Tensor, k: int, group: int = 16) -> Tensor:
    """The k largest along the last axis, descending: those of the k groups with the largest maxima.

    Interleaved groups make the maximum one vectorised pass, five times faster than `topk` of everything on a CPU.
    """
    width = values.shape[-1]
    if width < 4 * k * group:
        return values.topk(min(k, width), dim=-1).values
    groups = width // group
    grouped = values[..., : groups * group].unflatten(-1, (group, groups))
    best = grouped.amax(-2).topk(k, dim=-1).indices
    within = grouped.gather(-1, best.unsqueeze(-2).expand(*best.shape[:-1], group, k)).flatten(-2)
    return torch.cat([within, values[..., groups * group :]], -1).topk(k, dim=-1).values


def _first(values: Tensor, width: int, fill: float) -> Tensor:
    missing = width - values.shape[-1]
    if missing > 0:
        return torch.cat([values, values.new_full((*values.shape[:-1], missing), fill)], -1)
    return values[..., :width].contiguous()
