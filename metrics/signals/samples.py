"""Several answers to one prompt, side by side: what sampling metrics are computed from.

The first axis is ``sample``: the samples of a document in the order of their occurrence. Raw ones are put together from
texts by `metrics.samples`; gathered ones make an entry of each sample's own signals, cut to the span.
"""

import torch
from torch import Tensor

from metrics.core import gathered, raw

CLUSTERINGS = ("answer", "embedding", "nli")
"""How samples of one meaning are found: equal filtered answers, near embeddings, or entailment both ways."""

AFFINITIES = ("jaccard", "rouge_l", "bleu", "bertscore", "embedding", "entailment", "contradiction")
"""How alike two samples are, from 0 to 1: by words; by vectors, (1 + cosine) / 2; by the mean over both directions of
the probability that one entails the other, or that it does not contradict it.
"""

raw(
    "sample_index",
    axes=(),
    unit="1",
    cost="samples",
    dtype="int64",
    summary="Which of the document's samples the scored answer is; or several, which then each get a score.",
)
raw(
    "sample_text",
    axes=("sample",),
    unit="id",
    cost="samples",
    summary="A number for each sample's text, the same for equal texts.",
)
raw(
    "sample_clusters",
    axes=(f"clustering={len(CLUSTERINGS)}", "sample"),
    unit="id",
    cost="samples",
    summary="The cluster of one meaning that each sample is in, by answer, by embedding and by NLI; NaN if not made.",
)
raw(
    "sample_affinity",
    axes=(f"affinity={len(AFFINITIES)}", "sample", "sample"),
    unit="1",
    cost="samples",
    summary="How alike each two samples are, by each kind of affinity; NaN for kinds that are not made.",
)
raw(
    "sample_nli",
    axes=("sample", "sample", "relation=3"),
    unit="probability",
    cost="samples",
    summary="Probability that the first sample entails, is neutral to and contradicts the second.",
)
raw(
    "sample_embedding",
    axes=("sample", "dim"),
    unit="1",
    cost="samples",
    summary="A sentence encoder's vector of each sample's text.",
)
raw(
    "token_relevance",
    axes=("token",),
    unit="1",
    cost="samples",
    summary="How much an answer's meaning changes without each token: 1 - similarity of the text with and without it.",
)


@gathered(axes=("sample",), unit="nat")
def sample_log_probability(logprob: Tensor) -> Tensor:
    """Log-probability of each sample: the sum over its tokens."""
    return logprob.double().sum()


@gathered(axes=("sample",), unit="token")
def sample_length(token_count: Tensor) -> Tensor:
    """Tokens of each sample."""
    return token_count.double()


@gathered(axes=("sample",), unit="nat")
def sample_entropy(entropy: Tensor) -> Tensor:
    """Mean entropy of each sample's tokens."""
    return entropy.double().mean()


@gathered(axes=("sample",), unit="nat")
def sample_relevant_log_probability(logprob: Tensor, token_relevance: Tensor) -> Tensor:
    """Log-probability of each sample, its tokens weighted by their share of relevance: sum_t l_t R_t / sum_t R_t.

    NaN where no token has any relevance.
    """
    weights = token_relevance.double()
    return torch.dot(logprob.double(), weights) / weights.sum()


@gathered(axes=("sample", "layer", "dim"), unit="1")
def sample_states(hidden_last: Tensor) -> Tensor:
    """State at each layer of the last token of each sample's whole generation, whatever span is scored."""
    return hidden_last.double()


def clusters_by(sample_clusters: Tensor, clusters: str) -> Tensor:
    """The cluster of each sample, ``[sample]``, by one of `CLUSTERINGS`.

    Raises:
        ValueError: another kind.
    """
    return _by("clusters", sample_clusters, CLUSTERINGS, clusters)


def affinity_by(sample_affinity: Tensor, affinity: str) -> Tensor:
    """How alike samples are, ``[sample, sample]`` in float64, by one of `AFFINITIES`.

    Raises:
        ValueError: another kind.
    """
    return _by("affinity", sample_affinity, AFFINITIES, affinity).double()


def _by(option: str, values: Tensor, kinds: tuple[str, ...], kind: str) -> Tensor:
    if kind not in kinds:
        raise ValueError(f"{option}='{kind}' is not known; choose {', '.join(kinds)}")
    return values[kinds.index(kind)]
