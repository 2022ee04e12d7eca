"""Amortised semantic embedding uncertainty: how far apart the answers' meanings would lie, read off a hidden state."""

from __future__ import annotations

import numpy as np

from metrics.fitted.estimators import Params, estimator, standard

FOLDS = 5
"""Parts of the documents, each predicted by the others, whose errors give the spread."""

SMALLEST = 1e-12
"""Added to a squared error before its logarithm is taken."""

MEAN_LOG_CHI = -1.2703628454614782
"""E[ln z^2] of a standard normal z, by which ln of a squared error lies below ln of the variance on average."""


def apply_aseu(params: Params, x: np.ndarray) -> np.ndarray:
    """1 less the median cosine over pairs of drawn embeddings; every document meets the same standard normal draws."""
    a = params.arrays
    z = (x - a["mean"]) / a["spread"]
    centre = z @ a["weight"] + a["bias"]
    deviation = np.exp((z @ a["log_weight"] + a["log_bias"]) / 2)
    first, second = np.triu_indices(len(a["noise"]), 1)
    scores = np.empty(len(x))
    for i in range(len(x)):
        drawn = (centre[i] + deviation[i] * a["noise"]) @ a["axes"] + a["origin"]
        unit = drawn / np.linalg.norm(drawn, axis=1, keepdims=True)
        scores[i] = 1 - np.median((unit @ unit.T)[first, second])
    return scores


@estimator(apply=apply_aseu, source="arXiv:2410.22685")
def aseu(
    x: np.ndarray, y: np.ndarray, *, ridge: float = 1.0, components: int = 16, draws: int = 32, seed: int = 0
) -> Params:
    """ASEU: a Gaussian over the meaning's embedding, read off the state, and 1 - median cosine of pairs of its draws.

    y is ``[n, samples, e]``: sentence embeddings of each document's sampled answers, NaN where one is missing. With u
    the coordinates of an embedding along the `components` first principal axes of all of them and z the standardised
    state, u ~ N(W z + b, diag(exp(V z + c))). W and b are a ridge regression on the samples' means (penalty `ridge`
    times the documents on |W|^2), V and c one on ln of the samples' squared errors, each predicted by four fifths of
    the documents and corrected by the mean of ln chi^2, 1.27. Range [0, 2].

    The score is the source's. The source trains latent variables inside the model by a variational bound; the
    regression on recorded states in its place is ours. `seed` draws the folds and the normal numbers.

    Raises:
        ValueError: no input varies, y is not of three dimensions, or a document has no sample.
    """
    if y.ndim != 3:
        raise ValueError(f"aseu: y has shape {y.shape}; give embeddings (documents, samples, width)")
    known = np.isfinite(y).all(axis=2)
    if not (known.sum(axis=1) > 0).all():
        raise ValueError(f"aseu: {int((known.sum(axis=1) == 0).sum())} documents have no sample; leave them out")
    mean, spread = standard(x)
    z = (x - mean) / spread
    points = y[known]
    origin = points.mean(axis=0)
    axes = np.linalg.svd(points - origin, full_matrices=False)[2][:components]
    u = (y - origin) @ axes.T
    rng = np.random.default_rng(seed)
    fold = rng.permutation(len(z)) % min(FOLDS, len(z))
    target = np.nanmean(u, axis=1)
    error = np.empty_like(u)
    for k in np.unique(fold):
        weight, bias = _ridge(z[fold != k], target[fold != k], ridge)
        error[fold == k] = u[fold == k] - (z[fold == k] @ weight + bias)[:, None]
    spread_log = np.nanmean(np.log(error**2 + SMALLEST), axis=1) - MEAN_LOG_CHI
    weight, bias = _ridge(z, target, ridge)
    log_weight, log_bias = _ridge(z, spread_log, ridge)
    arrays = {"mean": mean, "spread": spread, "weight": weight, "bias": bias, "log_weight": log_weight}
    arrays |= {"log_bias": log_bias, "axes": axes, "origin": origin, "noise": rng.standard_normal((draws, len(axes)))}
    return Params(arrays, {"components": len(axes)})


def _ridge(z: np.ndarray, target: np.ndarray, penalty: float) -> tuple[np.ndarray, np.ndarray]:
    """Weights (d, r) and bias (r,) of least |target - z w - b|^2 + penalty n |w|^2, in the smaller of n and d."""
    centre, level = z.mean(axis=0), target.mean(axis=0)
    a, n = z - centre, len(z)
    if a.shape[1] <= n:
        weight = np.linalg.solve(a.T @ a + penalty * n * np.eye(a.shape[1]), a.T @ (target - level))
    else:
        weight = a.T @ np.linalg.solve(a @ a.T + penalty * n * np.eye(n), target - level)
    return weight, level - centre @ weight
