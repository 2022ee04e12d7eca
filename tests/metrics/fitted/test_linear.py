"""Logistic regression against scikit-learn's own pipeline and against its optimality condition."""

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from metrics.fitted.linear import apply_logistic, logistic


def draw(n=80, d=5, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, d)) * np.arange(1, d + 1) + 3
    return x, x[:, 0] + rng.normal(size=n) > 3


@pytest.mark.parametrize("c", [0.01, 1.0, 100.0])
def test_it_is_scikit_learns_pipeline(c):
    x, y = draw()
    peer = make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=2000)).fit(x, y)
    new = draw(seed=1)[0]
    assert apply_logistic(logistic(x, y, c=c), new) == pytest.approx(peer.predict_proba(new)[:, 1], abs=1e-12)


def test_the_gradient_of_the_stated_loss_is_zero():
    x, y = draw()
    params = logistic(x, y, c=0.5)
    z = (x - x.mean(0)) / x.std(0)
    residual = apply_logistic(params, x) - y
    assert z.T @ residual + params.arrays["weight"] / 0.5 == pytest.approx(
        np.zeros(5), abs=0.02
    )  # the optimiser's own tolerance
    assert residual.sum() == pytest.approx(0, abs=0.02)


def test_principal_components_are_those_of_scikit_learn():
    x, y = draw(d=12)
    peer = make_pipeline(StandardScaler(), PCA(4, svd_solver="full"), LogisticRegression(max_iter=2000)).fit(x, y)
    made = logistic(x, y, pca=4)
    assert made.settings == {"components": 4}
    assert apply_logistic(made, x) == pytest.approx(peer.predict_proba(x)[:, 1], abs=1e-5)


def test_all_components_are_no_projection():
    x, y = draw(n=30, d=6)
    whole = logistic(x, y, pca=512)
    assert whole.settings == {"components": 6}
    assert apply_logistic(whole, x) == pytest.approx(apply_logistic(logistic(x, y), x), abs=1e-4)


def test_a_constant_input_has_no_weight():
    x, y = draw()
    x[:, 2] = 7.0
    params = logistic(x, y)
    assert params.arrays["weight"][2] == 0
    moved = x.copy()
    moved[:, 2] = 100.0
    np.testing.assert_array_equal(apply_logistic(params, moved), apply_logistic(params, x))


def test_refusals():
    x, y = draw()
    with pytest.raises(ValueError, match="none of the 5 inputs varies over 80 documents"):
        logistic(np.ones_like(x), y)
    with pytest.raises(ValueError, match="c=0 is not above 0"):
        logistic(x, y, c=0)
