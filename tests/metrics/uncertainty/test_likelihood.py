import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from metrics.uncertainty.likelihood import (
    count,
    lowest,
    mean_nll,
    min_k,
    min_k_plus_plus,
    min_probability,
    perplexity,
    sequence_nll,
)

INF = math.inf
L = torch.tensor([-0.1, -2.0, -0.5, -1.5, -0.4])


def z_scores(logits, tokens):
    """(ln p(y) - E[ln p]) / sd[ln p] of each row, in float64, by explicit sums."""
    out = []
    for row, token in zip(np.asarray(logits, dtype=np.float64), tokens):
        p = np.exp(row - row.max())
        p /= p.sum()
        lp = np.log(p)
        mu = math.fsum(p * lp)
        out.append((lp[int(token)] - mu) / math.sqrt(math.fsum(p * (lp - mu) ** 2)))
    return out


def plus(chain, logits, tokens, **options):
    out = chain(logits, tokens)
    return min_k_plus_plus(out["logprob"], out["entropy"], out["varentropy"], **options).item()


def test_sequence_nll():
    assert sequence_nll(L).item() == pytest.approx(4.5)
    assert sequence_nll(L[:1]).item() == pytest.approx(0.1)


def test_mean_nll():
    assert mean_nll(L).item() == pytest.approx(0.9)
    assert mean_nll(L[:1]).item() == pytest.approx(0.1)


def test_perplexity():
    assert perplexity(L).item() == pytest.approx(math.exp(0.9))
    assert perplexity(torch.full((7,), -math.log(50.0))).item() == pytest.approx(50.0)
    assert perplexity(torch.zeros(3)).item() == 1.0


def test_min_probability():
    assert min_probability(L).item() == pytest.approx(math.exp(-2.0))
    assert min_probability(torch.tensor([0.0])).item() == 1.0


@pytest.mark.parametrize(
    ("share", "expected"),
    [(0.2, -2.0), (0.39, -2.0), (0.4, -1.75), (0.6, -4 / 3), (1.0, -0.9), (1, -0.9), (0.01, -2.0), (1e-9, -2.0)],
)
def test_min_k(share, expected):
    assert min_k(L, share=share).item() == pytest.approx(expected)


def test_min_k_default_is_twenty_percent_and_one_token_is_enough():
    assert min_k(L).item() == -2.0
    assert min_k(L[:1]).item() == pytest.approx(-0.1)


def test_min_k_takes_ties_as_they_come():
    assert min_k(torch.tensor([-1.0, -3.0, -3.0, -3.0]), share=0.5).item() == -3.0


@pytest.mark.parametrize("share", [0.1, 0.2, 0.33, 0.5, 1.0])
def test_min_k_plus_plus(chain, share):
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(30, 400, generator=generator) * 2
    tokens = torch.distributions.Categorical(logits=logits).probs.multinomial(1, generator=generator)[:, 0]
    z = sorted(z_scores(logits, tokens))
    expected = math.fsum(z[: int(30 * share)]) / int(30 * share)
    assert plus(chain, logits, tokens, share=share) == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_min_k_plus_plus_of_two_tokens_by_hand(chain):
    # p = (.9, .1): ln p has mean m and sd sqrt(.09) ln 9, so the z-scores are (.1, -.9) / .3
    logits = torch.tensor([[math.log(9.0), 0.0]] * 2)
    assert plus(chain, logits[:1], [0]) == pytest.approx(1 / 3, rel=1e-5)
    assert plus(chain, logits[:1], [1]) == pytest.approx(-3.0, rel=1e-5)
    assert plus(chain, logits, [0, 1], share=1.0) == pytest.approx((1 / 3 - 3) / 2, rel=1e-5)


@pytest.mark.parametrize("vocab", [1, 2, 3, 7, 50, 1000, 50_257, 128_256])
def test_min_k_plus_plus_of_a_uniform_distribution_is_zero(chain, vocab):
    assert plus(chain, torch.full((2, vocab), 1.7), [0, vocab - 1]) == 0


def test_min_k_plus_plus_of_a_certain_distribution(chain):
    assert plus(chain, [[0.0, -1e4, -INF]], [0]) == 0
    assert plus(chain, [[0.0, -1e4, -INF]], [1]) == -INF
    assert plus(chain, [[0.0, -1e4, -INF]], [2]) == -INF
    assert plus(chain, [[0.0, 0.0, -INF]], [2]) == -INF
    assert plus(chain, [[0.0, -INF, -INF]], [0]) == 0


def test_min_k_plus_plus_of_a_nearly_certain_distribution(chain):
    """The other token has probability e^-20; sigma is about sqrt(p) 20, far from 0 in float32."""
    p = math.exp(-20) / (1 + math.exp(-20))
    logits = torch.tensor([[20.0, 0.0]])
    assert plus(chain, logits, [1]) == pytest.approx(-math.sqrt((1 - p) / p), rel=1e-3)
    assert plus(chain, logits, [0]) == pytest.approx(math.sqrt(p / (1 - p)), rel=0.1)


@pytest.mark.parametrize("metric", [sequence_nll, mean_nll, perplexity, min_probability, min_k])
def test_nan_is_not_hidden(metric):
    assert metric(torch.tensor([-1.0, math.nan, -2.0, -3.0, -0.5])).isnan()


def test_min_k_plus_plus_does_not_hide_nan(chain):
    logits = torch.randn(6, 9, generator=torch.Generator().manual_seed(0))
    logits[2, 2] = math.nan
    assert math.isnan(plus(chain, logits, [0] * 6))
    assert math.isnan(plus(chain, logits, [0] * 6, share=1.0))


def test_a_token_that_is_ruled_out():
    impossible = torch.tensor([-1.0, -INF])
    assert sequence_nll(impossible).item() == mean_nll(impossible).item() == perplexity(impossible).item() == INF
    assert min_probability(impossible).item() == 0
    assert min_k(impossible).item() == -INF


def test_lowest():
    assert lowest(torch.tensor([3.0, 1.0, 2.0, -INF]), 0.5).item() == -INF
    assert lowest(torch.tensor([3.0, 1.0, 2.0, INF]), 0.75).item() == 2.0
    assert lowest(torch.tensor([3.0, 1.0, 2.0, math.nan]), 0.25).isnan()


@pytest.mark.parametrize(
    ("tokens", "share", "expected"),
    [
        (10, 0.2, 2),
        (9, 0.2, 1),
        (4, 0.2, 1),
        (1, 0.2, 1),
        (100, 0.29, 29),  # 0.29 * 100 is 28.999999999999996
        (100, 0.57, 57),  # 0.57 * 100 is 56.99999999999999
        (3, 1.0, 3),
        (3, 0.999, 2),
        (20, 0.05, 1),
        (40, 0.05, 2),
        (1000, 1e-9, 1),
    ],
)
def test_count(tokens, share, expected):
    assert count(tokens, share) == expected


@given(st.integers(1, 100_000), st.integers(1, 100))
def test_count_rounds_whole_percentages_down_exactly(tokens, percent):
    assert count(tokens, percent / 100) == max(1, tokens * percent // 100)


@pytest.mark.parametrize("share", [0, 0.0, -0.1, 1.0001, 20, math.nan, INF])
def test_a_share_out_of_range_is_refused(share):
    with pytest.raises(ValueError, match=r"share=.* is outside \(0, 1\]"):
        min_k(L, share=share)
    with pytest.raises(ValueError, match=r"share=.* is outside \(0, 1\]"):
        min_k_plus_plus(L, -L, L.abs(), share=share)
