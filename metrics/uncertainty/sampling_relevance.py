"""Likelihood shifted to what matters: to the tokens that carry an answer's meaning, to the samples that agree.

The relevance of a token is 1 - the similarity of the text with and without it, made by a sentence model (signal
`token_relevance`). Equal samples each count, the order is of no account.
"""

from torch import Tensor

from metrics.core import metric
from metrics.signals.samples import affinity_by

AFFINITIES = ({"affinity": "rouge_l"}, {"affinity": "entailment"})
TEMPERATURE = 0.001


@metric(higher="uncertain", unit="nat", source="arXiv:2307.01379")
def token_sar(logprob: Tensor, token_relevance: Tensor) -> Tensor:
    """TokenSAR: negative log-likelihood, tokens weighted by their share of relevance: -sum_t l_t R_t / sum_t R_t.

    Of one answer. Range [0, inf); NaN where no token has any relevance.
    """
    weights = token_relevance.double()
    return -(logprob.double() * weights).sum() / weights.sum()


@metric(higher="uncertain", unit="nat", source="arXiv:2307.01379", variants=AFFINITIES)
def sentence_sar(
    sample_log_probability: Tensor,
    sample_affinity: Tensor,
    *,
    affinity: str = "embedding",
    temperature: float = TEMPERATURE,
) -> Tensor:
    """SentenceSAR: -(1/n) sum_s ln(P(s) + (1/t) sum_{s' != s} a(s, s') P(s')), t the `temperature`.

    A sample gains from the probability of those that are like it, equal ones too. Range (-inf, inf): the bracket may
    exceed one. Computed in logarithms, so that small probabilities do not vanish. Of one sample -ln P.

    Raises:
        ValueError: unknown `affinity`.
    """
    return _shifted(sample_log_probability, affinity_by(sample_affinity, affinity), temperature)


@metric(higher="uncertain", unit="nat", source="arXiv:2307.01379", variants=AFFINITIES)
def sar(
    sample_relevant_log_probability: Tensor,
    sample_affinity: Tensor,
    *,
    affinity: str = "embedding",
    temperature: float = TEMPERATURE,
) -> Tensor:
    """SAR: `sentence_sar` with `token_sar` of each sample in the place of its negative log-likelihood.

    Raises:
        ValueError: unknown `affinity`.
    """
    return _shifted(sample_relevant_log_probability, affinity_by(sample_affinity, affinity), temperature)


@metric(higher="uncertain", unit="nat", source="arXiv:2402.14259", variants=AFFINITIES)
def word_sequence_entropy(
    sample_relevant_log_probability: Tensor, sample_affinity: Tensor, *, affinity: str = "embedding"
) -> Tensor:
    """Word-sequence entropy: sum_s w_s `token_sar`(s), each sample weighted by its share of likeness to the others.

    w_s = r_s / sum r, r_s = sum_{s' != s} a(s, s'). The source weights words and sequences by relevance; that words are
    tokens here, and that both weights sum to one, is this project's reading. Range [0, inf); NaN of a single sample and
    where no two samples are alike.

    Raises:
        ValueError: unknown `affinity`.
    """
    likeness = affinity_by(sample_affinity, affinity)
    relevance = likeness.sum(-1) - likeness.diagonal()
    return -(relevance * sample_relevant_log_probability).sum() / relevance.sum()


def _shifted(log_probability: Tensor, likeness: Tensor, temperature: float) -> Tensor:
    """-(1/n) sum_s ln(P(s) + (1/t) sum_{s' != s} a(s, s') P(s')), from the logarithms of P."""
    weights = likeness / temperature
    weights.fill_diagonal_(1)
    return -(weights.log() + log_probability).logsumexp(-1).mean()
