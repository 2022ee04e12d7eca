"""Scores that take one more pass of the model: without the prompt, or with a question about the answer behind it."""

import torch
from torch import Tensor

from metrics.core import metric


@metric(higher="uncertain", unit="nat", source="arXiv:2210.13210")
def pmi(logprob: Tensor, logprob_alone: Tensor) -> Tensor:
    """Pointwise mutual information of prompt and answer, negated, a token: -(1/n) sum_t (l_t - m_t).

    l_t = ln p(y_t | y_<t, x) and m_t = ln p(y_t | y_<t), without the prompt. Any sign. LM-Polygraph
    (MeanPointwiseMutualInformation) takes m_t from the row of token t itself, which predicts the next one, and takes
    m_0 as 0; here m_t is in the row that predicts token t, and m_0 follows the first token that lm-eval itself puts
    before a text without context.
    """
    return -(logprob - logprob_alone).mean()


@metric(higher="uncertain", unit="nat", source="arXiv:2210.13210")
def cpmi(
    logprob: Tensor, logprob_alone: Tensor, entropy: Tensor, *, weight: float = 3.599, threshold: float = 0.0656
) -> Tensor:
    """Conditional PMI: the same, where the model hesitates: -(1/n) sum_t (l_t - weight [H_t >= threshold] m_t).

    H_t is the entropy of the next-token distribution in nats. The defaults are the source's best. Rows of m_t as in
    `pmi`, where LM-Polygraph's differ.
    """
    hesitant = (entropy >= threshold) | entropy.isnan()
    taken = torch.where(hesitant, weight * logprob_alone, 0.0) + 0 * entropy
    return -(logprob - taken).mean()


@metric(higher="confident", unit="probability", source="arXiv:2207.05221")
def p_true(true_logprob: Tensor) -> Tensor:
    """P(True): probability that the model calls its own answer true. Of the whole answer, whatever the span.

    The question follows prompt and answer, as a turn of its own where the prompt is a chat. LM-Polygraph's PTrue is
    -ln of `p_true_polygraph`. Range [0, 1].
    """
    return true_logprob.exp()


@metric(higher="confident", unit="probability", source="arXiv:2207.05221")
def p_true_relative(true_logprob: Tensor, false_logprob: Tensor) -> Tensor:
    """P(True) among the two replies asked for: P(True) / (P(True) + P(False)). Of the whole answer.

    Unlike `p_true`, a model that replies in other words is not thereby unsure. Range [0, 1].
    """
    return (true_logprob - false_logprob).sigmoid()


@metric(higher="confident", unit="probability", source="https://github.com/IINemo/lm-polygraph")
def p_true_polygraph(true_logprob_polygraph: Tensor) -> Tensor:
    """P(True) in LM-Polygraph's words: prompt and answer are quoted as text, and one spelling counts. Of the answer.

    Its PTrue is -ln of this. Range [0, 1].
    """
    return true_logprob_polygraph.exp()


@metric(higher="uncertain", unit="nat", source="arXiv:2406.01806")
def csl(logprob: Tensor, csl_weight: Tensor) -> Tensor:
    """Contextualized sequence likelihood: -sum_t w_t l_t, w_t the attention to token t over its sum.

    a_t is the attention that the last token of a prompt asking whether the answer is correct gives to token t, mean
    over heads, and w_t = a_t / sum_s a_s; as in LM-Polygraph's CSL. The source picks the ten heads of best AUROC on
    labelled answers; here all heads count, and no label is looked at. Range [0, inf).
    """
    return _weighted_nll(logprob, csl_weight)


@metric(higher="uncertain", unit="nat", source="https://github.com/zlin7/ContextSL")
def csl_by_head(logprob: Tensor, csl_head_weight: Tensor) -> Tensor:
    """`csl` as its authors' code has it: scored a head at a time, then the mean of the scores.

    mean_h(-sum_t a_ht l_t / sum_s a_hs), so heads that look elsewhere count as much as those that look at the answer.
    """
    return _weighted_nll(logprob, csl_head_weight)


@metric(higher="uncertain", unit="nat", source="arXiv:2406.01806")
def csl_next(logprob: Tensor, csl_next_weight: Tensor) -> Tensor:
    """CSL-Next: the same, with the attention of the answer's own last token instead of an eliciting prompt's."""
    return _weighted_nll(logprob, csl_next_weight)


def _weighted_nll(logprob: Tensor, weight: Tensor) -> Tensor:
    """-sum_t w_t l_t / sum_t w_t; NaN where no weight is left."""
    return -(weight * logprob).sum() / weight.sum()
