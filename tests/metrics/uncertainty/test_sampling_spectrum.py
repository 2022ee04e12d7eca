import math

import numpy as np
import pytest
import scipy.linalg
import torch

from metrics.signals.samples import AFFINITIES
from metrics.uncertainty.sampling_spectrum import (
    degree_matrix,
    eccentricity,
    eigenscore,
    eigval_laplacian,
    kernel_language_entropy,
)


def affinities(matrix, kind="jaccard"):
    found = torch.full((len(AFFINITIES), len(matrix), len(matrix)), math.nan, dtype=torch.float64)
    found[AFFINITIES.index(kind)] = torch.as_tensor(matrix)
    return found


TWO_AND_ONE = [[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
"""Two equal samples and one that has nothing in common with them."""


def random_affinities(n=6, seed=0):
    values = np.random.default_rng(seed).random((n, n))
    values = (values + values.T) / 2
    np.fill_diagonal(values, 1)
    return values


def test_degree_matrix():
    assert degree_matrix(affinities(TWO_AND_ONE)).item() == pytest.approx(1 - 5 / 9)
    assert degree_matrix(affinities(np.ones((4, 4)))).item() == 0
    assert degree_matrix(affinities(np.eye(5), "entailment"), affinity="entailment").item() == pytest.approx(0.8)


def test_eigval_laplacian():
    """Two components: two eigenvalues of 0; the rest of the first is 1 - 0 = 1, so that 1 - lambda is 0."""
    assert eigval_laplacian(affinities(TWO_AND_ONE)).item() == pytest.approx(2)
    assert eigval_laplacian(affinities(np.ones((4, 4)))).item() == pytest.approx(1)
    assert eigval_laplacian(affinities(np.eye(5))).item() == pytest.approx(5)
    a = 0.3  # of two samples: D = 1 + a, eigenvalues of the normalised W are 1 and (1 - a) / (1 + a)
    assert eigval_laplacian(affinities([[1, a], [a, 1]])).item() == pytest.approx(1 + (1 - a) / (1 + a))
    values = random_affinities()
    laplacian = np.eye(6) - values / np.sqrt(np.outer(values.sum(0), values.sum(0)))
    hand = sum(max(0, 1 - v) for v in np.linalg.eigvals(laplacian).real)
    assert eigval_laplacian(affinities(values)).item() == pytest.approx(hand)


def test_eigval_laplacian_leave_out_what_is_above_one():
    values = np.array([[0.1, 0.9], [0.9, 0.1]])  # normalised: eigenvalues 1 and -0.8
    assert eigval_laplacian(affinities(values)).item() == pytest.approx(1)


def test_eccentricity():
    """Eigenvectors (1, 1, 0) / sqrt 2 and (0, 0, 1); rows less their mean have squared norms 1/3 and 2/3."""
    assert eccentricity(affinities(TWO_AND_ONE)).item() == pytest.approx(1)
    assert eccentricity(affinities(np.ones((4, 4)))).item() == pytest.approx(0, abs=1e-7)
    assert eccentricity(affinities(np.eye(5))).item() == pytest.approx(2)
    values = random_affinities(seed=1)
    laplacian = np.eye(6) - values / np.sqrt(np.outer(values.sum(0), values.sum(0)))
    found, vectors = np.linalg.eigh(laplacian)
    for threshold in (0.7, 0.9):
        rows = vectors[:, found < threshold]
        hand = math.sqrt(sum(np.sum((row - rows.mean(0)) ** 2) for row in rows))
        assert eccentricity(affinities(values), threshold=threshold).item() == pytest.approx(hand)


def relations(n=5, seed=0):
    return torch.tensor(np.random.default_rng(seed).dirichlet([1, 1, 1], (n, n)))


def test_kernel_language_entropy():
    """Two samples of weight w: the kernel's eigenvalues after scaling are (1 ± tanh(t w)) / 2."""
    made = torch.zeros(2, 2, 3)
    made[0, 1], made[1, 0] = torch.tensor([0.5, 0.4, 0.1]), torch.tensor([0.2, 0.6, 0.2])
    w = 0.5 + 0.2 + (0.4 + 0.6) / 2
    share = (1 + math.tanh(0.3 * w)) / 2
    hand = -(share * math.log(share) + (1 - share) * math.log(1 - share)) / math.log(2)
    assert kernel_language_entropy(made).item() == pytest.approx(hand)
    assert math.isnan(kernel_language_entropy(made[:1, :1]))


def test_kernel_language_entropy_by_matrix_functions():
    made = relations()
    e, n = made[..., 0].numpy(), made[..., 1].numpy()
    weights = e + e.T + 0.5 * (n + n.T)
    laplacian = np.diag(weights.sum(0)) - weights
    inverse = np.linalg.inv(2 * 0.7 / 1.3**2 * np.eye(5) + laplacian)
    kernels = {
        "heat": scipy.linalg.expm(-0.4 * laplacian),
        "matern": scipy.linalg.fractional_matrix_power(inverse, 0.7).real,
    }
    for name, kernel in kernels.items():
        scaled = kernel / np.sqrt(np.outer(np.diag(kernel), np.diag(kernel))) / 5
        hand = -np.trace(scaled @ scipy.linalg.logm(scaled)).real / math.log(5)
        found = kernel_language_entropy(made, kernel=name, t=0.4, kappa=1.3, nu=0.7)
        assert found.item() == pytest.approx(hand)


def test_kernel_language_entropy_between_one_meaning_and_many():
    apart = torch.tensor([0.0, 0.0, 1.0]).expand(6, 6, 3)
    alike = torch.tensor([1.0, 0.0, 0.0]).expand(6, 6, 3)
    assert kernel_language_entropy(apart).item() == pytest.approx(1)
    assert kernel_language_entropy(alike, t=50.0).item() == pytest.approx(0, abs=1e-9)
    x = math.exp(-0.3 * 12)  # eigenvalues of the Laplacian: 0, and 12 five times
    shares = [1 / (1 + 5 * x)] + [x / (1 + 5 * x)] * 5
    hand = -sum(s * math.log(s) for s in shares) / math.log(6)
    assert kernel_language_entropy(alike).item() == pytest.approx(hand)


def test_eigenscore():
    """The logarithm of the determinant, by NumPy's covariance of samples as variables."""
    states = torch.randn(4, 3, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for layer in range(3):
        values = states[:, layer].numpy()
        _, hand = np.linalg.slogdet(np.cov(values) + 0.001 * np.eye(4))
        assert eigenscore(states, layer=str(layer)).item() == pytest.approx(hand / 4)
        _, gram = np.linalg.slogdet(7 * np.cov(values) + 0.01 * np.eye(4))
        assert eigenscore(states, layer=str(layer), scale="gram", alpha=0.01).item() == pytest.approx(gram / 4)
    assert eigenscore(states).item() == eigenscore(states, layer="1").item()
    every = sum(eigenscore(states, layer=str(layer)).item() for layer in range(3)) / 3
    assert eigenscore(states, layer="all").item() == pytest.approx(every)


def test_eigenscore_of_equal_states():
    state = torch.tensor([1.0, -1.0, 2.0, -2.0]).double()  # mean 0, squared norm 10
    found = eigenscore(state.expand(3, 1, 4), layer="0")
    hand = (2 * math.log(0.001) + math.log(3 * 10 / 3 + 0.001)) / 3
    assert found.item() == pytest.approx(hand)


def test_what_is_infinite_is_undefined():
    states = torch.zeros(3, 1, 4).double()
    states[0, 0, 0] = math.inf
    assert math.isnan(eigenscore(states, layer="0"))


def test_a_sample_like_none_not_even_itself_is_undefined():
    assert math.isnan(eigval_laplacian(affinities(np.diag([1.0, 0.0]))))
    assert math.isnan(eccentricity(affinities(np.diag([1.0, 0.0]))))
