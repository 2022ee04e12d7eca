"""Logistic regression on standardised inputs or on their principal components."""

from __future__ import annotations

import numpy as np
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from metrics.fitted.estimators import Params, estimator, standard

MOST_STEPS = 2000
"""Iterations of the optimiser; inputs are standardised, so far fewer are usual."""


def apply_logistic(params: Params, x: np.ndarray) -> np.ndarray:
    """P(wrong) = expit(w . (x - m) / s + b)."""
    a = params.arrays
    return expit(((x - a["mean"]) / a["spread"]) @ a["weight"] + a["intercept"][0])


@estimator(apply=apply_logistic, source="scikit-learn")
def logistic(x: np.ndarray, y: np.ndarray, *, c: float = 1.0, pca: int = 0) -> Params:
    """Logistic regression: P(wrong) = expit(w . z + b) of standardised inputs z.

    Of least sum of log losses + |w|^2 / (2 c). With `pca`, z is first projected on its so many principal axes, or on as
    many as there are, and the weights are given back in terms of the inputs.

    Raises:
        ValueError: no input varies, or c is not above 0.
    """
    if not c > 0:
        raise ValueError(f"logistic: c={c} is not above 0")
    mean, spread = standard(x)
    z = (x - mean) / spread
    axes = np.linalg.svd(z, full_matrices=False)[2][:pca] if pca else None
    model = LogisticRegression(C=c, max_iter=MOST_STEPS).fit(z if axes is None else z @ axes.T, y)
    weight = model.coef_[0] if axes is None else axes.T @ model.coef_[0]
    arrays = {"mean": mean, "spread": spread, "weight": weight, "intercept": model.intercept_}
    return Params(arrays, {"components": len(axes)} if axes is not None else {})
