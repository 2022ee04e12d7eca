"""How alike the samples of a document are, and how alike the others are to the scored one.

``affinity`` says by what: words (``jaccard``, ``rouge_l``, ``bleu``), BERTScore, embeddings, or an NLI model
(``entailment``, ``contradiction``). Every sample counts, equal ones each; the order is of no account.
"""

import torch
from torch import Tensor

from metrics.core import metric
from metrics.signals.samples import affinity_by

COCOA = ({"affinity": "rouge_l"}, {"affinity": "entailment"})


@metric(
    higher="confident",
    unit="1",
    source="arXiv:2005.10608",
    variants=[{"affinity": "bleu"}, {"affinity": "jaccard"}, {"affinity": "bertscore"}],
)
def lexical_similarity(sample_affinity: Tensor, *, affinity: str = "rouge_l") -> Tensor:
    """Mean similarity of two samples, over all pairs of different ones: 2 / (n (n - 1)) sum_{i<j} a_ij.

    Range [0, 1]; 1 of samples that are all equal, NaN of a single one.

    Raises:
        ValueError: unknown `affinity`.
    """
    return _to_others(affinity_by(sample_affinity, affinity)).mean()


@metric(higher="uncertain", unit="1", source="arXiv:2410.22685")
def seu(sample_embedding: Tensor) -> Tensor:
    """Semantic embedding uncertainty: 1 - 2 / (n (n - 1)) sum_{i<j} cos(e_i, e_j), e a sentence encoder's vectors.

    Range [0, 1 + 1 / (n - 1)]; 0 of samples that are all equal, NaN of a single one and of a vector of zeros.
    """
    vectors = sample_embedding.double()
    unit = vectors / vectors.norm(dim=-1, keepdim=True)
    return 1 - _to_others(unit @ unit.mT).mean()


@metric(higher="uncertain", unit="1", source="arXiv:2403.20279")
def luq(sample_nli: Tensor) -> Tensor:
    """LUQ of whole answers: 1 - mean of P(entails) / (P(entails) + P(contradicts)) over ordered pairs of samples.

    No sample is paired with itself. Range [0, 1]; NaN of a single one. The source cuts long answers into sentences;
    here an answer is one text.
    """
    entails, contradicts = sample_nli[..., 0].double(), sample_nli[..., 2].double()
    return 1 - _to_others(entails / (entails + contradicts)).mean()


@metric(higher="confident", unit="1", source="arXiv:2405.13845")
def semantic_density(
    sample_nli: Tensor,
    sample_text: Tensor,
    sample_log_probability: Tensor,
    sample_length: Tensor,
    sample_index: Tensor,
) -> Tensor:
    """Semantic density at the scored answer y: sum_s q_s (1 - d_s) / sum_s q_s, over the distinct texts s.

    q_s = P(s)^(1 / length), and d_s the mean over both directions of P(contradiction) + P(neutral) / 2 between s and y;
    0 of y itself. Of equal texts the first counts, with its probability. Range [0, 1]; 1 of samples that are all equal.
    LM-Polygraph takes one direction, and y once more beside a sample of the same text.
    """
    different = sample_nli[..., 2].double() + sample_nli[..., 1].double() / 2
    same_text = sample_text[:, None] == sample_text
    kernel = 1 - ((different + different.mT) / 2).where(~same_text, 0.0)
    first = same_text.double().argmax(-1) == torch.arange(len(sample_text))
    weights = (sample_log_probability / sample_length)[first].softmax(0)
    return (kernel[:, first] * weights).sum(-1)[sample_index]


@metric(higher="uncertain", unit="nat", source="arXiv:2502.04964", variants=COCOA)
def cocoa_msp(
    sample_log_probability: Tensor, sample_affinity: Tensor, sample_index: Tensor, *, affinity: str = "embedding"
) -> Tensor:
    """CoCoA of the sequence probability: -ln P(y) times the mean of 1 - a(y, s) over the other samples s.

    Range [0, inf); 0 where the others are all equal to the scored y, NaN without others. The source draws the others
    beside a greedy y.

    Raises:
        ValueError: unknown `affinity`.
    """
    return -sample_log_probability[sample_index] * _dissimilarity(sample_affinity, sample_index, affinity)


@metric(higher="uncertain", unit="nat", source="arXiv:2502.04964", variants=COCOA)
def cocoa_ppl(
    sample_log_probability: Tensor,
    sample_length: Tensor,
    sample_affinity: Tensor,
    sample_index: Tensor,
    *,
    affinity: str = "embedding",
) -> Tensor:
    """CoCoA of the perplexity: negative log-likelihood a token times the mean dissimilarity, as in `cocoa_msp`.

    Raises:
        ValueError: unknown `affinity`.
    """
    mean_nll = -sample_log_probability[sample_index] / sample_length[sample_index]
    return mean_nll * _dissimilarity(sample_affinity, sample_index, affinity)


@metric(higher="uncertain", unit="nat", source="arXiv:2502.04964", variants=COCOA)
def cocoa_mte(
    sample_entropy: Tensor, sample_affinity: Tensor, sample_index: Tensor, *, affinity: str = "embedding"
) -> Tensor:
    """CoCoA of the mean token entropy: the scored answer's, times the mean dissimilarity, as in `cocoa_msp`.

    Raises:
        ValueError: unknown `affinity`.
    """
    return sample_entropy[sample_index] * _dissimilarity(sample_affinity, sample_index, affinity)


def _to_others(values: Tensor) -> Tensor:
    """Mean of each row of a matrix over all columns but its own; NaN of a single row."""
    return (values.sum(-1) - values.diagonal()) / (len(values) - 1)


def _dissimilarity(sample_affinity: Tensor, sample_index: Tensor, affinity: str) -> Tensor:
    """1 - the mean affinity of the other samples to the scored one; NaN without others."""
    return (1 - _to_others(affinity_by(sample_affinity, affinity)))[sample_index]
