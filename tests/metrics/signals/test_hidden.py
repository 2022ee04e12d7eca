import math

import numpy as np
import torch

from metrics.signals.hidden import hidden_mean, hidden_norm


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
