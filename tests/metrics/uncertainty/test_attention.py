"""Metrics of attention against loops and values by hand; `test_conformance` holds them against the peers' own."""

import math

import numpy as np
import pytest
import torch

from metrics.uncertainty.attention import (
    attention_entropy,
    attention_score,
    laplacian_features,
    llm_check_attention,
    lookback_features,
    mean_lookback_ratio,
    rauq,
    rauq_entropy,
    rauq_previous,
)

ONE, THREE = torch.tensor(1), torch.tensor(3)
LOGS = torch.tensor([[-9.0, -1.0, -2.0, -4.0], [-9.0, -3.0, -5.0, -1.0]])  # two layers, a prompt of one token


def random(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def test_attention_score():
    """The sum over prompt and answer of the second of two layers, turned round; and over the answer."""
    assert attention_score(LOGS, THREE).item() == 18
    assert attention_score(LOGS, THREE, positions="generated").item() == 9
    assert attention_score(LOGS, THREE, layer="0").item() == 16
    assert attention_score(LOGS, torch.tensor(0)).isnan()


def test_attention_score_grows_with_length():
    longer = torch.cat([LOGS, LOGS], 1)
    assert attention_score(longer, THREE) == 2 * attention_score(LOGS, THREE)
    assert llm_check_attention(longer, torch.tensor(4)) == llm_check_attention(LOGS, torch.tensor(4))


def test_llm_check_attention():
    assert llm_check_attention(LOGS, THREE).item() == -3
    assert llm_check_attention(LOGS, ONE, layer="0").item() == -4
    assert llm_check_attention(LOGS, THREE, layer="all").item() == pytest.approx(-(7 / 3 + 3) / 2)
    assert llm_check_attention(LOGS, torch.tensor(0)).isnan()


def test_a_last_token_that_was_not_read_has_no_weight_on_itself():
    logs = torch.cat([LOGS, torch.full((2, 1), math.nan)], 1)
    four = torch.tensor(4)
    assert attention_score(logs, four) == attention_score(LOGS, THREE)
    assert attention_score(logs, four, positions="generated") == attention_score(LOGS, THREE, positions="generated")
    assert llm_check_attention(logs, four) == llm_check_attention(LOGS, THREE)
    assert llm_check_attention(logs, ONE).isnan()


def test_attention_entropy():
    """The states that produced the tokens: all steps but the last."""
    rows = torch.tensor([[[1.0, 2.0, 90.0]], [[3.0, 6.0, 90.0]]])
    assert attention_entropy(rows).item() == 3
    assert attention_entropy(rows, layer="-1").item() == 4.5
    assert attention_entropy(rows[..., :2]).item() == 2
    assert attention_entropy(rows[..., :1]).isnan()


def test_mean_lookback_ratio():
    """The answer's own tokens: all steps but the first."""
    ratios = torch.tensor([[[1.0, 0.5, 0.25]], [[1.0, 0.125, 0.125]]])
    assert mean_lookback_ratio(ratios).item() == 0.25
    assert mean_lookback_ratio(ratios, layer="-1").item() == 0.125
    assert mean_lookback_ratio(ratios[..., :2]).item() == 0.3125
    assert mean_lookback_ratio(ratios[..., :1]).isnan()


def test_lookback_features():
    ratios = random(3, 2, 6)
    expected = [ratios[layer, head, 1:].mean() for layer in range(3) for head in range(2)]
    torch.testing.assert_close(lookback_features(ratios), torch.stack(expected))
    ratios[..., -1] = math.nan
    torch.testing.assert_close(lookback_features(ratios), ratios[..., 1:-1].mean(-1).flatten())


def test_laplacian_features():
    values = random(3, 2, 10)
    assert torch.equal(laplacian_features(values), torch.cat([values[i, h] for i in range(3) for h in range(2)]))


# --- RAUQ

PROBABILITY = torch.tensor([0.5, 0.8, 0.1])
WEIGHTS = torch.zeros(4, 2, 4)
WEIGHTS[1, 0, 1:3] = torch.tensor([0.5, 0.25])  # the head with the larger mean
WEIGHTS[1, 1, 1:3] = torch.tensor([0.1, 0.6])
WEIGHTS[2:, 1, 1:3] = torch.tensor([1.0, 1.0])
WEIGHTS[0], WEIGHTS[..., 0], WEIGHTS[..., 3] = 0.9, 7.0, 7.0  # a layer and steps that do not count


def test_rauq():
    """Layers 1 to 3 of 4; of the first of them c = .5, .2 * .8 + .8 * .5 * .5, .2 * .1 + .8 * .25 * .36."""
    c = np.array([[0.5, 0.36, 0.092], [0.5, 0.56, 0.468], [0.5, 0.56, 0.468]])
    logs = PROBABILITY.log()
    assert rauq(logs, WEIGHTS).item() == pytest.approx((1 - np.log(c).mean(1)).max())
    assert rauq(logs, WEIGHTS, over="mean").item() == pytest.approx((1 - np.log(c).mean(1)).mean())
    lowest = 1 - (c.mean(1) + c.min(1)) / 2
    assert rauq(logs, WEIGHTS, tokens="mean_min").item() == pytest.approx(lowest.max())
    simple = np.array([0.5, 0.2 * 0.8 + 0.8 * 0.5 * 0.5, 0.2 * 0.1 + 0.8 * 0.25 * 0.8])
    assert rauq(logs, WEIGHTS[1:2], recursion="simple").item() == pytest.approx(1 - np.log(simple).mean())
    assert rauq(logs, WEIGHTS, alpha=1.0).item() == pytest.approx(1 - logs.mean().item())


def by_loop(p, weights, alpha, recursion):
    """c of one layer, token by token, as in the source's equation."""
    w = weights[int(np.argmax([np.mean(head) for head in weights]))] if len(p) > 1 else []
    c = [p[0]]
    for j in range(1, len(p)):
        c.append(alpha * p[j] + (1 - alpha) * w[j - 1] * (c[-1] if recursion == "full" else p[j - 1]))
    return np.array(c)


@pytest.mark.parametrize("recursion", ["full", "simple"])
@pytest.mark.parametrize("alpha", [0.0, 0.2, 0.5, 1.0])
@pytest.mark.parametrize("n", [1, 2, 30])
def test_rauq_against_a_loop(n, alpha, recursion):
    p, diagonal = random(n, seed=1).double(), random(5, 3, n + 1, seed=2).double()
    expected = []
    for layer in diagonal[1:5, :, 1:n].numpy():
        expected.append(1 - np.log(by_loop(p.numpy(), layer, alpha, recursion)).mean())
    found = rauq(p.log(), diagonal, alpha=alpha, recursion=recursion)
    np.testing.assert_allclose(found, max(expected), rtol=1e-9)


def test_rauq_of_weights_and_probabilities_of_zero():
    """A weight of zero cuts the chain; a token that was ruled out has no confidence but what is handed on."""
    p = torch.tensor([0.5, 0.4, 0.0, 0.3])
    diagonal = torch.tensor([[[0.0, 0.0, 0.7, 0.0, 0.0]]])
    c = [0.5, 0.2 * 0.4, 0.8 * 0.7 * 0.08, 0.2 * 0.3]
    assert rauq(p.log(), diagonal).item() == pytest.approx(1 - np.log(c).mean())
    assert rauq(p.log(), torch.zeros(1, 1, 5)).item() == math.inf
    assert rauq(torch.tensor([-math.inf, -1.0]), torch.ones(1, 1, 3)).item() == math.inf


def test_rauq_of_a_thousand_improbable_tokens_does_not_underflow():
    found = rauq(torch.full((1000,), -50.0), torch.full((3, 2, 1001), 1e-4))
    assert found.item() == pytest.approx(51 - 0.999 * math.log(0.2), rel=1e-5)


def test_rauq_previous():
    """Token j's own row is step j + 1; the row that produces it is step j."""
    weights = torch.zeros(1, 1, 4)
    weights[0, 0] = torch.tensor([math.nan, 0.1, 0.5, 0.25])
    logs = PROBABILITY.log()
    own = by_loop(PROBABILITY.numpy(), [[0.5, 0.25]], 0.2, "full")
    producing = by_loop(PROBABILITY.numpy(), [[0.1, 0.5]], 0.2, "full")
    assert rauq_previous(logs, weights).item() == pytest.approx(1 - np.log(own).mean())
    assert rauq_previous(logs, weights, query="producing").item() == pytest.approx(1 - np.log(producing).mean())
    weights[..., -1] = math.nan  # the last token was not read
    assert rauq_previous(logs, weights).isnan()
    assert rauq_previous(logs, weights, query="producing").isfinite()


def test_rauq_entropy():
    """What lacks to the largest entropy in place of the probability; none of it is lacking for a uniform row."""
    entropy, largest = torch.tensor([1.0, 0.5, 2.5]), torch.full((3,), 3.0)
    gap = np.array([2.0, 2.5, 0.5])
    diagonal = random(1, 2, 4)
    expected = by_loop(gap, diagonal[0, :, 1:3].numpy(), 0.8, "full")
    assert rauq_entropy(entropy, largest, diagonal).item() == pytest.approx(1 - np.log(expected).mean())
    assert rauq_entropy(torch.tensor([3.0 + 1e-6]), largest[:1], diagonal[..., :2]).item() == math.inf


def test_rauq_says_more_of_an_answer_whose_tokens_are_improbable():
    diagonal = random(4, 2, 6)
    sure, unsure = torch.full((5,), -0.1), torch.full((5,), -3.0)
    for options in ({}, {"tokens": "mean_min", "over": "mean"}, {"recursion": "simple"}):
        assert rauq(sure, diagonal, **options) < rauq(unsure, diagonal, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": 1.5}, r"alpha=1.5 is outside \[0, 1\]"),
        ({"alpha": math.nan}, "alpha=nan"),
        ({"recursion": "none"}, "recursion='none' is not known; choose full or simple"),
        ({"tokens": "mean"}, "tokens='mean' is not known; choose mean_log or mean_min"),
        ({"over": "sum"}, "over='sum'"),
        ({"layers": "last"}, "layers='last'"),
    ],
)
def test_options_of_rauq_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        rauq(PROBABILITY.log(), WEIGHTS, **options)


def test_other_options_are_checked():
    with pytest.raises(ValueError, match="positions='prompt' is not known; choose all or generated"):
        attention_score(LOGS, THREE, positions="prompt")
    with pytest.raises(ValueError, match="query='next' is not known; choose own or producing"):
        rauq_previous(PROBABILITY.log(), WEIGHTS, query="next")
