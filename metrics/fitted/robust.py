"""Robust density estimation: kernel principal components and a covariance that outliers do not bend."""

from __future__ import annotations

import warnings

import numpy as np
from scipy.spatial.distance import cdist
from sklearn.covariance import MinCovDet
from sklearn.decomposition import KernelPCA

from metrics.fitted.estimators import Params, estimator, one_of
from metrics.fitted.gaussian import answers_of

GAMMAS = ("width", "scale")
A_COMPONENT = 4
"""Answers that each component needs at least: the robust covariance is of about half of the answers."""


def apply_rde(params: Params, x: np.ndarray) -> np.ndarray:
    """Squared Mahalanobis distance in the space of the kernel's components."""
    a = params.arrays
    away = _projected(dict(a), x, params.settings["gamma"]) - a["location"]
    return np.einsum("ni,ij,nj->n", away, a["precision"], away)


@estimator(apply=apply_rde, source="arXiv:2202.13914; lm-polygraph")
def rde(
    x: np.ndarray, y: np.ndarray, *, of: str = "right", components: int = 100, gamma: str = "width", seed: int = 0
) -> Params:
    """Robust density estimation: squared Mahalanobis distance of kernel components by a robust covariance.

    The covariance is that of least determinant among half of the answers. The kernel is exp(-g |a - b|^2), g = 1 / d
    (``width``, as lm-polygraph) or 1 / (d var) with the variance of all entries (``scale``), for states of any size.
    Of `components` so many are used as there are four answers for each, and not more than have a positive eigenvalue;
    the settings hold their number. `of` as for `mahalanobis`; `seed` draws the subsets of the robust covariance
    (Rousseeuw & Van Driessen 1999, Technometrics 41:212).

    A state far from all answers fitted on has a kernel of 0 with each of them, so all such states have one and the same
    score, which need not be a large one: the method's own limit, with states of any but a matching scale.

    Raises:
        ValueError: an unknown word, fewer than eight such answers, or states that are all equal.
    """
    one_of("rde", "gamma", gamma, GAMMAS)
    points = answers_of("rde", x, y, of, fewest=2 * A_COMPONENT)
    if not np.ptp(points, axis=0).any():
        raise ValueError(f"rde: the states of the {len(points)} answers to fit on are all equal")
    width = 1 / points.shape[1]
    scale = width if gamma == "width" else width / points.var()
    used = min(components, len(points) // A_COMPONENT)
    pca = KernelPCA(used, kernel="rbf", gamma=scale, eigen_solver="dense").fit(points)
    positive = pca.eigenvalues_ > pca.eigenvalues_.max() * 1e-10
    axes = np.asarray(pca.eigenvectors_)[:, positive] / np.sqrt(pca.eigenvalues_[positive])
    kernel_mean = np.exp(-scale * cdist(points, points, "sqeuclidean")).mean(axis=0)
    arrays = {"points": points, "components": axes, "kernel_mean": kernel_mean}
    with warnings.catch_warnings():  # a determinant that grows by rounding is scikit-learn's own affair
        warnings.filterwarnings("ignore", message="Determinant has increased", category=RuntimeWarning)
        robust = MinCovDet(random_state=seed).fit(_projected(arrays, points, scale))
    arrays |= {"location": robust.location_, "precision": robust.precision_}
    return Params(arrays, {"gamma": float(scale), "components": int(positive.sum())})


def _projected(arrays: dict[str, np.ndarray], x: np.ndarray, gamma: float) -> np.ndarray:
    """Kernel components (n, r) of rows, the kernel centred as it was at fitting."""
    kernel = np.exp(-gamma * cdist(x, arrays["points"], "sqeuclidean"))
    mean = arrays["kernel_mean"]
    return (kernel - mean - kernel.mean(axis=1, keepdims=True) + mean.mean()) @ arrays["components"]
