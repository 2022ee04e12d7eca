"""Sampled answers in clusters of one meaning: how many meanings there are, and how probable each is.

A sample that occurs twice counts twice, and the order of the samples is of no account; `self_consistency` is of the
scored one. With l_s the log-probability of sample s, ``likelihood=mean`` takes it per token (Farquhar et al.),
``likelihood=sum`` of the whole. Undefined (NaN) where a sample has no cluster or no likelihood.
"""

import torch
from torch import Tensor

from metrics.core import metric
from metrics.signals.samples import clusters_by

CLUSTERS = ({"clusters": "embedding"}, {"clusters": "nli"})
"""The variants of what is computed from clusters."""


@metric(
    higher="uncertain",
    unit="nat",
    source="doi:10.1038/s41586-024-07421-0",
    variants=[*CLUSTERS, {"likelihood": "sum"}],
)
def semantic_entropy(
    sample_log_probability: Tensor,
    sample_length: Tensor,
    sample_clusters: Tensor,
    *,
    clusters: str = "answer",
    likelihood: str = "mean",
) -> Tensor:
    """Semantic entropy: -sum_c p_c ln p_c, p_c = sum_{s in c} exp l_s / sum_s exp l_s.

    Normalised over the samples, so that the p_c sum to one. Range [0, ln of the number of clusters]; 0 of one sample
    and of samples of one meaning.

    Raises:
        ValueError: unknown `clusters` or `likelihood`.
    """
    log_share = log_likelihood(sample_log_probability, sample_length, likelihood).log_softmax(0)
    log_cluster = (log_share + _together(sample_clusters, clusters).log()).logsumexp(-1)
    return -(log_share.exp() * log_cluster).sum()


@metric(
    higher="uncertain",
    unit="nat",
    source="https://github.com/IINemo/lm-polygraph",
    variants=CLUSTERS,
)
def semantic_entropy_polygraph(
    sample_log_probability: Tensor, sample_clusters: Tensor, *, clusters: str = "answer"
) -> Tensor:
    """Semantic entropy as LM-Polygraph has it: -(1/n) sum_s ln sum_{s' in c(s)} P(s'), P the sequence probability.

    Not normalised: the probability of a meaning grows with each sample that has it, duplicates too, and may exceed one,
    so that the score grows with length and may be negative. All samples equal: -ln P - ln n.

    Raises:
        ValueError: unknown `clusters`.
    """
    summed = (sample_log_probability + _together(sample_clusters, clusters).log()).logsumexp(-1)
    return -summed.mean()


@metric(higher="uncertain", unit="nat", source="doi:10.1038/s41586-024-07421-0", variants=CLUSTERS)
def discrete_semantic_entropy(sample_clusters: Tensor, *, clusters: str = "answer") -> Tensor:
    """Entropy of the meanings among the samples: -sum_c (n_c / n) ln (n_c / n).

    n_c of the n samples are in cluster c. Range [0, ln n]; 0 of samples of one meaning, ln 2 of two that differ.

    Raises:
        ValueError: unknown `clusters`.
    """
    return -_shares(sample_clusters, clusters).log().mean() + 0.0  # of one cluster 0, not -0


@metric(higher="uncertain", unit="1", source="arXiv:2305.19187", variants=CLUSTERS)
def semantic_sets(sample_clusters: Tensor, *, clusters: str = "answer") -> Tensor:
    """Number of meanings among the samples. Range [1, n].

    Raises:
        ValueError: unknown `clusters`.
    """
    together = _together(sample_clusters, clusters)
    return (1 / together.sum(-1)).sum().round()


@metric(higher="uncertain", unit="1", source="https://github.com/IINemo/lm-polygraph")
def semantic_sets_connected(sample_nli: Tensor) -> Tensor:
    """Number of meanings as LM-Polygraph counts them: parts of the graph of samples that entail each other.

    Two samples are joined where entailment is more probable than contradiction in both directions; a meaning is all
    that hangs together, so two samples may be of one that are not joined. Range [1, n].
    """
    entails = sample_nli[..., 0] > sample_nli[..., 2]
    joined = (entails & entails.mT).double() + torch.eye(len(entails), dtype=torch.float64)
    for _ in range(len(entails).bit_length()):
        joined = (joined @ joined).sign()
    return (1 / joined.sum(-1)).sum().round() + 0 * sample_nli.double().sum()


@metric(higher="confident", unit="1", source="https://github.com/IINemo/lm-polygraph", variants=CLUSTERS)
def label_probability(sample_clusters: Tensor, *, clusters: str = "answer") -> Tensor:
    """Share of the samples that have the most frequent meaning: max_c n_c / n. Range [1 / n, 1].

    LM-Polygraph's LabelProb is one minus it.

    Raises:
        ValueError: unknown `clusters`.
    """
    return _shares(sample_clusters, clusters).max()


@metric(higher="confident", unit="1", source="arXiv:2203.11171", variants=CLUSTERS)
def self_consistency(sample_clusters: Tensor, sample_index: Tensor, *, clusters: str = "answer") -> Tensor:
    """Share of the samples, itself among them, that mean what the scored answer means: n_c / n. Range [1 / n, 1].

    Raises:
        ValueError: unknown `clusters`.
    """
    return _shares(sample_clusters, clusters)[sample_index]


@metric(higher="uncertain", unit="nat", source="arXiv:2002.07650", variants=[{"likelihood": "sum"}])
def monte_carlo_entropy(sample_log_probability: Tensor, sample_length: Tensor, *, likelihood: str = "mean") -> Tensor:
    """Entropy of the answers as sequences, estimated by the samples: -(1/n) sum_s l_s, also called naive entropy.

    With ``likelihood=sum`` an unbiased estimate of the sequences' entropy, which grows with length. Range [0, inf).

    Raises:
        ValueError: unknown `likelihood`.
    """
    return -log_likelihood(sample_log_probability, sample_length, likelihood).mean()


def log_likelihood(sample_log_probability: Tensor, sample_length: Tensor, likelihood: str) -> Tensor:
    """Log-probability of each sample, per token or of the whole.

    Raises:
        ValueError: `likelihood` is neither ``mean`` nor ``sum``.
    """
    if likelihood not in ("mean", "sum"):
        raise ValueError(f"likelihood='{likelihood}' is not known; choose mean, sum")
    return sample_log_probability / sample_length if likelihood == "mean" else sample_log_probability


def _together(sample_clusters: Tensor, clusters: str) -> Tensor:
    """1 where two samples are in one cluster, else 0; NaN throughout if a sample is in none. ``[sample, sample]``."""
    ids = clusters_by(sample_clusters, clusters)
    return (ids[:, None] == ids).double() + 0 * ids.double().sum()


def _shares(sample_clusters: Tensor, clusters: str) -> Tensor:
    """n_c / n of each sample's cluster."""
    return _together(sample_clusters, clusters).mean(-1)
