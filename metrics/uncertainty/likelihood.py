"""How probable the answer was: scores of the emitted tokens' own log-probabilities l_t = ln p(y_t | y_<t, x)."""

from torch import Tensor

from metrics.core import metric

ROUNDING = 1e-5
"""Relative error allowed to an entropy that was summed over a vocabulary in float32."""


@metric(higher="uncertain", unit="nat", source="folklore")
def sequence_nll(logprob: Tensor) -> Tensor:
    """Negative log-likelihood of the whole answer: -sum_t l_t. Grows with length.

    LM-Polygraph's MaximumSequenceProbability. Range [0, inf).
    """
    return -logprob.sum()


@metric(higher="uncertain", unit="nat", source="folklore")
def mean_nll(logprob: Tensor) -> Tensor:
    """Negative log-likelihood a token: -(1/n) sum_t l_t.

    The length-normalised score; LM-Polygraph calls it Perplexity without taking the exponential. Range [0, inf).
    """
    return -logprob.mean()


@metric(higher="uncertain", unit="1", source="folklore")
def perplexity(logprob: Tensor) -> Tensor:
    """Perplexity of the answer: exp of `mean_nll`, which ranks alike. Range [1, inf)."""
    return (-logprob.mean()).exp()


@metric(higher="confident", unit="probability", source="arXiv:2303.08896")
def min_probability(logprob: Tensor) -> Tensor:
    """Probability of the answer's least probable token: min_t exp(l_t)."""
    return logprob.min().exp()


@metric(higher="confident", unit="nat", source="arXiv:2310.16789")
def min_k(logprob: Tensor, *, share: float = 0.2) -> Tensor:
    """Min-K%: mean log-probability of the `share` least probable tokens, at least one of them.

    E = the max(1, floor(share n)) smallest l_t; the score is their mean. The authors' and others' code takes
    floor(share n), and so has no score when share n < 1. Range [-inf, 0].

    Raises:
        ValueError: share is not in (0, 1].
    """
    return lowest(logprob, share)


@metric(higher="confident", unit="sd", source="arXiv:2404.02936")
def min_k_plus_plus(logprob: Tensor, entropy: Tensor, varentropy: Tensor, *, share: float = 0.2) -> Tensor:
    """Min-K%++: the same mean over z-scores (l_t - mu_t) / sigma_t of the emitted token's log-probability.

    mu_t = E_v[ln p_v] = -H_t and sigma_t^2 = Var_v[ln p_v] under the next-token distribution. Where all possible tokens
    are equally probable sigma_t is 0 and so is the deviation, but for rounding; a deviation below ROUNDING H_t counts
    as 0, whatever sigma_t. A token that the model rules out gives minus infinity.

    Raises:
        ValueError: share is not in (0, 1].
    """
    deviation = logprob + entropy
    z = (deviation / varentropy.sqrt()).where(~(deviation.abs() <= ROUNDING * entropy), 0.0)
    return lowest(z, share)


def lowest(values: Tensor, share: float) -> Tensor:
    """Mean of the `share` lowest values, at least one; NaN if any is, which ascending order would put last."""
    return -(-values).sort(descending=True).values[: count(len(values), share)].mean()


def count(tokens: int, share: float) -> int:
    """How many tokens a share is: rounded down, at least one."""
    if not 0 < share <= 1:
        raise ValueError(f"share={share} is outside (0, 1]; 0.2 means 20 %")
    return max(1, int(share * tokens + 1e-9))
