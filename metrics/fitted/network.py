"""A small feed-forward network, as SAPLMA trains it."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.special import expit
from sklearn.neural_network import MLPClassifier

from metrics.fitted.estimators import Params, estimator, standard

HIDDEN = (256, 128, 64)
"""Units of SAPLMA's three hidden layers."""

BATCH = 32
"""Documents a step of the optimiser."""


def apply_network(params: Params, x: np.ndarray) -> np.ndarray:
    """P(wrong): the sigmoid of the last layer, ReLU between layers."""
    a, layers = params.arrays, len(params.arrays) // 2 - 1
    z = (x - a["mean"]) / a["spread"]
    for i in range(layers):
        z = z @ a[f"weight_{i}"] + a[f"bias_{i}"]
        z = np.maximum(z, 0) if i < layers - 1 else z
    return expit(z[:, 0])


@estimator(apply=apply_network, source="arXiv:2304.13734")
def network(x: np.ndarray, y: np.ndarray, *, epochs: int = 5, rate: float = 1e-3, seed: int = 0) -> Params:
    """Network of 256, 128 and 64 ReLU units and a sigmoid, fitted by Adam for a fixed number of passes, 32 rows a step.

    Inputs are standardised, which the source does not do; without it the step size would depend on the model's scale.
    There is no early stopping. `seed` draws the first weights and the order of the documents.

    Raises:
        ValueError: no input varies, or epochs is below 1.
    """
    if epochs < 1:
        raise ValueError(f"network: epochs={epochs} is below 1")
    mean, spread = standard(x)
    z = (x - mean) / spread
    batch: Any = min(BATCH, len(z))  # the stubs know only 'auto'
    stream = np.random.RandomState(seed)  # an int would start each pass with the same order again
    model = MLPClassifier(HIDDEN, alpha=0.0, batch_size=batch, learning_rate_init=rate, random_state=stream)
    for _ in range(epochs):  # one pass each; fit() would stop by a rule of its own, and warn
        model.partial_fit(z, y, classes=[False, True])
    arrays = {"mean": mean, "spread": spread}
    for i, (weight, bias) in enumerate(zip(model.coefs_, model.intercepts_)):
        arrays |= {f"weight_{i}": weight, f"bias_{i}": bias}
    return Params(arrays)
