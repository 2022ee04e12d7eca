"""Gradient boosting, its trees kept as arrays."""

from __future__ import annotations

import numpy as np
from scipy.special import expit, logit
from sklearn.ensemble import GradientBoostingClassifier

from metrics.fitted.estimators import Params, estimator, standard


def apply_boosting(params: Params, x: np.ndarray) -> np.ndarray:
    """P(wrong) = expit(b + rate * sum of the trees' leaves).

    Every tree is a slice of the same arrays; a document goes left where its input, in single precision as at fitting,
    is at most the node's threshold.
    """
    a = params.arrays
    single = x.astype(np.float32)
    raw = np.full(len(x), a["start"][0])
    rows = np.arange(len(x))
    for root in a["roots"]:
        node = np.full(len(x), root)
        inner = a["left"][node] >= 0
        while inner.any():
            at = node[inner]
            goes_left = single[rows[inner], a["feature"][at]] <= a["threshold"][at]
            node[inner] = root + np.where(goes_left, a["left"][at], a["right"][at])
            inner = a["left"][node] >= 0
        raw = raw + params.settings["rate"] * a["value"][node]
    return expit(raw)


@estimator(apply=apply_boosting, source="Friedman 2001, Ann. Stat. 29:1189; scikit-learn")
def boosting(
    x: np.ndarray, y: np.ndarray, *, depth: int = 3, trees: int = 100, rate: float = 0.1, seed: int = 0
) -> Params:
    """Gradient boosting of the log loss: P(wrong) = expit(b + rate * sum_t leaf_t(x)), trees of some depth.

    `seed` breaks ties between equally good splits.

    Raises:
        ValueError: no input varies, or depth or trees is below 1.
    """
    if depth < 1 or trees < 1:
        raise ValueError(f"boosting: depth={depth}, trees={trees}; both are at least 1")
    standard(x)
    model = GradientBoostingClassifier(max_depth=depth, n_estimators=trees, learning_rate=rate, random_state=seed)
    fitted = [tree.tree_ for tree in model.fit(x, y).estimators_[:, 0]]
    sizes = [tree.node_count for tree in fitted]
    arrays = {
        "start": np.array([logit(float(y.mean()))]),
        "roots": np.concatenate(([0], np.cumsum(sizes)[:-1])).astype(np.int64),
        "left": np.concatenate([tree.children_left for tree in fitted]).astype(np.int64),
        "right": np.concatenate([tree.children_right for tree in fitted]).astype(np.int64),
        "feature": np.concatenate([tree.feature for tree in fitted]).astype(np.int64),
        "threshold": np.concatenate([tree.threshold for tree in fitted]),
        "value": np.concatenate([tree.value[:, 0, 0] for tree in fitted]),
    }
    return Params(arrays, {"rate": rate})
