"""The samples of a document as a matrix: degrees and eigenvalues of what is alike, or of their hidden states.

W is the matrix of affinities, D the diagonal one of its row sums. Equal samples each count, the order is of no account.
Undefined (NaN) where an affinity is, and where a row sums to nothing.
"""

import math

import torch
from torch import Tensor

from metrics.core import metric
from metrics.signals.samples import affinity_by
from metrics.uncertainty.recorded import at_layer

KINDS = ({"affinity": "entailment"}, {"affinity": "contradiction"}, {"affinity": "embedding"})
"""The variants of what is computed from affinities."""


@metric(higher="uncertain", unit="1", source="arXiv:2305.19187", variants=KINDS)
def degree_matrix(sample_affinity: Tensor, *, affinity: str = "jaccard") -> Tensor:
    """Trace of n I - D over n^2, that is 1 - the mean of W. Range [0, 1 - 1 / n]; 0 of samples that are all equal.

    A sample's affinity to itself counts.

    Raises:
        ValueError: unknown `affinity`.
    """
    return 1 - affinity_by(sample_affinity, affinity).mean()


@metric(higher="uncertain", unit="1", source="arXiv:2305.19187", variants=KINDS)
def eigval_laplacian(sample_affinity: Tensor, *, affinity: str = "jaccard") -> Tensor:
    """A continuous number of meanings: sum_k max(0, 1 - lambda_k), lambda of the Laplacian I - D^-1/2 W D^-1/2.

    Range [1, n]; 1 of samples that are all equal, n of samples that have nothing in common.

    Raises:
        ValueError: unknown `affinity`.
    """
    values, _ = _eigen(_normalised(affinity_by(sample_affinity, affinity)))
    return values.relu().sum()


@metric(higher="uncertain", unit="1", source="arXiv:2305.19187", variants=KINDS)
def eccentricity(sample_affinity: Tensor, *, affinity: str = "jaccard", threshold: float = 0.9) -> Tensor:
    """How far the samples lie from their centre: ||V - mean of its rows||, a row for each sample.

    The columns of V are the eigenvectors of the Laplacian I - D^-1/2 W D^-1/2 with eigenvalues below `threshold`. Range
    [0, sqrt n); 0 of samples that are all equal.

    Raises:
        ValueError: unknown `affinity`.
    """
    values, vectors = _eigen(_normalised(affinity_by(sample_affinity, affinity)))
    kept = vectors.where(1 - values < threshold, 0) + 0 * values
    return (kept - kept.mean(0)).norm()


@metric(higher="uncertain", unit="1", source="arXiv:2405.20003", variants=[{"kernel": "matern"}])
def kernel_language_entropy(
    sample_nli: Tensor, *, kernel: str = "heat", t: float = 0.3, kappa: float = 1.0, nu: float = 1.0
) -> Tensor:
    """Kernel language entropy: von Neumann entropy -tr K ln K of a kernel over the samples, over ln n. Range [0, 1].

    L is the Laplacian D - W of W_ij = P(i entails j) + P(j entails i) + half of both of neutral. The kernel is
    exp(-t L), or with ``kernel=matern`` (2 nu / kappa^2 I + L)^-nu, scaled to a diagonal of 1 / n. NaN of a single
    sample. Samples that are all equal are not quite sure: only as t grows does the heat kernel's entropy fall to 0.

    Raises:
        ValueError: unknown `kernel`.
    """
    entails, neutral = sample_nli[..., 0].double(), sample_nli[..., 1].double()
    weights = entails + entails.mT + (neutral + neutral.mT) / 2
    values, vectors = _eigen(weights.sum(-1).diag() - weights)
    if kernel == "heat":
        filtered = (-t * values).exp()
    elif kernel == "matern":
        filtered = (2 * nu / kappa**2 + values) ** -nu
    else:
        raise ValueError(f"kernel='{kernel}' is not known; choose heat, matern")
    matrix = vectors * filtered @ vectors.mT
    scale = matrix.diagonal().rsqrt()
    mixed, _ = _eigen(scale[:, None] * matrix * scale / len(matrix))
    most = math.log(len(matrix)) or math.nan
    return torch.special.entr(mixed.relu()).sum() / most  # a kernel has no negative eigenvalue but by rounding


@metric(
    higher="uncertain",
    unit="nat",
    source="arXiv:2402.03744",
    variants=[{"scale": "gram"}, {"layer": "-1"}],
)
def eigenscore(sample_states: Tensor, *, layer: str = "0.5", scale: str = "covariance", alpha: float = 0.001) -> Tensor:
    """EigenScore: (1/n) ln det(S + alpha I), S = Z J Z^T of the samples' states Z at one layer, [n, dim].

    J takes the mean over the features from each state. ``scale=covariance`` divides S by dim - 1, as INSIDE's code
    does, whose logarithm is decimal; ``scale=gram`` does not, as the paper and LM-Polygraph have it. Equal states leave
    ln alpha for all eigenvalues but one, so (ln(n s² + alpha) + (n - 1) ln alpha) / n, s² the state's own entry of S:
    not a constant, it orders such documents by the spread of one state. INSIDE takes the state after another token (see
    `hidden_last`) and, before it, clips features at recorded percentiles, which is not done here. ``layer=all`` is the
    mean over layers.

    Raises:
        ValueError: `layer` names no recorded layer, or `scale` is unknown.
    """
    if scale not in ("covariance", "gram"):
        raise ValueError(f"scale='{scale}' is not known; choose covariance, gram")
    states = at_layer(sample_states.transpose(0, 1), layer)
    centred = states - states.mean(-1, keepdim=True)
    spread = centred @ centred.mT / (states.shape[-1] - 1 if scale == "covariance" else 1)
    values, _ = _eigen(spread + alpha * torch.eye(spread.shape[-1], dtype=spread.dtype))
    return values.log().mean()


def _normalised(affinities: Tensor) -> Tensor:
    """D^-1/2 W D^-1/2, whose eigenvalues are 1 - those of the normalised Laplacian."""
    scale = affinities.sum(-1).rsqrt()
    return scale[:, None] * affinities * scale


def _eigen(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues and eigenvectors of a symmetric matrix; NaN where an entry is not finite."""
    if not bool(matrix.isfinite().all()):
        return matrix.new_full(matrix.shape[:-1], math.nan), torch.full_like(matrix, math.nan)
    return torch.linalg.eigh(matrix)
