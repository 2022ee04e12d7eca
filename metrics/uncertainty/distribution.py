"""How spread the next-token distribution was along the answer, whichever token was taken."""

import math

import torch
from torch import Tensor

from metrics.core import feature, metric
from metrics.uncertainty.likelihood import count, lowest


@metric(higher="uncertain", unit="nat", source="arXiv:2002.07650")
def mean_entropy(entropy: Tensor) -> Tensor:
    """Mean token entropy: (1/n) sum_t H_t. Range [0, ln V]."""
    return entropy.mean()


@metric(higher="uncertain", unit="nat", source="arXiv:2303.08896")
def max_entropy(entropy: Tensor) -> Tensor:
    """Entropy at the most uncertain token: max_t H_t."""
    return entropy.max()


@metric(higher="uncertain", unit="nat", source="folklore")
def top_share_entropy(entropy: Tensor, *, share: float = 0.05) -> Tensor:
    """Mean entropy of the max(1, floor(share n)) most uncertain tokens: between `max_entropy` and `mean_entropy`."""
    return entropy.sort(descending=True).values[: count(len(entropy), share)].mean()


@metric(higher="uncertain", unit="nat^2", source="arXiv:1212.2668")
def mean_varentropy(varentropy: Tensor) -> Tensor:
    """Mean variance of the surprisal: (1/n) sum_t Var_v[ln p_v]."""
    return varentropy.mean()


@metric(higher="confident", unit="probability", source="folklore")
def margin(top_logprobs: Tensor) -> Tensor:
    """Mean gap between the two most probable tokens: (1/n) sum_t (p_1 - p_2). Range [0, 1]."""
    p = top_logprobs[:, :2].exp()
    return (p[:, 0] - p[:, 1]).mean()


@metric(higher="confident", unit="1", source="https://github.com/cvs-health/uqlm")
def topk_negentropy(top_logprobs: Tensor, *, k: int = 20) -> Tensor:
    """Mean of 1 - H_k / ln k, H_k the entropy of the k largest probabilities renormalised to sum to one.

    Range [0, 1]; 1 when one token has all the mass, 0 when the k largest are equal. At most the 20 stored are used;
    where fewer than k tokens are possible, k is their number, at least 2.

    Raises:
        ValueError: k is below 2 or above 20.
    """
    if not 2 <= k <= top_logprobs.shape[-1]:
        raise ValueError(f"topk_negentropy: k={k} is outside 2..{top_logprobs.shape[-1]}, the log-probabilities stored")
    top = top_logprobs[:, :k]
    h = torch.special.entr(top.softmax(-1)).sum(-1)
    return (1 - h / (top > -math.inf).sum(-1).clamp(min=2).log()).mean()


@metric(higher="confident", unit="nat", source="arXiv:2502.18581")
def self_certainty(mean_log_probability: Tensor, log_vocabulary: Tensor) -> Tensor:
    """Self-certainty: divergence of the next-token distribution from the uniform one, mean over tokens.

    -(1/nV) sum_t sum_v ln(V p_v) = (1/n) sum_t KL(U || p_t). Range [0, inf). Not a monotone function of the entropy.
    V counts the tokens that the model does not rule out.
    """
    return -(mean_log_probability + log_vocabulary).mean()


@metric(higher="confident", unit="nat", source="arXiv:2212.09171")
def renyi(log_half_power: Tensor, log_vocabulary: Tensor) -> Tensor:
    """Renyi divergence of order 1/2 from the uniform distribution at temperature 2, mean over tokens.

    D_{1/2}(q || U) = ln V - 2 ln sum_v sqrt(q_v), q proportional to p^{1/2}. Range [0, ln V]; 0 for the uniform
    distribution. LM-Polygraph's RenyiNeg has the opposite of the direction it declares; this one is a confidence.
    """
    return (log_vocabulary - 2 * log_half_power).mean()


@metric(higher="confident", unit="1", source="arXiv:2212.09171")
def fisher_rao(log_half_power: Tensor, log_vocabulary: Tensor) -> Tensor:
    """Fisher-Rao distance from the uniform distribution at temperature 2, mean over tokens.

    (2 / pi) arccos(sum_v sqrt(q_v / V)), q proportional to p^{1/2}. Range [0, 1); 0 for the uniform distribution (below
    0.002 in float32, the arccos being steep there), so a confidence, unlike the direction that LM-Polygraph declares.
    """
    cosine = (log_half_power - 0.5 * log_vocabulary).exp().clamp(max=1.0)
    return (2 / math.pi * cosine.arccos()).mean()


