import math

import numpy as np
import pytest
import torch

from metrics.signals import hidden as module
from metrics.signals.hidden import (
    hidden_change,
    hidden_cosine,
    hidden_log_determinant,
    hidden_matrix_entropy,
    hidden_mean,
    hidden_mean_official,
    hidden_norm,
    hidden_renyi_entropy,
)


def states(layers=4, steps=6, dim=10, seed=0):
    return torch.randn(layers, steps, dim, generator=torch.Generator().manual_seed(seed))


def test_hidden_norm():
    hidden = torch.tensor([[[3.0, 4.0], [0.0, 0.0]], [[-5.0, 12.0], [1.0, 1.0]]])
    torch.testing.assert_close(hidden_norm(hidden), torch.tensor([[5.0, 0.0], [13.0, math.sqrt(2)]]))


def test_hidden_norm_against_a_loop():
    hidden = states()
    expected = [[math.sqrt(math.fsum(float(v) ** 2 for v in vector)) for vector in layer] for layer in hidden]
    np.testing.assert_allclose(hidden_norm(hidden), expected, rtol=1e-6)


def test_hidden_mean():
    hidden = torch.tensor([[[100.0, -100.0], [1.0, 2.0], [3.0, 6.0]]])  # the first step is the prompt's last state
    assert hidden_mean(hidden).tolist() == [[2.0, 4.0]]


def test_hidden_mean_against_numpy():
    hidden = states()
    np.testing.assert_allclose(hidden_mean(hidden), hidden.double().numpy()[:, 1:].mean(1), rtol=1e-5, atol=1e-6)


def test_one_token_is_its_own_mean():
    hidden = states(steps=2)
    assert torch.equal(hidden_mean(hidden), hidden[:, 1])


def test_half_precision_is_lifted_first():
    """Squares of 300 overflow float16; a mean of many bfloat16 stalls."""
    wide = torch.full((1, 2, 100), 300.0, dtype=torch.float16)
    assert hidden_norm(wide).tolist() == [[3000.0, 3000.0]]
    long = torch.full((1, 1001, 1), 1.0, dtype=torch.bfloat16)
    long[0, 501:] = 2.0
    assert hidden_mean(long).item() == 1.5
    for dtype in (torch.float16, torch.bfloat16):
        hidden = states().to(dtype)
        assert torch.equal(hidden_norm(hidden), hidden_norm(hidden.float()))
        assert torch.equal(hidden_mean(hidden), hidden_mean(hidden.float()))


def test_nan_stays_where_it_is():
    hidden = states()
    hidden[2, 3, 1] = math.nan
    norm, mean = hidden_norm(hidden).isnan(), hidden_mean(hidden).isnan()
    assert norm.nonzero().tolist() == [[2, 3]]
    assert mean.nonzero().tolist() == [[2, 1]]


def test_hidden_cosine():
    after = torch.tensor([[[3.0, 4.0], [1.0, 0.0], [0.0, 0.0]]])
    before = torch.tensor([[[4.0, 3.0], [-2.0, 0.0], [1.0, 1.0]]])
    torch.testing.assert_close(hidden_cosine(after, before), torch.tensor([[24 / 25, -1.0, math.nan]]), equal_nan=True)


def test_hidden_change():
    after = torch.tensor([[[3.0, 4.0], [1.0, 0.0]]])
    before = torch.tensor([[[0.0, 0.0], [math.nan, 0.0]]])
    torch.testing.assert_close(hidden_change(after, before), torch.tensor([[5.0, math.nan]]), equal_nan=True)


def test_hidden_mean_official():
    """Position 0 of the prompt, then the tokens but the last: ([10, 0] + [1, 2] + [3, 6]) / 3."""
    hidden = torch.tensor([[[100.0, -100.0], [1.0, 2.0], [3.0, 6.0], [50.0, 50.0]]])
    start = torch.tensor([[10.0, 0.0]])
    torch.testing.assert_close(hidden_mean_official(hidden, start), torch.tensor([[14 / 3, 8 / 3]]))
    assert torch.equal(hidden_mean_official(hidden[:, :2], start), start)  # a single token is never read
    assert hidden_mean_official(hidden[:, :1], start).isnan().all()


def gram_values(hidden, centred):
    """Eigenvalues of the T x T matrix of each layer's tokens, by NumPy in double precision."""
    for layer in hidden[:, 1:].double().numpy():
        rows = layer - layer.mean(-1, keepdims=True) * centred
        yield np.linalg.eigvalsh(rows @ rows.T)


