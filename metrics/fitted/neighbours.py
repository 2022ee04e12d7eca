"""Nearest neighbours of standardised inputs."""

from __future__ import annotations

import numpy as np
from scipy.spatial.distance import cdist

from metrics.fitted.estimators import Params, estimator, standard

ROWS = 1024
"""Documents whose distances are held at once."""


def apply_neighbours(params: Params, x: np.ndarray) -> np.ndarray:
    """Share of wrong ones among the k nearest fitted documents; of equal distances the earlier document is taken."""
    a, k = params.arrays, params.settings["k"]
    z = (x - a["mean"]) / a["spread"]
    found = [
        a["wrong"][cdist(z[i : i + ROWS], a["points"]).argsort(axis=1, kind="stable")[:, :k]].mean(axis=1)
        for i in range(0, len(z), ROWS)
    ]
    return np.concatenate(found) if found else np.zeros(0)


@estimator(apply=apply_neighbours, source="arXiv:2502.16570", fewest=lambda options: options["k"])
def neighbours(x: np.ndarray, y: np.ndarray, *, k: int = 5) -> Params:
    """Share of wrong answers among the k nearest documents, by Euclidean distance of standardised inputs.

    What is saved holds every fitted document's inputs.

    Raises:
        ValueError: no input varies, or k is not between 1 and the documents.
    """
    if not 1 <= k <= len(x):
        raise ValueError(f"neighbours: k={k} is outside 1..{len(x)}, the documents fitted on")
    mean, spread = standard(x)
    arrays = {"mean": mean, "spread": spread, "points": (x - mean) / spread, "wrong": y.astype(np.float64)}
    return Params(arrays, {"k": k})