@metric(higher="confident", unit="probability", source="arXiv:2502.11115")
def boosted_prob(boosted_probability: Tensor) -> Tensor:
    """BoostedProb: mean over tokens of the probability of the dominant group that the emitted token belongs to.

    Dinh and Niehues, EMNLP 2025; a token outside the group counts with its own probability.
    """
    return boosted_probability.mean()


@metric(higher="confident", unit="nat", source="arXiv:2508.15260")
def deepconf_mean(top_logprobs: Tensor) -> Tensor:
    """DeepConf, average trace confidence: mean over tokens of C_t = -(1/k) sum of the k = 20 largest ln p.

    The more peaked the distribution, the smaller the runner-up probabilities and the larger C_t. At least ln k. Where
    fewer than 20 tokens are possible, k is their number.
    """
    return confidence(top_logprobs).mean()


@metric(higher="confident", unit="nat", source="arXiv:2508.15260", variants=[{"tokens": 16}])
def deepconf_tail(top_logprobs: Tensor, *, tokens: int = 2048) -> Tensor:
    """DeepConf, tail confidence: mean C_t of the last `tokens` tokens, or of all when there are fewer.

    Raises:
        ValueError: tokens is below 1.
    """
    if tokens < 1:
        raise ValueError(f"deepconf_tail: tokens={tokens} is below 1")
    return confidence(top_logprobs)[-tokens:].mean()


@metric(higher="confident", unit="nat", source="arXiv:2508.15260", variants=[{"window": 16}])
def deepconf_lowest_window(top_logprobs: Tensor, *, window: int = 2048) -> Tensor:
    """DeepConf, lowest group confidence: the least mean C_t over any `window` successive tokens.

    An answer shorter than the window is one window.

    Raises:
        ValueError: window is below 1.
    """
    return windows(confidence(top_logprobs), window).min()


@metric(higher="confident", unit="nat", source="arXiv:2508.15260", variants=[{"window": 16}])
def deepconf_bottom(top_logprobs: Tensor, *, window: int = 2048, share: float = 0.1) -> Tensor:
    """DeepConf, bottom-10 % group confidence: mean over the `share` least sure windows, at least one.

    Raises:
        ValueError: window is below 1, or share is not in (0, 1].
    """
    return lowest(windows(confidence(top_logprobs), window), share)


def confidence(top_logprobs: Tensor) -> Tensor:
    """DeepConf's token confidence C_t, over as many of the 20 largest as are possible."""
    possible = top_logprobs > -math.inf
    return -top_logprobs.where(possible, 0.0).sum(-1) / possible.sum(-1)


def windows(values: Tensor, width: int) -> Tensor:
    """Means over all runs of `width` successive values; one mean when there are fewer."""
    if width < 1:
        raise ValueError(f"window={width} is below 1")
    return values.unfold(0, min(width, len(values)), 1).mean(-1)


QUANTILES = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)


@feature(unit="nat", source="the thesis notebook that eval-ext grew from")
def entropy_distribution(entropy: Tensor) -> Tensor:
    """Distribution of the token entropies H_1..H_n in twelve numbers.

    In order: mean; standard deviation sqrt((1/n) sum_t (H_t - mean)^2); the quantiles 0, .1, .25, .5, .75, .9 and 1,
    linear between order statistics; the number of peaks; their mean height; their density, number of peaks / n. A peak
    is a run of equal entropies with lower ones, or the answer's end, on both sides. A single token is one peak of its
    own height and density 1. The number of peaks grows with the answer's length; the other numbers need not.
    """
    h = entropy.double()
    runs = h.unique_consecutive()
    padded = torch.nn.functional.pad(runs, (1, 1), value=-math.inf)
    peaks = runs[(runs > padded[:-2]) & (runs > padded[2:])]
    count = torch.tensor(float(len(peaks)), dtype=h.dtype)
    levels = torch.tensor(QUANTILES, dtype=h.dtype)
    if h.isnan().any():
        return h.new_full((5 + len(levels),), math.nan)
    numbers = (h.mean(), h.std(correction=0), *h.quantile(levels), count, peaks.mean(), count / len(h))
    return torch.stack(numbers)
