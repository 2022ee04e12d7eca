"""Distances from a Gaussian against the inverse covariance itself, scikit-learn, and lm-polygraph's formulas."""

import numpy as np
import pytest
from sklearn.covariance import LedoitWolf, MinCovDet
from sklearn.decomposition import KernelPCA

from metrics.fitted.gaussian import (
    apply_mahalanobis,
    apply_mahalanobis_ppl,
    apply_relative,
    mahalanobis,
    mahalanobis_ppl,
    relative_mahalanobis,
)
from metrics.fitted.robust import apply_rde, rde


def draw(n=60, d=4, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) + 2, rng.random(n) < 0.3


def slow(x, of, inverse):
    mean = of.mean(axis=0)
    return np.array([(row - mean) @ inverse @ (row - mean) for row in x])


@pytest.mark.parametrize("of", ["right", "all"])
def test_plain_is_the_inverse_of_numpys_covariance(of):
    x, y = draw()
    new = draw(seed=1)[0]
    chosen = x if of == "all" else x[~y]
    expected = np.sqrt(slow(new, chosen, np.linalg.inv(np.cov(chosen.T))))
    assert apply_mahalanobis(mahalanobis(x, y, of=of, covariance="plain"), new) == pytest.approx(expected)


@pytest.mark.parametrize(("n", "d"), [(60, 4), (12, 30)])  # more answers than dimensions, and fewer
def test_shrunk_is_ledoit_and_wolfs(n, d):
    x, y = draw(n, d)
    new = draw(7, d, seed=1)[0]
    peer = LedoitWolf().fit(x[~y])
    expected = np.sqrt(slow(new, x[~y], np.linalg.inv(peer.covariance_)))
    assert apply_mahalanobis(mahalanobis(x, y), new) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("distance", ["root", "squared"])
def test_relative_is_the_difference(distance):
    x, y = draw()
    new = draw(seed=1)[0]
    near, far = (slow(new, of, np.linalg.inv(np.cov(of.T))) for of in (x[~y], x))
    expected = near**0.5 - far**0.5 if distance == "root" else near - far
    made = relative_mahalanobis(x, y, covariance="plain", distance=distance)
    assert apply_relative(made, new) == pytest.approx(expected)


def test_ranks_with_perplexity_by_hand():
    x, y = draw()
    nll = np.arange(60.0)
    both = np.column_stack([x, nll])
    made = mahalanobis_ppl(both, y, of="all", seed=3)
    order = np.random.default_rng(3).permutation(60)
    held, rest = x[order[:18]], x[order[18:]]
    reference = apply_mahalanobis(mahalanobis(rest, np.zeros(42, bool)), held)
    distance = apply_mahalanobis(mahalanobis(x, np.zeros(60, bool)), x)
    expected = [((d >= reference).mean() + (v >= nll).mean()) / 2 for d, v in zip(distance, nll)]
    assert apply_mahalanobis_ppl(made, both) == pytest.approx(expected)
    assert apply_mahalanobis_ppl(made, both).min() >= 0 and apply_mahalanobis_ppl(made, both).max() <= 1


@pytest.mark.parametrize("gamma", ["width", "scale"])
def test_rde_is_scikit_learns_kernel_and_covariance(gamma):
    x, y = draw(80)
    new = draw(20, seed=1)[0]
    right = x[~y]
    scale = 1 / 4 if gamma == "width" else 1 / (4 * right.var())
    pca = KernelPCA(6, kernel="rbf", gamma=scale, eigen_solver="dense").fit(right)
    peer = MinCovDet(random_state=0).fit(pca.transform(right))
    expected = peer.mahalanobis(pca.transform(new))
    made = rde(x, y, components=6, gamma=gamma)
    assert made.settings["components"] == 6 and made.settings["gamma"] == pytest.approx(scale)
    assert apply_rde(made, new) == pytest.approx(expected, rel=1e-6)


def test_rde_takes_no_more_components_than_answers_allow():
    x, y = draw(60)
    assert rde(x, y).settings["components"] == (~y).sum() // 4


def test_rde_of_far_states_is_one_score():
    x, y = draw(80)
    far = apply_rde(rde(x, y, components=6), 1e4 * np.eye(4))
    assert far == pytest.approx(np.full(4, far[0]))


def test_refusals():
    x, y = draw(12, 30)
    with pytest.raises(ValueError, match=r"plain covariance of \d+ answers in 30 dimensions has rank \d+"):
        mahalanobis(x, y, covariance="plain")
    with pytest.raises(ValueError, match="of=wrong is not known; choose right, all"):
        mahalanobis(x, y, of="wrong")
    with pytest.raises(ValueError, match="covariance=diag is not known"):
        mahalanobis(x, y, covariance="diag")
    with pytest.raises(ValueError, match="distance=x is not known"):
        relative_mahalanobis(x, y, distance="x")
    with pytest.raises(ValueError, match="1 right answers to fit on; at least 2"):
        mahalanobis(x, np.arange(12) > 0)
    with pytest.raises(ValueError, match="are all equal"):
        mahalanobis(np.ones((12, 3)), y)
    with pytest.raises(ValueError, match="are all equal"):
        rde(np.ones((60, 3)), np.zeros(60, bool))
    with pytest.raises(ValueError, match="at least 8 are needed"):
        rde(x[:7], np.zeros(7, bool))