@pytest.mark.parametrize("tokens", [1, 2, 9, 10, 11, 40])
def test_hidden_log_determinant(tokens):
    """As many as, fewer and more tokens than the ten features."""
    hidden = states(steps=tokens + 1)
    expected = [np.log(np.clip(v, 0, None) + 1e-3).mean() for v in gram_values(hidden, True)]
    np.testing.assert_allclose(hidden_log_determinant(hidden), expected, rtol=1e-5, atol=1e-6)


def test_hidden_log_determinant_by_hand():
    """One token (1, -1) has the centred square 2; two equal ones have the eigenvalues 4 and 0."""
    one = torch.tensor([[[9.0, 9.0], [1.0, -1.0]]])
    assert hidden_log_determinant(one).item() == pytest.approx(math.log(2.001))
    two = torch.tensor([[[9.0, 9.0], [2.0, 0.0], [2.0, 0.0]]])
    assert hidden_log_determinant(two).item() == pytest.approx((math.log(4.001) + math.log(0.001)) / 2)


def test_hidden_log_determinant_survives_a_massive_state():
    """The eigenvalue of one huge direction must not drown the ridge, as it would in single precision."""
    hidden = states(steps=9, dim=64)
    hidden[:, :, 0] += 2e4
    expected = [np.log(np.clip(v, 0, None) + 1e-3).mean() for v in gram_values(hidden, True)]
    np.testing.assert_allclose(hidden_log_determinant(hidden), expected, rtol=1e-5)


@pytest.mark.parametrize("tokens", [1, 2, 10, 40])
def test_hidden_matrix_entropy(tokens):
    hidden = states(steps=tokens + 1)
    expected = []
    for values in gram_values(hidden, False):
        share = np.clip(values / values.sum(), 1e-300, None)
        expected.append(-(share * np.log(share)).sum())
    np.testing.assert_allclose(hidden_matrix_entropy(hidden), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("tokens", [1, 2, 10, 40])
def test_hidden_renyi_entropy(tokens):
    hidden = states(steps=tokens + 1)
    expected = [-math.log(((v / v.sum()) ** 2).sum()) / (1 + math.log(tokens)) for v in gram_values(hidden, False)]
    np.testing.assert_allclose(hidden_renyi_entropy(hidden), expected, rtol=1e-5, atol=1e-6)


def test_entropies_of_orthogonal_and_of_parallel_states():
    orthogonal = torch.cat([torch.zeros(1, 4), torch.eye(4)])[None]
    assert hidden_matrix_entropy(orthogonal).item() == pytest.approx(math.log(4))
    assert hidden_renyi_entropy(orthogonal).item() == pytest.approx(math.log(4) / (1 + math.log(4)))
    parallel = torch.ones(1, 5, 4)
    assert hidden_matrix_entropy(parallel).item() == pytest.approx(0, abs=1e-6)
    assert hidden_renyi_entropy(parallel).item() == pytest.approx(0, abs=1e-6)
    assert hidden_matrix_entropy(torch.zeros(1, 5, 4)).isnan().all()
    assert hidden_renyi_entropy(torch.zeros(1, 5, 4)).isnan().all()


SPREADS = (hidden_log_determinant, hidden_matrix_entropy, hidden_renyi_entropy)


@pytest.mark.parametrize("compute", SPREADS)
def test_spread_leaves_out_a_token_that_was_not_read(compute):
    hidden = states()
    unread = torch.cat([hidden, torch.full_like(hidden[:, :1], math.nan)], 1)
    assert torch.equal(compute(unread), compute(hidden))
    assert compute(torch.full_like(hidden[:, :2], math.nan)).isnan().all()
    hidden[2, 3, 1] = math.nan
    assert compute(hidden).isnan().tolist() == [False, False, True, False]


@pytest.mark.parametrize("compute", SPREADS)
def test_spread_is_not_computed_of_more_than_can_be(compute, monkeypatch):
    monkeypatch.setattr(module, "WIDEST", 8)
    assert compute(states(steps=9)).isfinite().all()  # eight tokens
    assert compute(states(steps=30, dim=8)).isfinite().all()  # eight features
    assert compute(states(steps=10, dim=9)).isnan().all()
    assert compute(states(steps=10, dim=9)).shape == (4,)
