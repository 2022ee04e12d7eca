"""Metrics of hidden states against loops and values by hand; `test_conformance` holds them against the peers' own."""

import cmath
import itertools
import math

import numpy as np
import pytest
import torch

from metrics.uncertainty.hidden import (
    coe_c,
    coe_c_official,
    coe_r,
    coe_r_official,
    glu,
    layer_cosine,
    llm_check_hidden,
    matrix_entropy,
    path_length,
    path_ratio,
    state_norm,
)

TURN = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])  # two right angles: lengths sqrt(2), net 2, net angle pi


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_coe_r():
    assert coe_r(TURN).item() == pytest.approx(math.sqrt(2) / 2 - 0.5)


def test_coe_c():
    """Both steps have the length sqrt(2) / 2 and the angle 1 / 2."""
    assert coe_c(TURN).item() == pytest.approx(math.sqrt(2) / 2)


def by_loop(means):
    """Relative lengths and angles, layer by layer, through the arccos of the cosine."""
    h = means.double().numpy()

    def angle(a, b):
        return math.acos(a @ b / math.sqrt(a @ a) / math.sqrt(b @ b))

    lengths = [math.dist(b, a) / math.dist(h[-1], h[0]) for a, b in itertools.pairwise(h)]
    return lengths, [angle(a, b) / angle(h[0], h[-1]) for a, b in itertools.pairwise(h)]


@pytest.mark.parametrize("layers", [2, 7])
def test_both_forms_against_a_loop(layers):
    means = random(layers, 12)
    lengths, angles = by_loop(means)
    assert coe_r(means).item() == pytest.approx(np.mean(lengths) - np.mean(angles))
    whole = sum(m * cmath.exp(1j * a) for m, a in zip(lengths, angles)) / (layers - 1)
    assert coe_c(means).item() == pytest.approx(abs(whole))


def test_coe_r_official():
    means = random(5, 8)
    assert torch.equal(coe_r_official(means), coe_r(means))


def test_coe_c_official():
    means = random(5, 8)
    assert torch.equal(coe_c_official(means), coe_c(means))


def test_path_ratio():
    assert path_ratio(TURN).item() == pytest.approx(math.sqrt(2))
    straight = torch.arange(4.0)[:, None] * torch.tensor([3.0, 4.0])
    assert path_ratio(straight).item() == pytest.approx(1)


@pytest.mark.parametrize("metric", [coe_r, coe_c, coe_r_official, coe_c_official, path_ratio])
def test_a_way_that_leads_nowhere_is_undefined(metric):
    assert metric(torch.stack([TURN[0], TURN[1], TURN[0]])).isnan()
    assert metric(TURN[:1]).isnan()


def test_path_length():
    """Layer 0 has added nothing; the first step is no token of the answer."""
    change = torch.tensor([[math.nan] * 3, [9.0, 1.0, 2.0], [9.0, 3.0, 6.0]])
    assert path_length(change).item() == 6
    assert path_length(change[1:]).item() == 6
    assert path_length(change[:, :2]).item() == 4
    assert path_length(change[:1]).isnan()


def test_layer_cosine():
    cosine = torch.tensor([[math.nan] * 3, [0.9, 0.5, 0.25], [0.9, 1.0, 0.75]])
    assert layer_cosine(cosine).item() == 0.625
    assert layer_cosine(cosine, layer="-1").item() == 0.875
    assert layer_cosine(cosine[1:]).item() == 0.625
    assert layer_cosine(cosine[:1], layer="-1").isnan()


def test_state_norm():
    norm = torch.tensor([[9.0, 1.0, 2.0], [9.0, 3.0, 6.0]])
    assert state_norm(norm).item() == 3
    assert state_norm(norm, layer="-1").item() == 4.5
    assert state_norm(norm[:, :2]).item() == 2


@pytest.mark.parametrize("metric", [path_length, layer_cosine, state_norm])
def test_a_token_that_was_not_read_is_left_out_and_any_other_is_not(metric):
    values = random(3, 5)
    unread = torch.cat([values, torch.full((3, 1), math.nan)], 1)
    assert torch.equal(metric(unread), metric(values))
    values[1, 2] = math.nan
    assert metric(values).isnan()


def test_llm_check_hidden():
    """The middle one of five layers."""
    values = torch.tensor([1.0, 2.0, 3.0, 4.0, 10.0])
    assert llm_check_hidden(values).item() == 3
    assert llm_check_hidden(values, layer="all").item() == 4
    assert llm_check_hidden(values, layer="-1").item() == 10


def test_matrix_entropy():
    values = torch.tensor([1.0, 2.0, 6.0])
    assert matrix_entropy(values).item() == 3
    assert matrix_entropy(values, layer="0.5").item() == 2


def glu_by_loop(renyi, logits):
    """The published formula, token by token."""
    scaled = []
    for row in logits.double().numpy():
        top = np.sort(row)[::-1][:10]
        p = np.exp(top) / np.exp(top).sum()
        scaled.append((p * np.log2(p)).sum() * 10 / (np.maximum(top, 0).sum() + 1))
    return (1 + float(renyi.double().mean())) * np.mean(sorted(scaled)[:10])


@pytest.mark.parametrize("tokens", [1, 9, 10, 25])
def test_glu(tokens):
    logits, renyi = random(tokens, 60) * 4, torch.tensor([0.2, 0.7, 0.3])
    normalizer = logits.logsumexp(-1)
    top = (logits - normalizer[:, None]).topk(20).values
    assert glu(renyi, top, normalizer).item() == pytest.approx(glu_by_loop(renyi, logits), rel=1e-5)


def test_glu_depends_on_a_shift_of_the_logits_and_is_lower_where_unsure():
    logits, renyi = random(6, 60), torch.tensor([0.5])

    def score(z):
        return glu(renyi, z.log_softmax(-1).topk(20).values, z.logsumexp(-1))

    assert score(logits) < score(logits + 5) < 0
    assert score(logits) < score(logits * 20)


def test_glu_of_fewer_than_ten_possible_tokens():
    """Those ruled out have neither entropy nor a logit: two equal logits of 3 have one bit."""
    top = torch.full((1, 20), -math.inf)
    top[0, :2] = -math.log(2)
    assert glu(torch.tensor([0.0]), top, torch.tensor([3 + math.log(2)])).item() == pytest.approx(-10 / 7)
    top[0, 5] = math.nan
    assert glu(torch.tensor([0.0]), top, torch.tensor([3.0])).isnan()
