"""Metrics of several sampled answers to one prompt."""

import torch
from torch import Tensor

from metrics.core import metric
from metrics.signals.samples import CLUSTERINGS


def _of(sample_clusters: Tensor, clusters: str) -> Tensor:
    if clusters not in CLUSTERINGS:
        raise ValueError(f"clusters='{clusters}' is not known; choose {', '.join(CLUSTERINGS)}")
    return sample_clusters[CLUSTERINGS.index(clusters)]


@metric(
    higher="uncertain",
    unit="nat",
    source="Farquhar et al., Nature 630 (2024), discrete semantic entropy",
    variants=[{"clusters": "embedding"}, {"clusters": "nli"}],
)
def discrete_semantic_entropy(sample_clusters: Tensor, *, clusters: str = "answer") -> Tensor:
    """Entropy of the meanings among the samples: -sum_c (n_c / n) ln (n_c / n).

    n_c of the n samples are in cluster c; duplicates count. Range [0, ln n].
    """
    _, counts = torch.unique(_of(sample_clusters, clusters), return_counts=True)
    return torch.special.entr(counts.double() / counts.sum()).sum()
