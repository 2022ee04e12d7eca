"""The largest probabilities of a row, and BoostedProb which comes from them, against slow references."""

import math

import numpy as np
import pytest
import torch
from made_logits import SIZES, of, random_logits, random_tokens

INF = math.inf


# --- the largest


@pytest.mark.parametrize("vocab", SIZES)
def test_top_logprobs(chain, log_softmax64, vocab):
    logits = random_logits(4, vocab)
    out = chain(logits)["top_logprobs"]
    assert out.shape == (4, 20)
    k = min(20, vocab)
    np.testing.assert_allclose(out[:, :k], -np.sort(-log_softmax64(logits))[:, :k], rtol=1e-6, atol=1e-6)
    assert (out[:, k:] == -INF).all()


@pytest.mark.parametrize("vocab", SIZES)
def test_top_tokens(chain, vocab):
    logits = random_logits(4, vocab)
    out = chain(logits)
    k = min(20, vocab)
    assert out["top_tokens"].shape == (4, 20)
    assert out["top_tokens"][:, :k].tolist() == np.argsort(-logits.numpy(), -1, kind="stable")[:, :k].tolist()
    assert (out["top_tokens"][:, k:] == -1).all()
    own = out["log_probabilities"].gather(-1, out["top_tokens"][:, :k].long())
    assert torch.equal(own, out["top_logprobs"][:, :k])


def test_tokens_that_are_ruled_out_are_not_among_the_largest(chain):
    logits = torch.full((1, 50), -INF)
    logits[0, [7, 3]] = torch.tensor([1.0, 0.0])
    out = chain(logits)
    assert out["top_tokens"][0].tolist() == [7, 3] + [-1] * 18
    assert (out["top_logprobs"][0, 2:] == -INF).all()
    assert out["top_logprobs"][0, :2].exp().sum().item() == pytest.approx(1)


WIDE = [*SIZES, 1279, 1280, 1281, 1295, 3333, 12_799, 12_800, 12_801, 12_817, 40_000]


@pytest.mark.parametrize("vocab", WIDE)
@pytest.mark.parametrize("scale", [0.0, 0.2, 4.0])
def test_largest(chain, vocab, scale):
    """All that matter to BoostedProb, whatever shortcut finds them; scale 0 ties all, the next leaves many."""
    out = chain((random_logits(3, vocab, scale) * 8).round() / 8)
    ordered = out["log_probabilities"].sort(-1, descending=True).values
    width = out["largest"].shape[-1]
    assert min(20, vocab) <= width <= min(200, vocab)
    assert torch.equal(out["largest"], ordered[:, :width])
    assert width == 200 or (ordered[:, width:].exp() <= 0.005).all()


@pytest.mark.parametrize("vocab", WIDE)
@pytest.mark.parametrize("scale", [0.0, 0.2, 4.0])
def test_largest_tokens(chain, vocab, scale):
    out = chain((random_logits(3, vocab, scale) * 8).round() / 8)
    width = out["largest_tokens"].shape[-1]
    assert min(20, vocab) <= width <= min(200, vocab)
    assert torch.equal(out["log_probabilities"].gather(-1, out["largest_tokens"]), out["largest"][:, :width])
    assert all(len(set(row)) == width for row in out["largest_tokens"].tolist())
    k = min(20, vocab)
    own = out["log_probabilities"].gather(-1, out["top_tokens"][:, :k].long())
    assert torch.equal(own, out["top_logprobs"][:, :k])


def test_the_largest_of_a_peaked_row_beside_a_flat_one(chain):
    """Rows that are reduced together may differ in how many tokens matter."""
    logits = torch.zeros(3, 5000)
    logits[0, 4321] = 30.0
    logits[1, 100:280] = 20.0
    tokens = [4321, 279, 280]
    together = chain(logits, tokens)
    np.testing.assert_allclose(together["boosted_probability"], [1, 1, 1 / 5000], rtol=1e-4)
    for row in range(3):
        alone = chain(logits[row : row + 1], tokens[row : row + 1])
        for name in ("top_logprobs", "boosted_probability", "rank"):
            assert torch.equal(alone[name][0], together[name][row]), name


# --- BoostedProb


def boosted_by_loop(logits, token):
    """The definition, one token at a time, in float64."""
    z = [float(v) for v in logits]
    top = max(z)
    w = [math.exp(v - top) for v in z]
    p = [v / math.fsum(w) for v in w]
    order = sorted(range(len(p)), key=lambda v: -p[v])
    last = -1
    for i in range(len(p) - 1):
        drop = p[order[i]] - p[order[i + 1]]
        if drop > 0.3 * p[order[i]] and drop > 0.005:
            last = i
    dominant = order[: last + 1]
    return math.fsum(p[v] for v in dominant) if token in dominant else p[token]


@pytest.mark.parametrize("vocab", [v for v in SIZES if v > 1])
@pytest.mark.parametrize("scale", [0.3, 1.0, 3.0, 8.0])
def test_boosted_probability(chain, vocab, scale):
    logits = random_logits(12, vocab, scale, seed=vocab)
    tokens = torch.where(torch.arange(12) % 2 == 0, logits.argmax(-1), random_tokens(12, vocab))
    expected = [boosted_by_loop(row, int(t)) for row, t in zip(logits, tokens)]
    np.testing.assert_allclose(chain(logits, tokens)["boosted_probability"], expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("p", "token", "expected"),
    [
        ([0.5, 0.4, 0.06, 0.04], 1, 0.96),  # .06 -> .04 is the last drop above 30 %
        ([0.5, 0.4, 0.06, 0.04], 3, 0.04),
        ([0.45, 0.45, 0.05, 0.05], 1, 0.9),  # two tied tokens dominate
        ([0.45, 0.45, 0.05, 0.05], 2, 0.05),
        ([0.25, 0.25, 0.25, 0.25], 2, 0.25),  # no drop, nobody dominates
        ([0.5, 0.5, 0.0, 0.0], 0, 1.0),
        ([1.0, 0.0, 0.0, 0.0], 0, 1.0),
        ([1.0, 0.0, 0.0, 0.0], 3, 0.0),
        ([0.28, 0.26, 0.24, 0.22], 0, 0.28),  # drops too small
        ([0.9, 0.1], 1, 0.1),
        ([1.0], 0, 1.0),
    ],
)
def test_boosted_probability_by_hand(chain, p, token, expected):
    assert chain(of([p]), [token])["boosted_probability"].item() == pytest.approx(expected, abs=1e-6)


def test_boosted_probability_looks_only_at_drops_above_half_a_percent(chain):
    p = [0.99 - 0.006 - 0.001, 0.0075, 0.0014, 0.0001]
    p = [v / sum(p) for v in p]
    # .0075 -> .0014 drops by .0061, counted; .0014 -> .0001 by .0013, not counted
    assert chain(of([p]), [0])["boosted_probability"].item() == pytest.approx(p[0] + p[1], abs=1e-6)
    assert chain(of([p]), [2])["boosted_probability"].item() == pytest.approx(p[2], rel=1e-4)


def test_boosted_probability_sees_the_199th_token(chain):
    """198 equal tokens above the cut and a long flat tail: the last cut is as deep as a cut can be."""
    p = [1 / 198 - 1e-6] * 198 + [198e-6 / 5000] * 5000
    out = chain(of([p, p]), [197, 4000])["boosted_probability"]
    np.testing.assert_allclose(out, [1 - 198e-6, 198e-6 / 5000], rtol=1e-4)
